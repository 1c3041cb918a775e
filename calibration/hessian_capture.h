// Second moments of every layer input, gathered while the model runs.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>

#include "calibration/hessian.h"
#include "server/model/transformer.h"

namespace lift {

// Sums X^T X of every site of the layer that is running.
class HessianCapture : public ActivationObserver {
 public:
  HessianCapture(Backend& backend, ThreadPool& pool) : backend_(backend), pool_(pool) {}
  void OnInput(const std::string& site, const float* x, int64_t tokens, int64_t dim) override {
    auto it = sites_.find(site);
    if (it == sites_.end()) it = sites_.emplace(site, Hessian(dim)).first;
    it->second.Accumulate(backend_, pool_, x, tokens);
  }
  // What was summed of the site, which is forgotten; none if it had no input.
  std::optional<Hessian> Take(const std::string& site) {
    auto node = sites_.extract(site);
    if (node.empty()) return std::nullopt;
    return std::move(node.mapped());
  }
  void Clear() { sites_.clear(); }

 private:
  Backend& backend_;
  ThreadPool& pool_;
  std::map<std::string, Hessian> sites_;
};

}  // namespace lift
