// Sign planes times int8 with vpdpbusd. One register is a tile: 32-bit lane = row, byte j bit i =
// column 8 j + i, and the bytes of u are stored so that position 4 i + j belongs to that column.

constexpr int64_t kPrefetchBytes = 4096;

inline __m512i Bytes4(const int8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof(word));
  return _mm512_set1_epi32(word);
}

// Calls step(words of the tiles, byte offset of their u) for every block and stream in order.
template <int kTiles, typename Step>
inline void ForEachTile(const SignDot& a, const Step& step) {
  const uint8_t *plane[kTiles], *derived[kTiles];
  for (int i = 0; i < kTiles; ++i) {
    plane[i] = a.planes[i] + a.begin * a.stored * kTileBytes;
    derived[i] = a.derived[i];
  }
  int64_t offset = a.begin * (a.stored + a.derived_streams) * kTileColumns;
  __m512i w[kTiles];
  for (int64_t b = a.begin; b < a.end; ++b) {
    for (int s = 0; s < a.stored; ++s, offset += kTileColumns) {
#pragma GCC unroll 2
      for (int i = 0; i < kTiles; ++i) {
        w[i] = _mm512_loadu_si512(plane[i]);
        _mm_prefetch(reinterpret_cast<const char*>(plane[i]) + kPrefetchBytes, _MM_HINT_T0);
        plane[i] += kTileBytes;
      }
      step(w, offset);
    }
    for (int s = 0; s < a.derived_streams; ++s, offset += kTileColumns) {
#pragma GCC unroll 2
      for (int i = 0; i < kTiles; ++i) {
        w[i] = _mm512_load_si512(derived[i]);
        derived[i] += kTileBytes;
      }
      step(w, offset);
    }
  }
}

inline void AddTo(int32_t* acc, __m512i value) {
  _mm512_store_si512(acc, _mm512_add_epi32(_mm512_load_si512(acc), value));
}

// Few columns: `w & mask_i` has bytes of value 0 or 2^i, summed in accumulator i, which is shifted
// right by i at the end (exact). No unpacking.
template <int kTiles, int kColumns>
void DotMasked(const SignDot& a, int64_t first) {
  __m512i acc[kTiles][kColumns][8];
#pragma GCC unroll 2
  for (int i = 0; i < kTiles; ++i) {
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) {
#pragma GCC unroll 8
      for (int bit = 0; bit < 8; ++bit) acc[i][c][bit] = _mm512_setzero_si512();
    }
  }
  const int8_t* u[kColumns];
  for (int c = 0; c < kColumns; ++c) u[c] = a.columns[first + c];
  ForEachTile<kTiles>(
      a, [&](const __m512i* w, int64_t offset) __attribute__((always_inline)) {
#pragma GCC unroll 8
        for (int bit = 0; bit < 8; ++bit) {
          const __m512i mask = _mm512_set1_epi8(static_cast<char>(1 << bit));
          __m512i x[kTiles];
#pragma GCC unroll 2
          for (int i = 0; i < kTiles; ++i) x[i] = _mm512_and_si512(w[i], mask);
#pragma GCC unroll 4
          for (int c = 0; c < kColumns; ++c) {
            const __m512i bytes = Bytes4(u[c] + offset + 4 * bit);
#pragma GCC unroll 2
            for (int i = 0; i < kTiles; ++i) {
              acc[i][c][bit] = _mm512_dpbusd_epi32(acc[i][c][bit], x[i], bytes);
            }
          }
        }
      });
#pragma GCC unroll 2
  for (int i = 0; i < kTiles; ++i) {
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) {
      __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 8
      for (int bit = 0; bit < 8; ++bit) {
        sum = _mm512_add_epi32(sum, _mm512_srai_epi32(acc[i][c][bit], bit));
      }
      AddTo(a.acc + (first + c) * kTilePair + i * kTileRows, sum);
    }
  }
}

// Many columns: bytes of value 0 or 1, made once for all of them.
template <int kTiles, int kColumns>
void DotExpanded(const SignDot& a, int64_t first) {
  __m512i acc[kTiles][kColumns];
#pragma GCC unroll 2
  for (int i = 0; i < kTiles; ++i) {
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) acc[i][c] = _mm512_setzero_si512();
  }
  const int8_t* u[kColumns];
  for (int c = 0; c < kColumns; ++c) u[c] = a.columns[first + c];
  const __m512i ones = _mm512_set1_epi8(1);
  ForEachTile<kTiles>(
      a, [&](const __m512i* w, int64_t offset) __attribute__((always_inline)) {
#pragma GCC unroll 8
        for (int bit = 0; bit < 8; ++bit) {
          __m512i x[kTiles];
#pragma GCC unroll 2
          for (int i = 0; i < kTiles; ++i) {
            x[i] = _mm512_and_si512(_mm512_srli_epi32(w[i], static_cast<unsigned>(bit)), ones);
          }
#pragma GCC unroll 8
          for (int c = 0; c < kColumns; ++c) {
            const __m512i bytes = Bytes4(u[c] + offset + 4 * bit);
#pragma GCC unroll 2
            for (int i = 0; i < kTiles; ++i)
              acc[i][c] = _mm512_dpbusd_epi32(acc[i][c], x[i], bytes);
          }
        }
      });
#pragma GCC unroll 2
  for (int i = 0; i < kTiles; ++i) {
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) {
      AddTo(a.acc + (first + c) * kTilePair + i * kTileRows, acc[i][c]);
    }
  }
}

template <int kTiles>
void DotUpTo8(const SignDot& a, int64_t first, int64_t columns) {
  switch (columns) {
    case 1:
      return DotMasked<kTiles, 1>(a, first);
    case 2:
      return DotMasked<1, 2>(a, first);
    case 3:
      return DotMasked<1, 3>(a, first);
    case 4:
      return DotExpanded<kTiles, 4>(a, first);
    case 5:
      return DotExpanded<kTiles, 5>(a, first);
    case 6:
      return DotExpanded<kTiles, 6>(a, first);
    case 7:
      return DotExpanded<kTiles, 7>(a, first);
    default:
      return DotExpanded<kTiles, 8>(a, first);
  }
}

void SignDotAvx512(const SignDot& a) {
  for (int64_t first = 0; first < a.num_columns; first += 8) {
    const int64_t columns = a.num_columns - first < 8 ? a.num_columns - first : 8;
    const bool one_by_one = columns == 2 || columns == 3;  // their sums fill the registers
    if (a.tiles == 2 && !one_by_one) {
      DotUpTo8<2>(a, first, columns);
      continue;
    }
    for (int i = 0; i < a.tiles; ++i) {
      SignDot tile = a;
      tile.planes[0] = a.planes[i];
      tile.derived[0] = a.derived[i];
      tile.acc = a.acc + i * kTileRows;
      DotUpTo8<1>(tile, first, columns);
    }
  }
}

// A byte of a derived stream depends on the same byte and the one before it of each stored stream,
// linearly over GF(2): two matrix products, whatever the mask.
__attribute__((target("gfni"))) void DeriveGfni(const DeriveTile& a) {
  const ParityTables& tables = *a.tables;
  __m512i before[kMaxStreams];
  const int64_t last = a.begin == 0 ? a.blocks - 1 : a.begin - 1;
  for (int s = 0; s < a.stored; ++s) {
    before[s] = _mm512_loadu_si512(a.planes + (last * a.stored + s) * kTileBytes);
  }
  uint8_t* out = a.out;
  const uint8_t* in = a.planes + a.begin * a.stored * kTileBytes;
  for (int64_t b = a.begin; b < a.end; ++b, out += tables.derived * kTileBytes) {
    __m512i q[kMaxStreams];
    for (int k = 0; k < tables.derived; ++k) q[k] = _mm512_setzero_si512();
    for (int s = 0; s < a.stored; ++s, in += kTileBytes) {
      const __m512i w = _mm512_loadu_si512(in);
      _mm_prefetch(reinterpret_cast<const char*>(in) + kPrefetchBytes, _MM_HINT_T0);
      const __m512i byte_before =
          _mm512_or_si512(_mm512_slli_epi32(w, 8), _mm512_srli_epi32(before[s], 24));
      before[s] = w;
      for (int k = 0; k < tables.derived; ++k) {
        const __m512i low = _mm512_gf2p8affine_epi64_epi8(
            w, _mm512_set1_epi64(static_cast<int64_t>(tables.low[k][s])), 0);
        const __m512i high = _mm512_gf2p8affine_epi64_epi8(
            byte_before, _mm512_set1_epi64(static_cast<int64_t>(tables.high[k][s])), 0);
        q[k] = _mm512_ternarylogic_epi32(q[k], low, high, 0x96);
      }
    }
    for (int k = 0; k < tables.derived; ++k) _mm512_store_si512(out + k * kTileBytes, q[k]);
  }
}
