#include "server/client/parity_text.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace lift::client {
namespace {

using nlohmann::json;

const char* ByName(ParityBy by) {
  return by == ParityBy::kTenant ? "tenant" : by == ParityBy::kLanguage ? "language" : "class";
}

std::string Title(const ParityReport& report, const ParityScope& scope) {
  return absl::StrFormat(
      "Precision by %s at equal complexity: %d decisions (%d pinned or the server's own left out), "
      "compared within\n%d kinds of circumstances (weights, policy, resident variants, floors, "
      "pressure of the queue). lambda: %s.\n",
      ByName(scope.by), report.rows, scope.left_out, report.strata,
      scope.served ? "mean over the answer's tokens" : "of the variant the router chose");
}

std::string Table(const ParityReport& report, const ParityScope& scope) {
  size_t width = 8;
  for (const ParityGroup& group : report.groups) width = std::max(width, group.name.size());
  const int w = static_cast<int>(std::min<size_t>(width, 32));
  std::string text = absl::StrFormat("\n%-*s %7s %7s %6s %6s  %5s %5s %5s  %9s %8s %8s  %s\n", w,
                                     ByName(scope.by), "n", "compared", "score", "lambda", "10%",
                                     "50%", "90%", "diff", "+- 95%", "p", "");
  for (const ParityGroup& g : report.groups) {
    absl::StrAppendFormat(&text, "%-*s %7d %8d %6.2f %6.3f  %5.3f %5.3f %5.3f ", w, g.name, g.rows,
                          g.compared, g.mean_score, g.mean_lambda, g.low, g.median, g.high);
    if (g.compared == 0) {
      absl::StrAppend(&text, "        -        -        -  ");
    } else {
      absl::StrAppendFormat(&text, "%+8.2f%% %7.2f%% %8.4f  ", 100 * g.relative(),
                            100 * g.relative_interval(), g.adjusted_p);
    }
    absl::StrAppend(&text, std::string(ParityVerdictName(g.verdict)), "\n");
  }
  absl::StrAppend(&text,
                  "\ndiff: lambda against that of the others at equal score and circumstances; "
                  "p: two-sided, ",
                  report.permutations > 0
                      ? absl::StrCat(report.permutations, " permutations within cells")
                      : "normal approximation",
                  ", Holm over groups.\n");
  return text;
}

std::string Names(const ParityReport& report, ParityVerdict verdict) {
  std::string names;
  for (const ParityGroup& group : report.groups) {
    if (group.verdict == verdict) absl::StrAppend(&names, names.empty() ? "" : ", ", group.name);
  }
  return names;
}

std::string Findings(const ParityReport& report, const ParityScope& scope) {
  std::string text;
  for (const ParityGroup& g : report.groups) {
    if (g.verdict != ParityVerdict::kWorse && g.verdict != ParityVerdict::kBetter) continue;
    absl::StrAppendFormat(&text,
                          "VERDICT: %s %s is served %.1f %% %s than others at equal "
                          "complexity (p = %.4f).\n",
                          ByName(scope.by), g.name, 100 * std::abs(g.relative()),
                          g.verdict == ParityVerdict::kWorse ? "worse" : "better", g.adjusted_p);
  }
  if (!text.empty()) return text;
  const std::string unknown = Names(report, ParityVerdict::kUnknown);
  const std::string equal = Names(report, ParityVerdict::kEqual);
  if (report.groups.size() < 2) {
    return absl::StrCat("VERDICT: none; there are no two groups to compare.\n");
  }
  text = "VERDICT: no group is found to be served worse or better than others.\n";
  if (!equal.empty()) {
    absl::StrAppendFormat(&text, "Equal within %.0f %%: %s.\n", 100 * scope.options.margin, equal);
  }
  if (!unknown.empty()) {
    absl::StrAppendFormat(&text,
                          "Too few comparable decisions to exclude a difference of %.0f %%: %s.\n",
                          100 * scope.options.margin, unknown);
  }
  return text;
}

const char* Meaning(ParityBy by) {
  if (by == ParityBy::kTenant) {
    return "A tenant is no lawful input of routing: the router is not told. A difference here is a "
           "defect or a change of the log.\n";
  }
  return by == ParityBy::kLanguage
             ? "Language may lawfully make a prompt harder, which shows in `score` and mean "
               "lambda. "
               "At equal score it may not\nmatter: a difference here says that the score misjudges "
               "prompts of that language.\n"
             : "The class of a prompt lawfully makes it harder, which shows in `score` and mean "
               "lambda. At equal score it may\nnot matter: a difference here says that the score "
               "misjudges prompts of that class.\n";
}

}  // namespace

std::string ParityText(const ParityReport& report, const ParityScope& scope) {
  return absl::StrCat(Title(report, scope), Table(report, scope), "\n", Findings(report, scope),
                      Meaning(scope.by));
}

std::string ParityJson(const ParityReport& report, const ParityScope& scope) {
  json out{{"by", ByName(scope.by)},
           {"measure", scope.served ? "served" : "chosen"},
           {"rows", report.rows},
           {"left_out", scope.left_out},
           {"strata", report.strata},
           {"permutations", report.permutations},
           {"alpha", scope.options.alpha},
           {"tolerance", scope.options.tolerance},
           {"margin", scope.options.margin},
           {"fair", report.fair()},
           {"groups", json::array()}};
  for (const ParityGroup& g : report.groups) {
    out["groups"].push_back({{"group", g.name},
                             {"rows", g.rows},
                             {"compared", g.compared},
                             {"mean_score", g.mean_score},
                             {"mean_lambda", g.mean_lambda},
                             {"lambda_p10", g.low},
                             {"lambda_p50", g.median},
                             {"lambda_p90", g.high},
                             {"variants", g.variants},
                             {"difference", g.difference},
                             {"interval_95", g.interval},
                             {"relative_difference", g.relative()},
                             {"relative_interval_95", g.relative_interval()},
                             {"p", g.p},
                             {"adjusted_p", g.adjusted_p},
                             {"verdict", std::string(ParityVerdictName(g.verdict))}});
  }
  return out.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace lift::client
