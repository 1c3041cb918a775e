// Other values for some of a model's matrices, for as long as the object lives.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/model/weights.h"

namespace lift {

class WeightOverrides {
 public:
  explicit WeightOverrides(Weights& weights) : weights_(weights) {}
  ~WeightOverrides() {
    for (const auto& [name, values] : values_) weights_.OverrideDense(name, nullptr);
  }
  WeightOverrides(const WeightOverrides&) = delete;
  WeightOverrides& operator=(const WeightOverrides&) = delete;

  // Where the caller writes the matrix [size floats, rows times columns], uninitialised.
  float* Add(const std::string& name, size_t size) {
    values_.emplace_back(name, std::make_unique_for_overwrite<float[]>(size));
    weights_.OverrideDense(name, values_.back().second.get());
    return values_.back().second.get();
  }

 private:
  Weights& weights_;
  std::vector<std::pair<std::string, std::unique_ptr<float[]>>> values_;
};

}  // namespace lift
