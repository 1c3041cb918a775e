// Were groups of requests served at equal precision where their complexity was equal? Pure: rows
// in, a report out, the same one every time.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "server/audit/decision.h"

namespace lift {

struct ParityRow {
  std::string group;
  // What else lawfully decides: rows are only compared with rows of the same one.
  std::string stratum;
  std::string variant;
  double score = 0;   // complexity
  double lambda = 0;  // the precision that is compared
};

enum class ParityBy { kTenant, kLanguage, kClass };
// Names of groups and of what made the decision: weights, policy, resident variants, floors and
// the queue's pressure in steps of a tenth. False: the row says nothing (pinned, or nobody's).
// served: compares the mean over the answer's tokens, not what the router chose.
bool ToParityRow(const RoutingDecision& decision, ParityBy by, bool served, ParityRow& row);

struct ParityOptions {
  double alpha = 0.01;      // chance that a fair log is called unfair, all groups together
  double tolerance = 0.01;  // relative differences up to this are called negligible
  double margin = 0.05;     // a group is called equal if its interval is within this
  int64_t fewest_permutations = 1999;
};

enum class ParityVerdict { kEqual, kWorse, kBetter, kNegligible, kUnknown };
std::string_view ParityVerdictName(ParityVerdict verdict);  // "equal", "worse", ...

struct ParityGroup {
  std::string name;
  int64_t rows = 0, compared = 0;  // compared: those with somebody else's in their stratum
  double mean_score = 0, mean_lambda = 0;
  double low = 0, median = 0, high = 0;     // 10th, 50th and 90th percentile of lambda
  std::map<std::string, int64_t> variants;  // rows at each
  // Of the compared rows: lambda minus that of the others at equal complexity.
  double difference = 0, interval = 0;  // +- at 95 %
  double reference = 0;                 // the others' mean lambda where they are compared
  double p = 1, adjusted_p = 1;         // two-sided; Holm over the groups
  ParityVerdict verdict = ParityVerdict::kUnknown;
  double relative() const { return reference > 0 ? difference / reference : 0; }
  double relative_interval() const { return reference > 0 ? interval / reference : 0; }
};

struct ParityReport {
  int64_t rows = 0, strata = 0, permutations = 0;  // 0 permutations: the normal approximation
  std::vector<ParityGroup> groups;                 // by name
  bool fair() const;                               // no group is kWorse or kBetter
};

ParityReport CompareGroups(std::vector<ParityRow> rows, const ParityOptions& options);

}  // namespace lift
