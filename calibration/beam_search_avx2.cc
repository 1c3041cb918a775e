// The primitives in AVX2: eight lanes a register, same operation order as the portable ones.
#include <immintrin.h>

#include <array>

#include "calibration/beam_search_impl.h"

namespace lift {
namespace {

inline __m256i Load(const int32_t* p) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
}
inline void Store(int32_t* p, __m256i x) { _mm256_store_si256(reinterpret_cast<__m256i*>(p), x); }

inline __m256i LaneNumbers() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }

// a where bit `bit` of index is 0, else b.
inline __m256 Choose(__m256 a, __m256 b, __m256i index, int bit) {
  return _mm256_blendv_ps(a, b, _mm256_castsi256_ps(_mm256_slli_epi32(index, 31 - bit)));
}

// A table of 32 floats in four registers.
struct Table32 {
  __m256 part[4];
  explicit Table32(const float* table) {
    for (int j = 0; j < 4; ++j) part[j] = _mm256_loadu_ps(table + 8 * j);
  }
  // index: 0 to 31.
  __m256 operator[](__m256i index) const {
    const __m256 a = _mm256_permutevar8x32_ps(part[0], index),
                 b = _mm256_permutevar8x32_ps(part[1], index),
                 c = _mm256_permutevar8x32_ps(part[2], index),
                 d = _mm256_permutevar8x32_ps(part[3], index);
    return Choose(Choose(a, b, index, 3), Choose(c, d, index, 3), index, 4);
  }
};

// Where the lanes of a mask's ones go: to the front, in order.
constexpr auto kPack = [] {
  std::array<std::array<int32_t, 8>, 256> table{};
  for (unsigned mask = 0; mask < 256; ++mask) {
    size_t next = 0;
    for (int lane = 0; lane < 8; ++lane) {
      if ((mask >> lane & 1) != 0) table[mask][next++] = lane;
    }
  }
  return table;
}();

// Signs of a candidate whose new bits are `b`, given its history's parities.
inline int FlipOf(const SearchCode& code, int b) {
  return b ^ static_cast<int>(code.derived_of[static_cast<size_t>(b)] << code.stored);
}

struct Avx2Ops {
  static void PartialSums(int m, int count, const float* const* slots, const float* weights,
                          float* out) {
    for (int i = 0; i < m; i += 8) {
      __m256 a0 = _mm256_setzero_ps(), a1 = a0, a2 = a0, a3 = a0;
      for (int s = 0; s < count; ++s) {
        const __m256 x = _mm256_load_ps(slots[s] + i);
        const float* w = weights + s * 4;
        a0 = _mm256_add_ps(a0, _mm256_mul_ps(x, _mm256_broadcast_ss(w)));
        a1 = _mm256_add_ps(a1, _mm256_mul_ps(x, _mm256_broadcast_ss(w + 1)));
        a2 = _mm256_add_ps(a2, _mm256_mul_ps(x, _mm256_broadcast_ss(w + 2)));
        a3 = _mm256_add_ps(a3, _mm256_mul_ps(x, _mm256_broadcast_ss(w + 3)));
      }
      _mm256_store_ps(out + i, a0);
      _mm256_store_ps(out + m + i, a1);
      _mm256_store_ps(out + 2 * m + i, a2);
      _mm256_store_ps(out + 3 * m + i, a3);
    }
  }
  static void Permute(int m, const float* in, const int32_t* index, float* out) {
    if (m == 32) {
      const Table32 table(in);
      for (int i = 0; i < 32; i += 8) _mm256_store_ps(out + i, table[Load(index + i)]);
      return;
    }
    for (int i = 0; i < m; i += 8) {  // as fast as gathers, and on every CPU
      for (int k = 0; k < 8; ++k) out[i + k] = in[index[i + k]];
    }
  }
  static void PermuteInt(int m, const int32_t* in, const int32_t* index, int32_t* out) {
    Permute(m, reinterpret_cast<const float*>(in), index, reinterpret_cast<float*>(out));
  }
  static void MultiplyAdd(int m, const float* x, float w, float* out) {
    const __m256 weight = _mm256_set1_ps(w);
    for (int i = 0; i < m; i += 8) {
      _mm256_store_ps(out + i, _mm256_add_ps(_mm256_load_ps(out + i),
                                             _mm256_mul_ps(_mm256_load_ps(x + i), weight)));
    }
  }
  static void OldSteps(int m, const SearchCode& code, int distance, const int32_t* history,
                       float* sums) {
    const float* tables = code.OlderSteps(distance);
    const __m256i low5 = _mm256_set1_epi32(31);
    for (int c = 0; c < code.chunks; ++c) {
      const Table32 table(tables + 32 * c);
      const __m128i shift = _mm_cvtsi32_si128(5 * c);
      for (int i = 0; i < m; i += 8) {
        const __m256 part =
            table[_mm256_and_si256(_mm256_srl_epi32(Load(history + i), shift), low5)];
        _mm256_store_ps(sums + i, c == 0 ? part : _mm256_add_ps(_mm256_load_ps(sums + i), part));
      }
    }
  }
  static void Predict(int m, const SearchCode& code, const int32_t* history, float* base,
                      int32_t* parity) {
    OldSteps(m, code, 0, history, base);
    const __m256i of_nibble = _mm256_set1_epi32(0x6996), low4 = _mm256_set1_epi32(15),
                  one = _mm256_set1_epi32(1);
    for (int i = 0; i < m; i += 8) {
      const __m256i h = Load(history + i);
      __m256i bits = _mm256_setzero_si256();
      for (size_t k = 0; k < code.old_masks.size(); ++k) {
        __m256i x = _mm256_and_si256(h, _mm256_set1_epi32(static_cast<int>(code.old_masks[k])));
        x = _mm256_xor_si256(x, _mm256_srli_epi32(x, 16));
        x = _mm256_xor_si256(x, _mm256_srli_epi32(x, 8));
        x = _mm256_and_si256(_mm256_xor_si256(x, _mm256_srli_epi32(x, 4)), low4);
        const __m256i odd = _mm256_and_si256(_mm256_srlv_epi32(of_nibble, x), one);
        const int place = static_cast<int>(k) + code.stored;
        bits = _mm256_or_si256(bits, _mm256_sll_epi32(odd, _mm_cvtsi32_si128(place)));
      }
      Store(parity + i, bits);
    }
  }
  static void Candidates(int m, int live, const SearchCode& code, int only, float aim, float weight,
                         float source, int index_bits, const float* cost, const float* feedback,
                         const float* base, const int32_t* parity, int32_t* keys) {
    const __m256i mask = _mm256_set1_epi32(~((1 << index_bits) - 1)),
                  invalid = _mm256_set1_epi32(beam_internal::kInvalidKey), lanes = LaneNumbers();
    const __m256 most = _mm256_set1_ps(beam_internal::kMaxCost), zero = _mm256_setzero_ps(),
                 limit = _mm256_set1_ps(code.limit), over = _mm256_set1_ps(code.over),
                 d = _mm256_set1_ps(weight), from = _mm256_set1_ps(source),
                 sign = _mm256_set1_ps(-0.0f);
    const Table32 newest(code.newest.data());
    for (int b = 0; b < code.branches; ++b) {
      int32_t* out = keys + b * m;
      if (only >= 0 && b != only) {
        for (int i = 0; i < m; i += 8) Store(out + i, invalid);
        continue;
      }
      const __m256i flip = _mm256_set1_epi32(FlipOf(code, b));
      for (int i = 0; i < m; i += 8) {
        const __m256i index = _mm256_xor_si256(Load(parity + i), flip);
        const __m256 goal = _mm256_add_ps(_mm256_set1_ps(aim), _mm256_load_ps(feedback + i));
        const __m256 v = _mm256_add_ps(_mm256_load_ps(base + i), newest[index]);
        const __m256 e = _mm256_sub_ps(goal, v);
        const __m256 left = _mm256_max_ps(
            _mm256_sub_ps(_mm256_andnot_ps(sign, _mm256_sub_ps(from, v)), limit), zero);
        const __m256 loss =
            _mm256_add_ps(_mm256_mul_ps(e, e), _mm256_mul_ps(over, _mm256_mul_ps(left, left)));
        const __m256 c = _mm256_min_ps(
            _mm256_add_ps(_mm256_load_ps(cost + i), _mm256_mul_ps(d, loss)), most);  // NaN too
        const __m256i lane = _mm256_add_epi32(lanes, _mm256_set1_epi32(i));
        const __m256i id = _mm256_add_epi32(lane, _mm256_set1_epi32(b * m));
        const __m256i key = _mm256_or_si256(_mm256_and_si256(_mm256_castps_si256(c), mask), id);
        const __m256i valid = _mm256_cmpgt_epi32(_mm256_set1_epi32(live), lane);
        Store(out + i, _mm256_blendv_epi8(invalid, key, valid));
      }
    }
  }
  static void ChargeKeys(int m, const SearchCode& code, const beam_internal::FarTargets& far,
                         int index_bits, const float* old, const int32_t* parity, int32_t* keys) {
    const __m256i mask = _mm256_set1_epi32(~((1 << index_bits) - 1)),
                  invalid = _mm256_set1_epi32(beam_internal::kInvalidKey);
    const __m256 most = _mm256_set1_ps(beam_internal::kMaxCost), zero = _mm256_setzero_ps();
    for (int b = 0; b < code.branches; ++b) {
      const __m256i flip = _mm256_set1_epi32(FlipOf(code, b));
      for (int i = 0; i < m; i += 8) {
        const __m256i index = _mm256_xor_si256(Load(parity + i), flip);
        __m256 charge = zero;
        for (int k = 0; k < far.count; ++k) {
          const Table32 newest(code.NewestStep(far.distance[k]));
          const __m256 aim = _mm256_set1_ps(far.aim[k]);
          const float reach = code.reach[static_cast<size_t>(far.distance[k])];
          const __m256 sum = _mm256_add_ps(_mm256_load_ps(old + k * m + i), newest[index]);
          const __m256 gap = far.aim[k] < 0 ? _mm256_sub_ps(sum, aim) : _mm256_sub_ps(aim, sum);
          const __m256 miss = _mm256_max_ps(_mm256_sub_ps(gap, _mm256_set1_ps(reach)), zero);
          charge = _mm256_add_ps(
              charge, _mm256_mul_ps(_mm256_set1_ps(far.weight[k]), _mm256_mul_ps(miss, miss)));
        }
        int32_t* at = keys + b * m + i;
        const __m256i key = Load(at);
        const __m256 cost = _mm256_min_ps(
            _mm256_add_ps(_mm256_castsi256_ps(_mm256_and_si256(key, mask)), charge), most);
        const __m256i charged = _mm256_or_si256(_mm256_and_si256(_mm256_castps_si256(cost), mask),
                                                _mm256_andnot_si256(mask, key));
        const __m256i valid = _mm256_cmpgt_epi32(invalid, key);
        Store(at, _mm256_blendv_epi8(key, charged, valid));
      }
    }
  }
  static int CountBelow(int n, const int32_t* keys, int32_t bound) {
    const __m256i b = _mm256_set1_epi32(bound);
    __m256i minus = _mm256_setzero_si256();
    for (int i = 0; i < n; i += 8)
      minus = _mm256_add_epi32(minus, _mm256_cmpgt_epi32(b, Load(keys + i)));
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(minus), _mm256_extracti128_si256(minus, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4E));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xB1));
    return -_mm_cvtsi128_si32(sum);
  }
  // Writes up to seven lanes past the last one kept (kSlack).
  static int Compress(int n, const int32_t* keys, int32_t bound, int32_t* out) {
    const __m256i b = _mm256_set1_epi32(bound);
    int count = 0;
    for (int i = 0; i < n; i += 8) {
      const __m256i k = Load(keys + i);
      const auto take =
          static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(b, k))));
      if (take == 0) continue;
      const __m256i order =
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kPack[take].data()));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + count),
                          _mm256_permutevar8x32_epi32(k, order));
      count += std::popcount(take);
    }
    return count;
  }
  static void Finish(int m, int count, const int32_t* keys, int32_t index_mask, int32_t* parent,
                     int32_t* branch, float* cost) {
    int32_t lowest = keys[0];
    for (int i = 1; i < count; ++i) lowest = std::min(lowest, keys[i]);
    const __m256i index = _mm256_set1_epi32(index_mask), lanes = _mm256_set1_epi32(m - 1),
                  none = _mm256_set1_epi32(lowest), kept = _mm256_set1_epi32(count);
    const __m256 base = _mm256_castsi256_ps(_mm256_set1_epi32(lowest & ~index_mask));
    const __m128i shift = _mm_cvtsi32_si128(std::countr_zero(static_cast<unsigned>(m)));
    for (int i = 0; i < m; i += 8) {
      const __m256i lane = _mm256_add_epi32(LaneNumbers(), _mm256_set1_epi32(i));
      const __m256i key = _mm256_blendv_epi8(none, Load(keys + i), _mm256_cmpgt_epi32(kept, lane));
      const __m256i id = _mm256_and_si256(key, index);
      Store(parent + i, _mm256_and_si256(id, lanes));
      Store(branch + i, _mm256_srl_epi32(id, shift));
      _mm256_store_ps(cost + i,
                      _mm256_sub_ps(_mm256_castsi256_ps(_mm256_andnot_si256(index, key)), base));
    }
  }
  static void Append(int m, const SearchCode& code, float aim, const float* base,
                     const int32_t* parity, const int32_t* branch, int32_t* history, float* error) {
    alignas(32) int32_t flips[16] = {};
    for (int b = 0; b < code.branches; ++b) flips[b] = FlipOf(code, b);
    const __m256 low = _mm256_castsi256_ps(Load(flips)),
                 high = _mm256_castsi256_ps(Load(flips + 8));
    const __m256i mask = _mm256_set1_epi32(static_cast<int>(code.history_mask));
    const __m128i shift = _mm_cvtsi32_si128(code.streams);
    const Table32 newest(code.newest.data());
    for (int i = 0; i < m; i += 8) {
      const __m256i b = Load(branch + i);
      const __m256 flip =
          Choose(_mm256_permutevar8x32_ps(low, b), _mm256_permutevar8x32_ps(high, b), b, 3);
      const __m256i signs = _mm256_xor_si256(Load(parity + i), _mm256_castps_si256(flip));
      _mm256_store_ps(error + i,
                      _mm256_sub_ps(_mm256_set1_ps(aim),
                                    _mm256_add_ps(_mm256_load_ps(base + i), newest[signs])));
      const __m256i shifted = _mm256_sll_epi32(Load(history + i), shift);
      Store(history + i, _mm256_and_si256(_mm256_or_si256(shifted, signs), mask));
    }
  }
  static void PushFar(const float* errors, int count, const float* u, int64_t stride, int64_t begin,
                      int64_t n, float* correction) {
    int64_t k = begin;
    for (; k + 32 <= n; k += 32) {
      __m256 a0 = _mm256_loadu_ps(correction + k), a1 = _mm256_loadu_ps(correction + k + 8);
      __m256 a2 = _mm256_loadu_ps(correction + k + 16), a3 = _mm256_loadu_ps(correction + k + 24);
      for (int s = 0; s < count; ++s) {
        const float* x = u + s * stride + k;
        const __m256 e = _mm256_set1_ps(errors[s]);
        a0 = _mm256_add_ps(a0, _mm256_mul_ps(e, _mm256_loadu_ps(x)));
        a1 = _mm256_add_ps(a1, _mm256_mul_ps(e, _mm256_loadu_ps(x + 8)));
        a2 = _mm256_add_ps(a2, _mm256_mul_ps(e, _mm256_loadu_ps(x + 16)));
        a3 = _mm256_add_ps(a3, _mm256_mul_ps(e, _mm256_loadu_ps(x + 24)));
      }
      _mm256_storeu_ps(correction + k, a0);
      _mm256_storeu_ps(correction + k + 8, a1);
      _mm256_storeu_ps(correction + k + 16, a2);
      _mm256_storeu_ps(correction + k + 24, a3);
    }
    for (; k < n; ++k) {
      for (int s = 0; s < count; ++s) correction[k] += errors[s] * u[s * stride + k];
    }
  }
};

}  // namespace

void BeamSearchAvx2(std::span<const SearchProblem> problems, std::span<SearchScratch> scratch) {
  beam_internal::SearchRows<Avx2Ops>(problems, scratch);
}

}  // namespace lift
