// The primitives as plain loops over lanes, in the same operation order as the vector versions.
#include <cmath>

#include "calibration/beam_search_impl.h"

namespace lift {
namespace {

struct PortableOps {
  static void PartialSums(int m, int count, const float* const* slots, const float* weights,
                          float* out) {
    std::fill(out, out + 4 * m, 0.0f);
    for (int s = 0; s < count; ++s) {
      for (int c = 0; c < 4; ++c) {
        const float w = weights[s * 4 + c];
        for (int i = 0; i < m; ++i) out[c * m + i] += slots[s][i] * w;
      }
    }
  }
  static void Permute(int m, const float* in, const int32_t* index, float* out) {
    for (int i = 0; i < m; ++i) out[i] = in[index[i]];
  }
  static void PermuteInt(int m, const int32_t* in, const int32_t* index, int32_t* out) {
    for (int i = 0; i < m; ++i) out[i] = in[index[i]];
  }
  static void MultiplyAdd(int m, const float* x, float w, float* out) {
    for (int i = 0; i < m; ++i) out[i] += x[i] * w;
  }
  // What histories, as a column has them before its own step, put into the column `distance` steps
  // after it.
  static void OldSteps(int m, const SearchCode& code, int distance, const int32_t* history,
                       float* sums) {
    const float* table = code.OlderSteps(distance);
    for (int i = 0; i < m; ++i) {
      const uint32_t h = static_cast<uint32_t>(history[i]);
      float sum = table[h & 31];
      for (int c = 1; c < code.chunks; ++c) sum += table[c * 32 + (h >> (5 * c) & 31)];
      sums[i] = sum;
    }
  }
  static void Predict(int m, const SearchCode& code, const int32_t* history, float* base,
                      int32_t* parity) {
    OldSteps(m, code, 0, history, base);
    for (int i = 0; i < m; ++i) {
      const uint32_t h = static_cast<uint32_t>(history[i]);
      uint32_t bits = 0;
      for (size_t k = 0; k < code.old_masks.size(); ++k) {
        bits |= static_cast<uint32_t>(std::popcount(h & code.old_masks[k]) & 1) << k;
      }
      parity[i] = static_cast<int32_t>(bits << code.stored);
    }
  }
  static void Candidates(int m, int live, const SearchCode& code, int only, float aim, float weight,
                         float source, int index_bits, const float* cost, const float* feedback,
                         const float* base, const int32_t* parity, int32_t* keys) {
    const int32_t mask = ~((1 << index_bits) - 1);
    for (int b = 0; b < code.branches; ++b) {
      int32_t* out = keys + b * m;
      if (only >= 0 && b != only) {
        std::fill(out, out + m, beam_internal::kInvalidKey);
        continue;
      }
      const int32_t flip = b ^ static_cast<int32_t>(code.derived_of[b] << code.stored);
      for (int i = 0; i < live; ++i) {
        const float v = base[i] + code.newest[parity[i] ^ flip];
        const float e = (aim + feedback[i]) - v;
        const float left = std::max(std::abs(source - v) - code.limit, 0.0f);
        const float c = cost[i] + weight * (e * e + code.over * (left * left));
        out[i] =
            (std::bit_cast<int32_t>(c < beam_internal::kMaxCost ? c : beam_internal::kMaxCost) &
             mask) |
            (b * m + i);
      }
      std::fill(out + live, out + m, beam_internal::kInvalidKey);
    }
  }
  // old: [far.count][m], what OldSteps gives the far targets. Invalid keys stay.
  static void ChargeKeys(int m, const SearchCode& code, const beam_internal::FarTargets& far,
                         int index_bits, const float* old, const int32_t* parity, int32_t* keys) {
    const int32_t mask = ~((1 << index_bits) - 1);
    for (int b = 0; b < code.branches; ++b) {
      const int32_t flip = b ^ static_cast<int32_t>(code.derived_of[b] << code.stored);
      int32_t* key = keys + b * m;
      for (int i = 0; i < m; ++i) {
        if (key[i] >= beam_internal::kInvalidKey) continue;
        float charge = 0;
        for (int k = 0; k < far.count; ++k) {
          const float* newest = code.NewestStep(far.distance[k]);
          charge += Charge(code, far, k, old[k * m + i] + newest[parity[i] ^ flip]);
        }
        const float cost = std::bit_cast<float>(key[i] & mask) + charge;
        key[i] = (std::bit_cast<int32_t>(std::min(cost, beam_internal::kMaxCost)) & mask) |
                 (key[i] & ~mask);
      }
    }
  }
  static int CountBelow(int n, const int32_t* keys, int32_t bound) {
    int count = 0;
    for (int i = 0; i < n; ++i) count += keys[i] < bound;
    return count;
  }
  static int Compress(int n, const int32_t* keys, int32_t bound, int32_t* out) {
    int count = 0;
    for (int i = 0; i < n; ++i) {
      if (keys[i] < bound) out[count++] = keys[i];
    }
    return count;
  }
  // Splits the kept keys into parent, branch and cost (relative to the smallest).
  static void Finish(int m, int count, const int32_t* keys, int32_t index_mask, int32_t* parent,
                     int32_t* branch, float* cost) {
    int32_t lowest = keys[0];
    for (int i = 1; i < count; ++i) lowest = std::min(lowest, keys[i]);
    const float base = std::bit_cast<float>(lowest & ~index_mask);
    const int shift = std::countr_zero(static_cast<unsigned>(m));
    for (int i = 0; i < m; ++i) {
      const int32_t key = i < count ? keys[i] : lowest;
      const int32_t index = key & index_mask;
      parent[i] = index & (m - 1);
      branch[i] = index >> shift;
      cost[i] = std::bit_cast<float>(key & ~index_mask) - base;
    }
  }
  static void Append(int m, const SearchCode& code, float aim, const float* base,
                     const int32_t* parity, const int32_t* branch, int32_t* history, float* error) {
    for (int i = 0; i < m; ++i) {
      const int32_t signs =
          parity[i] ^ branch[i] ^ static_cast<int32_t>(code.derived_of[branch[i]] << code.stored);
      error[i] = aim - (base[i] + code.newest[signs]);
      history[i] = static_cast<int32_t>(
          ((static_cast<uint32_t>(history[i]) << code.streams) | static_cast<uint32_t>(signs)) &
          code.history_mask);
    }
  }
  // correction[k] += sum over s of errors[s] * u[s, k] for k in [begin, n), in the order of s.
  static void PushFar(const float* errors, int count, const float* u, int64_t stride, int64_t begin,
                      int64_t n, float* correction) {
    for (int s = 0; s < count; ++s) {
      for (int64_t k = begin; k < n; ++k) correction[k] += errors[s] * u[s * stride + k];
    }
  }
};

}  // namespace

void BeamSearchPortable(std::span<const SearchProblem> problems, std::span<SearchScratch> scratch) {
  beam_internal::SearchRows<PortableOps>(problems, scratch);
}

}  // namespace lift
