#include <algorithm>

#include "kernels/cuda/experts.h"
#include "kernels/cuda/lift.inl.h"
#include "kernels/cuda/sign_gemm.inl.h"

namespace lift::cuda {
namespace {

constexpr int kRouteThreads = 256;

struct RouteParams {
  ExpertPairs pairs;
  const float* scores;
  const uint8_t* variants;
};

// A row's best experts, the lower index of equals first, weighted by softmax over them.
__device__ void Choose(const ExpertPairs& p, const float* scores, int64_t row) {
  int32_t* choice = p.choice + row * p.per_row;
  double total = 0;
  for (int i = 0; i < p.per_row; ++i) {
    int best = -1;
    for (int e = 0; e < p.experts; ++e) {
      bool taken = false;
      for (int j = 0; j < i; ++j) taken = taken || choice[j] == e;
      if (!taken && (best < 0 || scores[e] > scores[best])) best = e;
    }
    choice[i] = best;
    total += exp(static_cast<double>(scores[best]) - static_cast<double>(scores[choice[0]]));
  }
  for (int i = 0; i < p.per_row; ++i) {
    p.choice_weight[row * p.per_row + i] = static_cast<float>(
        exp(static_cast<double>(scores[choice[i]]) - static_cast<double>(scores[choice[0]])) /
        total);
  }
}

// One block: a thread a row, then a thread an expert.
__global__ void __launch_bounds__(kRouteThreads)
    RouteKernel(const __grid_constant__ RouteParams p) {
  const ExpertPairs& pairs = p.pairs;
  for (int64_t row = threadIdx.x; row < pairs.rows; row += kRouteThreads)
    Choose(pairs, p.scores + row * pairs.experts, row);
  __syncthreads();
  const int64_t choices = pairs.rows * pairs.per_row;
  for (int e = static_cast<int>(threadIdx.x); e < pairs.experts; e += kRouteThreads) {
    int32_t count = 0, finest = 0;
    for (int64_t c = 0; c < choices; ++c) {
      if (pairs.choice[c] != e) continue;
      ++count;
      finest = max(finest, 1 + static_cast<int32_t>(p.variants[c / pairs.per_row]));
    }
    pairs.first[e + 1] = count;
    pairs.touched[e] = finest;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    pairs.first[0] = 0;
    for (int e = 0; e < pairs.experts; ++e) pairs.first[e + 1] += pairs.first[e];
  }
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < pairs.experts; e += kRouteThreads) {
    int32_t at = pairs.first[e];
    for (int64_t c = 0; c < choices; ++c) {
      if (pairs.choice[c] != e) continue;
      const int64_t row = c / pairs.per_row;
      int rank = 0;
      for (int i = 0; i < pairs.per_row; ++i) rank += pairs.choice[row * pairs.per_row + i] < e;
      pairs.expert[at] = e;
      pairs.row[at] = static_cast<int32_t>(row);
      pairs.variant[at] = p.variants[row];
      pairs.weight[at] = pairs.choice_weight[c];
      pairs.of_row[row * pairs.per_row + rank] = at++;
    }
  }
}

struct LiftExpertsParams {
  const SiteTable* sites;
  ExpertPairs pairs;
  const float* x;
  RowMemory memory;
  int32_t parts, gather;
};

// A block for every slot and pair.
__global__ void __launch_bounds__(kLiftThreads)
    LiftExpertsKernel(const __grid_constant__ LiftExpertsParams p) {
  const int64_t pair = blockIdx.y;
  const SiteTable& site = p.sites[p.pairs.expert[pair]];
  const int slot = static_cast<int>(blockIdx.x);
  if (slot >= site.slots) return;
  const int64_t row = p.gather != 0 ? p.pairs.row[pair] : pair;
  LiftSlotOf(site, slot, p.x + row * site.rotation.cols, p.pairs.variant[pair], p.parts, pair,
             RowOf(p.memory, pair * gridDim.x + blockIdx.x));
}

struct ExpertProductsParams {
  const ProductSet* sets;
  ExpertPairs pairs;
  int32_t parts, unused;
};

// A block for every row tile of every expert; it takes all of the expert's pairs.
template <int kColumns, bool kAnyCode>
__global__ void __launch_bounds__(kSignWarps* kWarpSize, kAnyCode ? 1 : 2)
    ExpertProductsKernel(const __grid_constant__ ExpertProductsParams p) {
  __shared__ SignPartials partials;
  const int expert = static_cast<int>(blockIdx.y);
  const int64_t end = p.pairs.first[expert + 1];
  const ProductSet& set = p.sets[expert];
  int i = 0;
  while (i + 1 < set.products && static_cast<int>(blockIdx.x) >= set.product[i + 1].first_tile) ++i;
  const ProductTable& product = set.product[i];
  const int64_t tile = static_cast<int64_t>(blockIdx.x) - product.first_tile;
  if (tile * kSignRows >= product.rows) return;
  for (int64_t pair = p.pairs.first[expert]; pair < end; pair += kColumns / p.parts) {
    SignProductTile<kColumns, kAnyCode>(set, product, tile, p.pairs.variant, p.parts, pair, end,
                                        partials);
    __syncthreads();  // the partials of these pairs have been read
  }
}

struct CombineParams {
  ExpertPairs pairs;
  const float* y;
  float* out;
  int64_t dim;
};

__global__ void __launch_bounds__(kRouteThreads)
    CombineKernel(const __grid_constant__ CombineParams p) {
  const int64_t row = blockIdx.x;
  for (int64_t d = threadIdx.x; d < p.dim; d += kRouteThreads) {
    float sum = 0;
    for (int i = 0; i < p.pairs.per_row; ++i) {
      const int64_t pair = p.pairs.of_row[row * p.pairs.per_row + i];
      sum = __fadd_rn(sum, __fmul_rn(p.pairs.weight[pair], p.y[pair * p.dim + d]));
    }
    p.out[row * p.dim + d] = sum;
  }
}

template <int kColumns>
void QueueColumns(CommandQueue& queue, const ExpertProductsParams& params, int64_t tiles,
                  bool any_code) {
  queue.Launch(
      "the experts' sign products",
      any_code ? ExpertProductsKernel<kColumns, true> : ExpertProductsKernel<kColumns, false>,
      dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(params.pairs.experts)),
      dim3(kSignWarps * kWarpSize), 0, params);
}

unsigned PairsOf(const ExpertPairs& pairs) {
  return static_cast<unsigned>(pairs.rows * pairs.per_row);
}

}  // namespace

void QueueRoute(CommandQueue& queue, const ExpertPairs& pairs, const float* scores,
                const uint8_t* variants) {
  queue.Launch("choosing experts", RouteKernel, dim3(1), dim3(kRouteThreads), 0,
               RouteParams{pairs, scores, variants});
}

void QueueLiftExperts(CommandQueue& queue, const SiteTable* sites, int32_t slots,
                      int64_t row_floats, const ExpertPairs& pairs, const float* x, bool gather,
                      int32_t parts, float* scratch, size_t shared_limit) {
  size_t shared = static_cast<size_t>(row_floats) * sizeof(float);
  if (shared > shared_limit) shared = 0;
  LIFT_CHECK(shared > 0 || scratch != nullptr);
  queue.Launch(
      "lifting for experts", LiftExpertsKernel, dim3(static_cast<unsigned>(slots), PairsOf(pairs)),
      dim3(kLiftThreads), shared,
      LiftExpertsParams{sites, pairs, x, RowMemory{shared > 0 ? nullptr : scratch, row_floats},
                        parts, gather ? 1 : 0});
}

void QueueExpertProducts(CommandQueue& queue, const ProductSet* sets, int64_t tiles, bool any_code,
                         const ExpertPairs& pairs, int32_t parts) {
  const ExpertProductsParams params{sets, pairs, parts, 0};
  const int64_t columns = pairs.rows * parts;  // of one expert, at most
  if (columns <= 1) return QueueColumns<1>(queue, params, tiles, any_code);
  if (columns <= 2) return QueueColumns<2>(queue, params, tiles, any_code);
  if (columns <= 4) return QueueColumns<4>(queue, params, tiles, any_code);
  QueueColumns<8>(queue, params, tiles, any_code);
}

void QueueCombineExperts(CommandQueue& queue, const ExpertPairs& pairs, const float* y, int64_t dim,
                         float* out) {
  queue.Launch("adding experts", CombineKernel, dim3(static_cast<unsigned>(pairs.rows)),
               dim3(kRouteThreads), 0, CombineParams{pairs, y, out, dim});
}

}  // namespace lift::cuda
