#include "tests/bench/serve/summary.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace lift::bench {
namespace {

using nlohmann::json;

struct Latencies {
  std::vector<double> ttft, itl, total;
};

Latencies LatenciesOf(const std::vector<Outcome>& outcomes) {
  Latencies all;
  for (const Outcome& o : outcomes) {
    if (o.tokens > 0) all.ttft.push_back(o.ttft);
    all.itl.insert(all.itl.end(), o.gaps.begin(), o.gaps.end());
    if (o.error.empty() && !o.cancelled) all.total.push_back(o.total);
  }
  return all;
}

json Percentiles(std::vector<double> values) {
  json out = json::object();
  for (const double p : {50.0, 90.0, 95.0, 99.0}) {
    out[absl::StrCat("p", p)] = Percentile(values, p);
  }
  out["max"] = values.empty() ? 0 : values.back();
  out["count"] = values.size();
  return out;
}

bool MeetsSlo(const ServeFlags& flags, const Outcome& o) {
  if (!o.error.empty() || o.cancelled || o.ttft > flags.slo_ttft) return false;
  std::vector<double> gaps = o.gaps;
  return Percentile(gaps, 99) <= flags.slo_itl;
}

std::string Curve(std::vector<double> values, const char* color, const char* name, int row) {
  std::sort(values.begin(), values.end());
  std::string points;
  constexpr int kPoints = 200;
  for (int i = 0; i <= kPoints && !values.empty(); ++i) {
    const size_t rank = (values.size() - 1) * static_cast<size_t>(i) / kPoints;
    // 0.1 ms to 100 s over six decades.
    const double x = 60 + 115 * (std::log10(std::clamp(values[rank], 1e-4, 100.0)) + 4);
    absl::StrAppendFormat(&points, "%.1f,%.1f ", x, 350 - 300.0 * i / kPoints);
  }
  return absl::StrFormat(
      "<polyline fill='none' stroke='%s' stroke-width='2' points='%s'/>"
      "<text x='70' y='%d' fill='%s'>%s</text>\n",
      color, points, 70 + 18 * row, color, name);
}

}  // namespace

double Percentile(std::vector<double>& values, double percent) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const auto rank =
      static_cast<size_t>(std::ceil(percent / 100 * static_cast<double>(values.size())));
  return values[std::clamp<size_t>(rank, 1, values.size()) - 1];
}

double JainIndex(const std::vector<double>& values) {
  double sum = 0, squares = 0;
  for (const double v : values) {
    sum += v;
    squares += v * v;
  }
  return squares == 0 ? 1 : sum * sum / (static_cast<double>(values.size()) * squares);
}

json Summarize(const ServeFlags& flags, const std::vector<Outcome>& outcomes,
               double elapsed_seconds) {
  int64_t good = 0, finished = 0, cancelled = 0, tokens = 0, short_answers = 0;
  std::map<std::string, int64_t> errors;
  std::map<std::string, double> by_tenant;
  for (const Outcome& o : outcomes) {
    const bool ended_well = o.error.empty() && !o.cancelled;
    good += MeetsSlo(flags, o);
    finished += ended_well;
    cancelled += o.cancelled;
    tokens += o.tokens;
    short_answers += ended_well && o.tokens != o.asked_tokens;
    if (!o.error.empty()) ++errors[o.error];
    by_tenant[o.tenant.empty() ? "default" : o.tenant] += static_cast<double>(o.tokens);
  }
  std::vector<double> shares;
  for (const auto& [tenant, share] : by_tenant) shares.push_back(share);
  const Latencies latencies = LatenciesOf(outcomes);
  return {{"requests", outcomes.size()},
          {"finished", finished},
          {"cancelled", cancelled},
          {"errors", errors},
          {"answers_of_wrong_length", short_answers},
          {"seconds", elapsed_seconds},
          {"tokens", tokens},
          {"tokens_per_second", static_cast<double>(tokens) / elapsed_seconds},
          {"requests_per_second", static_cast<double>(finished) / elapsed_seconds},
          {"goodput_requests_per_second", static_cast<double>(good) / elapsed_seconds},
          {"slo", {{"ttft_seconds", flags.slo_ttft}, {"itl_seconds", flags.slo_itl}}},
          {"tokens_by_tenant", by_tenant},
          {"tenant_fairness_index", JainIndex(shares)},
          {"ttft_seconds", Percentiles(latencies.ttft)},
          {"inter_token_seconds", Percentiles(latencies.itl)},
          {"end_to_end_seconds", Percentiles(latencies.total)}};
}

std::string SummaryTable(const json& summary) {
  std::string out = absl::StrFormat("%-22s %10s %10s %10s %10s %10s\n", "milliseconds", "p50",
                                    "p90", "p95", "p99", "max");
  for (const char* name : {"ttft_seconds", "inter_token_seconds", "end_to_end_seconds"}) {
    const json& row = summary.at(name);
    absl::StrAppendFormat(&out, "%-22s", std::string(name, std::string(name).rfind('_')));
    for (const char* p : {"p50", "p90", "p95", "p99", "max"}) {
      absl::StrAppendFormat(&out, " %10.2f", row.at(p).get<double>() * 1e3);
    }
    out += "\n";
  }
  absl::StrAppendFormat(&out, "%d requests in %.1f s: %d finished, %d cancelled, errors %s\n",
                        summary.at("requests").get<int64_t>(), summary.at("seconds").get<double>(),
                        summary.at("finished").get<int64_t>(),
                        summary.at("cancelled").get<int64_t>(), summary.at("errors").dump());
  absl::StrAppendFormat(&out, "%.1f tokens/s, %.2f requests/s, %.2f of them within the SLO\n",
                        summary.at("tokens_per_second").get<double>(),
                        summary.at("requests_per_second").get<double>(),
                        summary.at("goodput_requests_per_second").get<double>());
  return out;
}

std::string SummaryPlot(const std::vector<Outcome>& outcomes) {
  const Latencies all = LatenciesOf(outcomes);
  std::string out =
      "<svg xmlns='http://www.w3.org/2000/svg' width='800' height='400' font-family='sans-serif' "
      "font-size='13'>\n<rect width='800' height='400' fill='white'/>\n";
  const char* labels[] = {"0.1 ms", "1 ms", "10 ms", "100 ms", "1 s", "10 s", "100 s"};
  for (int i = 0; i < 7; ++i) {
    absl::StrAppendFormat(&out,
                          "<line x1='%d' y1='50' x2='%d' y2='350' stroke='#ddd'/>"
                          "<text x='%d' y='370' text-anchor='middle'>%s</text>\n",
                          60 + 115 * i, 60 + 115 * i, 60 + 115 * i, labels[i]);
  }
  out += "<text x='60' y='30'>share of observations at most this long, 0 to 1</text>\n";
  out += Curve(all.ttft, "#1f77b4", "time to first token", 0);
  out += Curve(all.itl, "#2ca02c", "inter-token latency", 1);
  out += Curve(all.total, "#d62728", "end to end", 2);
  return out + "</svg>\n";
}

}  // namespace lift::bench
