#include "server/memory/budget.h"

#include <span>

namespace lift {

int VariantsWithin(const std::vector<VariantInfo>& variants, uint64_t bytes) {
  int count = 0;
  for (const VariantInfo& variant : variants) {
    if (variant.incremental_bytes > bytes) break;
    bytes -= variant.incremental_bytes;
    ++count;
  }
  return count;
}

uint64_t BytesOf(const std::vector<VariantInfo>& variants, int count) {
  uint64_t bytes = 0;
  for (const VariantInfo& v : std::span(variants).first(static_cast<size_t>(count))) {
    bytes += v.incremental_bytes;
  }
  return bytes;
}

}  // namespace lift
