#include "calibration/variant_plan.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "server/model/model_layout.h"

namespace lift {

uint64_t PlannedFixedBytes(const ModelConfig& config) {
  uint64_t bytes = 0;
  for (const auto& m : layout::Matrices(config)) bytes += static_cast<uint64_t>(m.rows) * 2;
  for (const auto& v : layout::Vectors(config)) bytes += static_cast<uint64_t>(v.size) * 4;
  return bytes;
}

absl::StatusOr<std::vector<LiftedVariant>> PlanVariants(std::span<const VariantRequest> requests,
                                                        int64_t weights, uint64_t fixed_bytes) {
  std::vector<LiftedVariant> planned;
  for (const VariantRequest& request : requests) {
    LiftedVariant variant;
    double& bits = variant.bits_per_weight;
    if (request.lambda && *request.lambda >= 1.0) {
      variant.full = true;
    } else if (request.lambda) {
      bits = std::pow(16.0, *request.lambda);
    } else if (request.bits) {
      bits = *request.bits;
    } else {
      const double budget = static_cast<double>(*request.budget_bytes),
                   fixed = static_cast<double>(fixed_bytes), count = static_cast<double>(weights);
      variant.budget_bytes = *request.budget_bytes;
      bits = (budget - fixed) * 8 / count;
      if (bits < 1.0) {
        return absl::InvalidArgumentError(
            absl::StrCat("a budget of ", budget / 1e6,
                         " MB is too small for this model: one bit per weight needs ",
                         std::ceil((count / 8 + fixed) / 1e5) / 10, " MB"));
      }
      bits = std::min(bits, 12.0);
    }
    if (!variant.full && !(bits >= 1.0 && bits <= 12.0)) {
      return absl::InvalidArgumentError(
          absl::StrCat("a variant of ", bits,
                       " bits per weight is out of range: choose 1 to 12 bits (lambda 0 to 0.89) "
                       "or lambda 1"));
    }
    planned.push_back(std::move(variant));
  }
  return planned;
}

std::vector<TensorCost> PlannedCosts(const ModelConfig& config, const std::vector<int>& chain,
                                     std::span<const Strip> strips) {
  std::vector<TensorCost> costs;
  const auto add = [&](const std::string& name, int64_t rows, int64_t cols,
                       const std::vector<int>& sizes) {
    costs.push_back({name, {}, {}, 0});
    for (const int bits : sizes) {
      costs.back().stage_bytes.push_back(
          static_cast<uint64_t>(PaddedRows(rows) * PaddedColumns(cols) / 8 * bits));
    }
  };
  for (const auto& m : layout::Matrices(config)) {
    if (m.name != layout::HeadName(config) && m.name != layout::kEmbedding) {
      add(m.name, m.rows, m.cols, chain);
      continue;
    }
    for (const Strip& strip : strips)
      add(m.name, strip.rows, m.cols, StripChain(chain, strip.weight));
  }
  return costs;
}

std::vector<int> ChainForVariants(std::span<const LiftedVariant> variants, int64_t weights,
                                  std::span<const TensorCost> one_bit) {
  double padding = 0;
  for (const TensorCost& cost : one_bit) padding += static_cast<double>(cost.stage_bytes[0]);
  padding *= 8 / static_cast<double>(weights);
  std::vector<double> bits;
  for (const LiftedVariant& variant : variants) {
    if (!variant.full) bits.push_back(std::max(1.0, variant.bits_per_weight / padding));
  }
  return ChainForBits(bits.empty() ? std::vector<double>{4.0} : bits);
}

absl::Status PlaceVariants(std::span<const TensorCost> tensors, int64_t weights,
                           std::vector<LiftedVariant>& variants) {
  uint64_t all = 0, base = 0;
  for (const TensorCost& cost : tensors) {
    base += cost.stage_bytes[0];
    for (uint64_t bytes : cost.stage_bytes) all += bytes;
  }
  for (LiftedVariant& v : variants) {
    if (v.full) {
      v.name = "full";
      continue;
    }
    const uint64_t bytes =
        static_cast<uint64_t>(std::llround(v.bits_per_weight * static_cast<double>(weights) / 8));
    if (bytes + static_cast<uint64_t>(weights) / 800 < base) {
      return absl::InvalidArgumentError(
          absl::StrCat("a variant of ", v.bits_per_weight,
                       " bits per weight is below the first stages of this chain, which take ",
                       8.0 * static_cast<double>(base) / static_cast<double>(weights),
                       "; ask for more bits or a chain with a smaller first stage"));
    }
    v.plane_bytes = std::clamp(bytes, base, all);
    char name[32];
    std::snprintf(name, sizeof name, "q%.2f", v.bits_per_weight);
    v.name = name;
    if (v.name.back() == '0') v.name.pop_back();
    v.wide_stages = WideStages(v.bits_per_weight);
  }
  std::sort(variants.begin(), variants.end(), [](const auto& a, const auto& b) {
    return a.full != b.full ? b.full : a.plane_bytes < b.plane_bytes;
  });
  for (size_t i = 1; i < variants.size(); ++i) {
    if (variants[i].name == variants[i - 1].name)
      return absl::InvalidArgumentError(
          absl::StrCat("variant ", variants[i].name, " was asked for twice"));
    if (!variants[i].full && variants[i].plane_bytes == variants[i - 1].plane_bytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "variants ", variants[i - 1].name, " and ", variants[i].name,
          " would hold the same planes: this chain has at most ",
          8.0 * static_cast<double>(all) / static_cast<double>(weights), " bits per weight"));
    }
  }
  return absl::OkStatus();
}

void DropUnused(std::span<const LiftedVariant> variants, std::vector<PlaneUnit>& order,
                std::vector<TensorCost>& tensors) {
  uint64_t wanted = 0, kept = 0;
  for (const LiftedVariant& v : variants) {
    if (!v.full) wanted = std::max(wanted, v.plane_bytes);
  }
  if (wanted == 0) return;
  size_t used = 0;
  for (; used < order.size() && kept < wanted; ++used) {
    const PlaneUnit& unit = order[used];
    kept += tensors[static_cast<size_t>(unit.tensor)].stage_bytes[static_cast<size_t>(unit.stage)];
  }
  for (size_t i = used; i < order.size(); ++i) {
    TensorCost& tensor = tensors[static_cast<size_t>(order[i].tensor)];
    tensor.stage_bytes.pop_back();
    tensor.error.pop_back();
  }
  order.resize(used);
}

absl::StatusOr<bool> FitBudgets(const LiftedFile& file, std::vector<LiftedVariant>& variants) {
  uint64_t base = 0;
  for (const LiftedTensor& tensor : file.tensors()) base += tensor.stages.front().bytes;
  bool changed = false;
  for (LiftedVariant& v : variants) {
    if (v.full || v.budget_bytes == 0 || file.fixed_bytes() + v.plane_bytes <= v.budget_bytes)
      continue;
    if (v.budget_bytes < file.fixed_bytes() + base) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a budget of ", static_cast<double>(v.budget_bytes) / 1e6,
          " MB is too small for this chain: its first stages need ",
          std::ceil(static_cast<double>(file.fixed_bytes() + base) / 1e4) / 100, " MB"));
    }
    v.plane_bytes = v.budget_bytes - file.fixed_bytes();
    changed = true;
  }
  return changed;
}

nlohmann::json CostsJson(std::span<const TensorCost> tensors) {
  nlohmann::json out = nlohmann::json::array();
  for (const TensorCost& cost : tensors)
    out.push_back({{"name", cost.name}, {"sensitivity", cost.sensitivity}, {"error", cost.error}});
  return out;
}

absl::StatusOr<std::vector<TensorCost>> CostsOf(const LiftedFile& file) {
  const auto unusable = [&](std::string_view why) {
    return absl::FailedPreconditionError(
        absl::StrCat("the calibration report in '", file.path(), "' ", std::string(why),
                     "; calibrate the model with this version to plan with it"));
  };
  const nlohmann::json report = nlohmann::json::parse(file.report_json(), nullptr, false);
  if (!report.is_object() || !report.contains("tensors") || !report["tensors"].is_array())
    return unusable("names no tensors");
  std::map<std::string, const nlohmann::json*> entries;
  for (const nlohmann::json& entry : report["tensors"]) {
    if (!entry.is_object() || !entry.contains("name") || !entry["name"].is_string())
      return unusable("names no tensors");
    entries[entry["name"].get<std::string>()] = &entry;
  }
  std::vector<TensorCost> costs;
  for (const LiftedTensor& tensor : file.tensors()) {
    const auto found = entries.find(tensor.name);
    if (found == entries.end()) return unusable(absl::StrCat("lacks tensor '", tensor.name, "'"));
    const nlohmann::json& entry = *found->second;
    TensorCost cost;
    cost.name = tensor.name;
    for (const LiftStage& stage : tensor.stages) cost.stage_bytes.push_back(stage.bytes);
    const auto error = entry.find("error"), sensitivity = entry.find("sensitivity");
    if (error == entry.end() || !error->is_array() || sensitivity == entry.end() ||
        !sensitivity->is_number() || error->size() != tensor.stages.size() + 1)
      return unusable(absl::StrCat("says too little of tensor '", tensor.name, "'"));
    for (const nlohmann::json& e : *error) {
      if (!e.is_number()) return unusable("holds an error that is no number");
      cost.error.push_back(e.get<double>());
    }
    cost.sensitivity = sensitivity->get<double>();
    costs.push_back(std::move(cost));
  }
  return costs;
}

double ExpectedKl(const LiftedFile& file, std::span<const TensorCost> tensors,
                  uint64_t plane_bytes) {
  struct Known {
    double bytes, log_ratio;
  };
  std::vector<Known> known;
  for (const LiftedVariant& v : file.variants()) {
    if (v.full || !(v.kl > 0)) continue;
    const double predicted = PredictedKl(tensors, file.plane_order(), v.plane_bytes);
    if (predicted > 0)
      known.push_back({static_cast<double>(v.plane_bytes), std::log(v.kl / predicted)});
  }
  double correction = 0;
  if (!known.empty()) {
    const double at = static_cast<double>(plane_bytes);
    const auto above =
        std::find_if(known.begin(), known.end(), [&](const Known& k) { return k.bytes >= at; });
    if (above == known.begin()) {
      correction = known.front().log_ratio;
    } else if (above == known.end()) {
      correction = known.back().log_ratio;
    } else {
      const Known &low = *(above - 1), &high = *above;
      const double share = (at - low.bytes) / (high.bytes - low.bytes);
      correction = low.log_ratio + share * (high.log_ratio - low.log_ratio);
    }
  }
  return PredictedKl(tensors, file.plane_order(), plane_bytes) * std::exp(correction);
}

}  // namespace lift
