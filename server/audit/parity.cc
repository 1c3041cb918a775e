#include "server/audit/parity.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "server/audit/parity_strata.h"

namespace lift {
namespace {

// Labels are permuted where that is affordable; where there are more rows, sums are normal.
constexpr int64_t kMostWork = 400'000'000, kMostPermutations = 99'999;

double Percentile(const std::vector<double>& sorted, double share) {
  const auto at = static_cast<size_t>(std::lround(share * static_cast<double>(sorted.size() - 1)));
  return sorted[at];
}

// Names, counts and distributions; rows are of any order.
std::vector<ParityGroup> Describe(const std::vector<ParityRow>& rows) {
  std::map<std::string, std::pair<ParityGroup, std::vector<double>>> groups;
  for (const ParityRow& row : rows) {
    auto& [group, lambdas] = groups[row.group];
    ++group.rows;
    group.mean_score += row.score;
    group.mean_lambda += row.lambda;
    ++group.variants[row.variant];
    lambdas.push_back(row.lambda);
  }
  std::vector<ParityGroup> described;
  for (auto& [name, entry] : groups) {
    auto& [group, lambdas] = entry;
    std::sort(lambdas.begin(), lambdas.end());
    group.name = name;
    group.mean_score /= static_cast<double>(group.rows);
    group.mean_lambda /= static_cast<double>(group.rows);
    group.low = Percentile(lambdas, 0.1);
    group.median = Percentile(lambdas, 0.5);
    group.high = Percentile(lambdas, 0.9);
    described.push_back(std::move(group));
  }
  return described;
}

// Enough for the smallest p that could count, and no more than is affordable.
int64_t Permutations(const ParityOptions& options, int64_t rows, size_t groups) {
  const auto wanted =
      static_cast<int64_t>(20 * static_cast<double>(groups) / std::max(options.alpha, 1e-6));
  const int64_t most = kMostWork / std::max<int64_t>(1, rows);
  if (most < options.fewest_permutations) return 0;
  return std::min({std::max(wanted, options.fewest_permutations), kMostPermutations, most});
}

ParityVerdict Judge(const ParityGroup& group, const ParityOptions& options) {
  if (group.compared == 0) return ParityVerdict::kUnknown;
  const double difference = group.relative(), interval = group.relative_interval();
  if (group.adjusted_p < options.alpha) {
    if (std::abs(difference) < options.tolerance) return ParityVerdict::kNegligible;
    return difference < 0 ? ParityVerdict::kWorse : ParityVerdict::kBetter;
  }
  const bool within = std::abs(difference) + interval <= options.margin;
  return within ? ParityVerdict::kEqual : ParityVerdict::kUnknown;
}

}  // namespace

bool ToParityRow(const RoutingDecision& d, ParityBy by, bool served, ParityRow& row) {
  // Who pinned was served what he named; names of the server's own begin with two underscores.
  if (d.pinned || d.tenant.starts_with("__")) return false;
  row.group = by == ParityBy::kTenant     ? d.tenant
              : by == ParityBy::kLanguage ? d.language
                                          : d.prompt_class;
  // How full the queue was matters in steps: a tenth of it moves hardly any decision.
  const auto pressure = std::lround(std::floor(std::clamp(d.queue_pressure, 0.0, 1.0) * 10));
  row.stratum =
      absl::StrCat(d.weights_sha256, "|", d.policy, "|", d.resident_variants, "|", d.min_lambda,
                   "|", d.max_quality_loss, "|", d.allow_fallback, "|", pressure);
  row.variant = d.variant;
  row.score = d.score;
  row.lambda = served ? d.served_lambda : d.lambda;
  return true;
}

std::string_view ParityVerdictName(ParityVerdict verdict) {
  switch (verdict) {
    case ParityVerdict::kEqual:
      return "equal";
    case ParityVerdict::kWorse:
      return "worse";
    case ParityVerdict::kBetter:
      return "better";
    case ParityVerdict::kNegligible:
      return "negligible";
    case ParityVerdict::kUnknown:
      return "unknown";
  }
  return "unknown";
}

bool ParityReport::fair() const {
  return std::none_of(groups.begin(), groups.end(), [](const ParityGroup& group) {
    return group.verdict == ParityVerdict::kWorse || group.verdict == ParityVerdict::kBetter;
  });
}

ParityReport CompareGroups(std::vector<ParityRow> rows, const ParityOptions& options) {
  ParityReport report;
  report.rows = static_cast<int64_t>(rows.size());
  report.groups = Describe(rows);
  const ParityCells cells = MakeCells(rows);
  report.strata = cells.strata;
  report.permutations = Permutations(options, report.rows, report.groups.size());
  const auto effects = MeasureEffects(cells, static_cast<int>(report.groups.size()));
  const auto p = PermutationTest(cells, effects, report.permutations);
  const auto adjusted = HolmAdjusted(p);
  for (size_t g = 0; g < report.groups.size(); ++g) {
    ParityGroup& group = report.groups[g];
    group.compared = effects[g].compared;
    if (effects[g].weight > 0) group.difference = effects[g].sum / effects[g].weight;
    group.interval = effects[g].interval;
    group.reference = effects[g].reference;
    group.p = p[g], group.adjusted_p = adjusted[g];
    group.verdict = Judge(group, options);
  }
  return report;
}

}  // namespace lift
