// Second moments of every layer input, gathered while the model runs.
#pragma once

#include <map>
#include <string>

#include "calibration/hessian.h"
#include "server/model/transformer.h"

namespace lift {

// Sums X^T X of every site of the layer that is running.
class HessianCapture : public ActivationObserver {
 public:
  explicit HessianCapture(Backend& backend) : backend_(backend) {}
  void OnInput(const std::string& site, const float* x, int64_t tokens, int64_t dim) override {
    auto it = sites_.find(site);
    if (it == sites_.end()) it = sites_.emplace(site, Hessian(dim)).first;
    it->second.Accumulate(backend_, x, tokens);
  }
  const Hessian* Find(const std::string& site) const {
    const auto it = sites_.find(site);
    return it == sites_.end() ? nullptr : &it->second;
  }
  void Clear() { sites_.clear(); }

 private:
  Backend& backend_;
  std::map<std::string, Hessian> sites_;
};

}  // namespace lift
