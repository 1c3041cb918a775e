#include <algorithm>

#include "kernels/cuda/lift.h"
#include "kernels/cuda/lift.inl.h"

namespace lift::cuda {
namespace {

struct LiftParams {
  SiteTable site;
  const float* x;
  const uint8_t* variants;
  RowMemory memory;
  int32_t parts, unused;
};

// A block for every slot and token.
__global__ void __launch_bounds__(kLiftThreads) LiftKernel(const __grid_constant__ LiftParams p) {
  const int64_t token = blockIdx.y;
  float* z = RowOf(p.memory, token * gridDim.x + blockIdx.x);
  LiftSlotOf(p.site, static_cast<int>(blockIdx.x), p.x + token * p.site.rotation.cols,
             p.variants[token], p.parts, token, z);
}

}  // namespace

int64_t LiftRowFloats(const SiteTable& site) {
  int32_t steps = 0;
  for (int s = 0; s < site.slots; ++s) steps = std::max(steps, site.slot[s].code.steps);
  const int64_t spare = site.rotation.odd > kMixInRegisters ? site.rotation.cols : 0;
  return (site.blocks * 32 + steps + spare + 3) / 4 * 4;
}

size_t LiftSharedBytes(const SiteTable& site, size_t limit) {
  const size_t bytes = static_cast<size_t>(LiftRowFloats(site)) * sizeof(float);
  return bytes <= limit ? bytes : 0;
}

void QueueLift(CommandQueue& queue, const SiteTable& site, const float* x, int64_t tokens,
               int32_t parts, const uint8_t* variants, float* scratch, size_t shared_limit) {
  if (tokens == 0 || site.slots == 0) return;
  const size_t shared = LiftSharedBytes(site, shared_limit);
  LIFT_CHECK(shared > 0 || scratch != nullptr);
  constexpr int64_t kMaxGridY = 65535;
  LIFT_CHECK(tokens <= kMaxGridY);
  const RowMemory memory{shared > 0 ? nullptr : scratch, LiftRowFloats(site)};
  queue.Launch("lifting", LiftKernel,
               dim3(static_cast<unsigned>(site.slots), static_cast<unsigned>(tokens)),
               dim3(kLiftThreads), shared, LiftParams{site, x, variants, memory, parts, 0});
}

}  // namespace lift::cuda
