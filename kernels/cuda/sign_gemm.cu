#include "kernels/cuda/sign_gemm.h"
#include "kernels/cuda/sign_gemm.inl.h"

namespace lift::cuda {
namespace {

struct SignParams {
  ProductSet set;
  const uint8_t* variants;
  int64_t tokens;
};

// A block for every row tile and kColumns columns of activations.
template <int kColumns, bool kAnyCode>
__global__ void __launch_bounds__(kSignWarps* kWarpSize, kAnyCode ? 1 : 2)
    SignGemmKernel(const __grid_constant__ SignParams p) {
  __shared__ SignPartials partials;
  int i = 0;
  while (i + 1 < p.set.products && static_cast<int>(blockIdx.x) >= p.set.product[i + 1].first_tile)
    ++i;
  const ProductTable& product = p.set.product[i];
  const int64_t first = blockIdx.y * static_cast<int64_t>(kColumns / p.set.parts);
  SignProductTile<kColumns, kAnyCode>(p.set, product,
                                      static_cast<int64_t>(blockIdx.x) - product.first_tile,
                                      p.variants, p.set.parts, first, p.tokens, partials);
}

template <int kColumns>
void QueueColumns(CommandQueue& queue, const SignParams& params, bool any_code, int64_t tiles) {
  const int64_t each = kColumns / params.set.parts;
  queue.Launch(
      "the sign product",
      any_code ? SignGemmKernel<kColumns, true> : SignGemmKernel<kColumns, false>,
      dim3(static_cast<unsigned>(tiles), static_cast<unsigned>((params.tokens + each - 1) / each)),
      dim3(kSignWarps * kWarpSize), 0, params);
}

}  // namespace

void QueueSignGemm(CommandQueue& queue, const ProductSet& set, const uint8_t* variants,
                   int64_t tokens, int64_t tiles) {
  if (tokens == 0 || tiles == 0) return;
  const SignParams params{set, variants, tokens};
  bool any_code = false;
  for (int i = 0; i < set.products; ++i) {
    const ProductTable& product = set.product[i];
    for (int j = product.first_stage; j < product.first_stage + product.stages; ++j)
      any_code = any_code || !IsCommon(set.slot[set.stage[j].slot].code);
  }
  const int64_t columns = tokens * set.parts;
  if (columns <= 1) return QueueColumns<1>(queue, params, any_code, tiles);
  if (columns <= 2) return QueueColumns<2>(queue, params, any_code, tiles);
  if (columns <= 4) return QueueColumns<4>(queue, params, any_code, tiles);
  QueueColumns<8>(queue, params, any_code, tiles);
}

}  // namespace lift::cuda
