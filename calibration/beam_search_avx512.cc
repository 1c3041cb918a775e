// The primitives in AVX-512 (F, BW, DQ, VL, VPOPCNTDQ): sixteen lanes a register, same operation
// order as the portable ones.
#include <immintrin.h>

#include "calibration/beam_search_impl.h"

namespace lift {
namespace {

// out[i] = table[index[i]] for a table of 16 * N lanes held in memory, by register permutes.
template <int N>
inline __m512i Lookup(const int32_t* table, __m512i index) {
  if constexpr (N == 1) {
    return _mm512_permutexvar_epi32(index, _mm512_load_si512(table));
  } else if constexpr (N == 2) {
    return _mm512_permutex2var_epi32(_mm512_load_si512(table), index,
                                     _mm512_load_si512(table + 16));
  } else {
    const __m512i low = Lookup<N / 2>(table, index), high = Lookup<N / 2>(table + 8 * N, index);
    return _mm512_mask_blend_epi32(_mm512_test_epi32_mask(index, _mm512_set1_epi32(8 * N)), low,
                                   high);
  }
}

template <int N>
inline void PermuteLanes(const int32_t* in, const int32_t* index, int32_t* out) {
  for (int v = 0; v < N; ++v)
    _mm512_store_si512(out + 16 * v, Lookup<N>(in, _mm512_load_si512(index + 16 * v)));
}

// Small read-only tables, not 64-byte aligned.
inline __m512 Table32(const float* table, __m512i index) {
  return _mm512_permutex2var_ps(_mm512_loadu_ps(table), index, _mm512_loadu_ps(table + 16));
}

struct Avx512Ops {
  static void PartialSums(int m, int count, const float* const* slots, const float* weights,
                          float* out) {
    for (int i = 0; i < m; i += 16) {
      __m512 a0 = _mm512_setzero_ps(), a1 = a0, a2 = a0, a3 = a0;
      for (int s = 0; s < count; ++s) {
        const __m512 x = _mm512_load_ps(slots[s] + i);
        const float* w = weights + s * 4;
        a0 = _mm512_add_ps(a0, _mm512_mul_ps(x, _mm512_set1_ps(w[0])));
        a1 = _mm512_add_ps(a1, _mm512_mul_ps(x, _mm512_set1_ps(w[1])));
        a2 = _mm512_add_ps(a2, _mm512_mul_ps(x, _mm512_set1_ps(w[2])));
        a3 = _mm512_add_ps(a3, _mm512_mul_ps(x, _mm512_set1_ps(w[3])));
      }
      _mm512_store_ps(out + i, a0);
      _mm512_store_ps(out + m + i, a1);
      _mm512_store_ps(out + 2 * m + i, a2);
      _mm512_store_ps(out + 3 * m + i, a3);
    }
  }
  static void PermuteInt(int m, const int32_t* in, const int32_t* index, int32_t* out) {
    switch (m) {
      case 16:
        return PermuteLanes<1>(in, index, out);
      case 32:
        return PermuteLanes<2>(in, index, out);
      case 64:
        return PermuteLanes<4>(in, index, out);
      case 128:
        return PermuteLanes<8>(in, index, out);
      default:
        return PermuteLanes<16>(in, index, out);
    }
  }
  static void Permute(int m, const float* in, const int32_t* index, float* out) {
    PermuteInt(m, reinterpret_cast<const int32_t*>(in), index, reinterpret_cast<int32_t*>(out));
  }
  static void MultiplyAdd(int m, const float* x, float w, float* out) {
    const __m512 weight = _mm512_set1_ps(w);
    for (int i = 0; i < m; i += 16) {
      _mm512_store_ps(out + i, _mm512_add_ps(_mm512_load_ps(out + i),
                                             _mm512_mul_ps(_mm512_load_ps(x + i), weight)));
    }
  }
  static void OldSteps(int m, const SearchCode& code, int distance, const int32_t* history,
                       float* sums) {
    const float* table = code.OlderSteps(distance);
    const __m512i low5 = _mm512_set1_epi32(31);
    for (int i = 0; i < m; i += 16) {
      const __m512i h = _mm512_load_si512(history + i);
      __m512 sum = Table32(table, _mm512_and_si512(h, low5));
      for (int c = 1; c < code.chunks; ++c) {
        const __m512i index =
            _mm512_and_si512(_mm512_srli_epi32(h, static_cast<unsigned>(5 * c)), low5);
        sum = _mm512_add_ps(sum, Table32(table + 32 * c, index));
      }
      _mm512_store_ps(sums + i, sum);
    }
  }
  static void Predict(int m, const SearchCode& code, const int32_t* history, float* base,
                      int32_t* parity) {
    OldSteps(m, code, 0, history, base);
    for (int i = 0; i < m; i += 16) {
      const __m512i h = _mm512_load_si512(history + i);
      __m512i bits = _mm512_setzero_si512();
      for (size_t k = 0; k < code.old_masks.size(); ++k) {
        const __m512i ones = _mm512_popcnt_epi32(
            _mm512_and_si512(h, _mm512_set1_epi32(static_cast<int>(code.old_masks[k]))));
        const __m512i odd = _mm512_and_si512(ones, _mm512_set1_epi32(1));
        bits = _mm512_or_si512(
            bits,
            _mm512_slli_epi32(odd, static_cast<unsigned>(k) + static_cast<unsigned>(code.stored)));
      }
      _mm512_store_si512(parity + i, bits);
    }
  }
  static void Candidates(int m, int live, const SearchCode& code, int only, float aim, float weight,
                         float source, int index_bits, const float* cost, const float* feedback,
                         const float* base, const int32_t* parity, int32_t* keys) {
    const __m512i mask = _mm512_set1_epi32(~((1 << index_bits) - 1)),
                  invalid = _mm512_set1_epi32(beam_internal::kInvalidKey);
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512 most = _mm512_set1_ps(beam_internal::kMaxCost);
    const __m512 limit = _mm512_set1_ps(code.limit), over = _mm512_set1_ps(code.over);
    for (int i = 0; i < m; i += 16) {
      const int left = std::clamp(live - i, 0, 16);
      const __mmask16 valid = static_cast<__mmask16>((1u << left) - 1);
      const __m512 goal = _mm512_add_ps(_mm512_set1_ps(aim), _mm512_load_ps(feedback + i));
      const __m512 old = _mm512_load_ps(base + i), before = _mm512_load_ps(cost + i),
                   d = _mm512_set1_ps(weight);
      const __m512i p = _mm512_load_si512(parity + i);
      for (int b = 0; b < code.branches; ++b) {
        int32_t* out = keys + b * m + i;
        if (only >= 0 && b != only) {
          _mm512_store_si512(out, invalid);
          continue;
        }
        const int flip =
            b ^ static_cast<int>(code.derived_of[static_cast<size_t>(b)] << code.stored);
        const __m512i index = _mm512_xor_si512(p, _mm512_set1_epi32(flip));
        const __m512 v = _mm512_add_ps(old, Table32(code.newest.data(), index));
        const __m512 e = _mm512_sub_ps(goal, v);
        const __m512 left = _mm512_max_ps(
            _mm512_sub_ps(_mm512_abs_ps(_mm512_sub_ps(_mm512_set1_ps(source), v)), limit),
            _mm512_setzero_ps());
        const __m512 loss =
            _mm512_add_ps(_mm512_mul_ps(e, e), _mm512_mul_ps(over, _mm512_mul_ps(left, left)));
        const __m512 c =
            _mm512_min_ps(_mm512_add_ps(before, _mm512_mul_ps(d, loss)), most);  // NaN too
        const __m512i id = _mm512_add_epi32(lanes, _mm512_set1_epi32(b * m + i));
        const __m512i key = _mm512_or_si512(_mm512_and_si512(_mm512_castps_si512(c), mask), id);
        _mm512_store_si512(out, _mm512_mask_blend_epi32(valid, invalid, key));
      }
    }
  }
  static void ChargeKeys(int m, const SearchCode& code, const beam_internal::FarTargets& far,
                         int index_bits, const float* old, const int32_t* parity, int32_t* keys) {
    const __m512i mask = _mm512_set1_epi32(~((1 << index_bits) - 1)),
                  invalid = _mm512_set1_epi32(beam_internal::kInvalidKey);
    const __m512 most = _mm512_set1_ps(beam_internal::kMaxCost), zero = _mm512_setzero_ps();
    for (int i = 0; i < m; i += 16) {
      const __m512i p = _mm512_load_si512(parity + i);
      for (int b = 0; b < code.branches; ++b) {
        const int flip =
            b ^ static_cast<int>(code.derived_of[static_cast<size_t>(b)] << code.stored);
        const __m512i index = _mm512_xor_si512(p, _mm512_set1_epi32(flip));
        __m512 charge = zero;
        for (int k = 0; k < far.count; ++k) {
          const __m512 aim = _mm512_set1_ps(far.aim[k]);
          const float reach = code.reach[static_cast<size_t>(far.distance[k])];
          const __m512 sum = _mm512_add_ps(_mm512_load_ps(old + k * m + i),
                                           Table32(code.NewestStep(far.distance[k]), index));
          const __m512 gap = far.aim[k] < 0 ? _mm512_sub_ps(sum, aim) : _mm512_sub_ps(aim, sum);
          const __m512 miss = _mm512_max_ps(_mm512_sub_ps(gap, _mm512_set1_ps(reach)), zero);
          charge = _mm512_add_ps(
              charge, _mm512_mul_ps(_mm512_set1_ps(far.weight[k]), _mm512_mul_ps(miss, miss)));
        }
        const __m512i key = _mm512_load_si512(keys + b * m + i);
        const __m512 cost = _mm512_min_ps(
            _mm512_add_ps(_mm512_castsi512_ps(_mm512_and_si512(key, mask)), charge), most);
        const __m512i charged = _mm512_or_si512(_mm512_and_si512(_mm512_castps_si512(cost), mask),
                                                _mm512_andnot_si512(mask, key));
        const __mmask16 valid = _mm512_cmplt_epi32_mask(key, invalid);
        _mm512_store_si512(keys + b * m + i, _mm512_mask_blend_epi32(valid, key, charged));
      }
    }
  }
  static int CountBelow(int n, const int32_t* keys, int32_t bound) {
    const __m512i b = _mm512_set1_epi32(bound);
    int count = 0;
    for (int i = 0; i < n; i += 16) {
      count += std::popcount(
          static_cast<unsigned>(_mm512_cmplt_epi32_mask(_mm512_load_si512(keys + i), b)));
    }
    return count;
  }
  // The caller's array has room for 16 * ceil(kept / 16) lanes: kept <= beam, a multiple of 16.
  static int Compress(int n, const int32_t* keys, int32_t bound, int32_t* out) {
    const __m512i b = _mm512_set1_epi32(bound);
    int count = 0;
    for (int i = 0; i < n; i += 16) {
      const __m512i k = _mm512_load_si512(keys + i);
      const __mmask16 take = _mm512_cmplt_epi32_mask(k, b);
      if (take == 0) continue;
      const unsigned kept = static_cast<unsigned>(std::popcount(static_cast<unsigned>(take)));
      const __m512i packed = _mm512_maskz_compress_epi32(take, k);
      _mm512_mask_storeu_epi32(out + count, static_cast<__mmask16>((1u << kept) - 1), packed);
      count += static_cast<int>(kept);
    }
    return count;
  }
  static void Finish(int m, int count, const int32_t* keys, int32_t index_mask, int32_t* parent,
                     int32_t* branch, float* cost) {
    __m512i low = _mm512_set1_epi32(0x7FFFFFFF);
    for (int i = 0; i < count; i += 16) {
      const __mmask16 valid = static_cast<__mmask16>((1u << std::min(count - i, 16)) - 1);
      low = _mm512_mask_min_epi32(low, valid, low, _mm512_load_si512(keys + i));
    }
    const int32_t lowest = _mm512_reduce_min_epi32(low);
    const __m512i index = _mm512_set1_epi32(index_mask), lanes = _mm512_set1_epi32(m - 1);
    const __m512 base = _mm512_castsi512_ps(_mm512_set1_epi32(lowest & ~index_mask));
    const unsigned shift = static_cast<unsigned>(std::countr_zero(static_cast<unsigned>(m)));
    for (int i = 0; i < m; i += 16) {
      const __mmask16 valid = static_cast<__mmask16>((1u << std::clamp(count - i, 0, 16)) - 1);
      const __m512i key =
          _mm512_mask_blend_epi32(valid, _mm512_set1_epi32(lowest), _mm512_load_si512(keys + i));
      const __m512i id = _mm512_and_si512(key, index);
      _mm512_store_si512(parent + i, _mm512_and_si512(id, lanes));
      _mm512_store_si512(branch + i, _mm512_srli_epi32(id, shift));
      _mm512_store_ps(cost + i,
                      _mm512_sub_ps(_mm512_castsi512_ps(_mm512_andnot_si512(index, key)), base));
    }
  }
  static void Append(int m, const SearchCode& code, float aim, const float* base,
                     const int32_t* parity, const int32_t* branch, int32_t* history, float* error) {
    const __m512i derived = _mm512_loadu_si512(code.derived_of.data());
    const __m512i mask = _mm512_set1_epi32(static_cast<int>(code.history_mask));
    for (int i = 0; i < m; i += 16) {
      const __m512i b = _mm512_load_si512(branch + i);
      const __m512i flip = _mm512_slli_epi32(_mm512_permutexvar_epi32(b, derived),
                                             static_cast<unsigned>(code.stored));
      const __m512i signs =
          _mm512_xor_si512(_mm512_xor_si512(_mm512_load_si512(parity + i), b), flip);
      _mm512_store_ps(error + i, _mm512_sub_ps(_mm512_set1_ps(aim),
                                               _mm512_add_ps(_mm512_load_ps(base + i),
                                                             Table32(code.newest.data(), signs))));
      const __m512i shifted =
          _mm512_slli_epi32(_mm512_load_si512(history + i), static_cast<unsigned>(code.streams));
      _mm512_store_si512(history + i, _mm512_and_si512(_mm512_or_si512(shifted, signs), mask));
    }
  }
  static void PushFar(const float* errors, int count, const float* u, int64_t stride, int64_t begin,
                      int64_t n, float* correction) {
    int64_t k = begin;
    for (; k + 64 <= n; k += 64) {
      __m512 a0 = _mm512_loadu_ps(correction + k), a1 = _mm512_loadu_ps(correction + k + 16);
      __m512 a2 = _mm512_loadu_ps(correction + k + 32), a3 = _mm512_loadu_ps(correction + k + 48);
      for (int s = 0; s < count; ++s) {
        const float* x = u + s * stride + k;
        const __m512 e = _mm512_set1_ps(errors[s]);
        a0 = _mm512_add_ps(a0, _mm512_mul_ps(e, _mm512_loadu_ps(x)));
        a1 = _mm512_add_ps(a1, _mm512_mul_ps(e, _mm512_loadu_ps(x + 16)));
        a2 = _mm512_add_ps(a2, _mm512_mul_ps(e, _mm512_loadu_ps(x + 32)));
        a3 = _mm512_add_ps(a3, _mm512_mul_ps(e, _mm512_loadu_ps(x + 48)));
      }
      _mm512_storeu_ps(correction + k, a0);
      _mm512_storeu_ps(correction + k + 16, a1);
      _mm512_storeu_ps(correction + k + 32, a2);
      _mm512_storeu_ps(correction + k + 48, a3);
    }
    for (; k < n; ++k) {
      for (int s = 0; s < count; ++s) correction[k] += errors[s] * u[s * stride + k];
    }
  }
};

}  // namespace

void BeamSearchAvx512(std::span<const SearchProblem> problems, std::span<SearchScratch> scratch) {
  beam_internal::SearchRows<Avx512Ops>(problems, scratch);
}

}  // namespace lift
