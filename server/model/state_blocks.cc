// Blocks of state out of the pool and back: a block is the same stretch of every layer's cache.
#include <algorithm>

#include "kernels/base/check.h"
#include "server/model/transformer.h"

namespace lift {

void Transformer::SaveBlock(int32_t block, std::span<std::byte> out) {
  LIFT_CHECK(static_cast<int64_t>(out.size()) == bytes_per_block());
  const int64_t layers = weights().config().num_layers;
  const size_t part = out.size() / static_cast<size_t>(layers);
  for (int64_t i = 0; i < layers; ++i) {
    const auto from = state(i).subspan(static_cast<size_t>(block) * part, part);
    std::copy(from.begin(), from.end(), out.begin() + i * static_cast<std::ptrdiff_t>(part));
  }
}

void Transformer::RestoreBlock(int32_t block, std::span<const std::byte> in) {
  LIFT_CHECK(static_cast<int64_t>(in.size()) == bytes_per_block());
  const int64_t layers = weights().config().num_layers;
  const size_t part = in.size() / static_cast<size_t>(layers);
  for (int64_t i = 0; i < layers; ++i) {
    const auto from = in.subspan(static_cast<size_t>(i) * part, part);
    const auto to = state(i).subspan(static_cast<size_t>(block) * part, part);
    std::copy(from.begin(), from.end(), to.begin());
  }
}

}  // namespace lift
