#include "tests/bench/capacity/step_costs.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace lift::bench {
namespace {

using nlohmann::json;

// Below the first point it is the first one's cost (a step reads the weights whatever it computes);
// beyond the last the last slope goes on, and never falls.
double At(const std::vector<StepCosts::Point>& points, double x) {
  if (x <= points.front().at || points.size() == 1) {
    const bool beyond = x > points.front().at;
    return points.front().seconds * (beyond ? x / points.front().at : 1);
  }
  size_t i = 1;
  while (i + 1 < points.size() && points[i].at < x) ++i;
  const StepCosts::Point &a = points[i - 1], &b = points[i];
  const double slope = (b.seconds - a.seconds) / (b.at - a.at);
  return x > b.at ? b.seconds + (x - b.at) * std::max(slope, 0.0) : a.seconds + (x - a.at) * slope;
}

absl::Status Missing(const std::string& what) {
  return absl::InvalidArgumentError(
      absl::StrCat("the measurements have no ", what, "; write them with lift-bench --json"));
}

// {size: seconds a step} from rates of tokens a second.
std::vector<StepCosts::Point> ToPoints(const std::map<int64_t, double>& rates) {
  std::vector<StepCosts::Point> points;
  for (const auto& [size, rate] : rates) {
    points.push_back({static_cast<double>(size), static_cast<double>(size) / rate});
  }
  return points;
}

}  // namespace

absl::StatusOr<StepCosts> StepCosts::FromBench(const std::string& text, const std::string& variant,
                                               int64_t context) {
  std::map<int64_t, std::map<int64_t, double>> decode;  // context -> batch -> tokens a second
  std::map<int64_t, double> prefill;
  try {
    const json document = json::parse(text);
    for (const json& point : document.at("decode")) {
      if (point.at("variant") != variant) continue;
      decode[point.at("context")][point.at("batch")] = point.at("tokens_per_second");
    }
    for (const json& point : document.at("prefill")) {
      prefill[point.at("tokens")] = point.at("tokens_per_second");
    }
  } catch (const json::exception& error) {
    return Missing(absl::StrCat("form that is known: ", error.what()));
  }
  if (decode.empty()) return Missing(absl::StrCat("decode point of variant '", variant, "'"));
  if (prefill.empty()) return Missing("prefill point");
  auto near = decode.lower_bound(context);
  if (near == decode.end()) --near;
  for (const auto* rates : {&near->second, &prefill}) {
    for (const auto& [size, rate] : *rates) {
      if (size < 1 || !(rate > 0)) return Missing("positive sizes and rates");
    }
  }
  return StepCosts(ToPoints(near->second), ToPoints(prefill));
}

double StepCosts::Seconds(int64_t batch, int64_t prompt_tokens) const {
  double seconds = 0;
  if (batch > 0) seconds += At(decode_, static_cast<double>(batch));
  if (prompt_tokens > 0) seconds += At(prefill_, static_cast<double>(prompt_tokens));
  return seconds;
}

}  // namespace lift::bench
