// A model's variants as the router may know them.
#pragma once

#include <span>
#include <vector>

#include "kernels/format/lifted_file.h"
#include "router/router.h"

namespace lift {

inline std::vector<router::VariantView> ViewsOf(std::span<const LiftedVariant> variants) {
  std::vector<router::VariantView> views;
  for (const LiftedVariant& v : variants) {
    // The source does not diverge from itself.
    views.push_back({v.name, v.lambda, v.bits_per_weight, v.full && v.kl < 0 ? 0 : v.kl, v.bytes});
  }
  return views;
}

}  // namespace lift
