// Sign planes times int8 with vpdpbusd. One register is a tile: 32-bit lane = row, byte j bit i =
// column 8 j + i, and the bytes of u are stored so that position 4 i + j belongs to that column.

constexpr int64_t kPrefetchBytes = 4096;

// How far ahead of block `block` of a row tile to prefetch: beyond its end come the tile of the
// same place in the next pair, so the other tile of this pair is passed over.
inline int64_t Ahead(const SignDot& a, int64_t block) {
  const int64_t bytes = a.stored * kTileBytes;
  const bool inside = block * bytes + kPrefetchBytes < a.blocks * bytes;
  return inside ? kPrefetchBytes : kPrefetchBytes + (a.tiles - 1) * a.blocks * bytes;
}

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
    const int64_t ahead = Ahead(a, b);
    for (int s = 0; s < a.stored; ++s, offset += kTileColumns) {
#pragma GCC unroll 2
      for (int i = 0; i < kTiles; ++i) {
        w[i] = _mm512_loadu_si512(plane[i]);
        _mm_prefetch(reinterpret_cast<const char*>(plane[i]) + ahead, _MM_HINT_T0);
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

// One column: `w & mask_i` has bytes of value 0 or 2^i, summed in accumulator i, which is shifted
// right by i at the end (exact). No unpacking. Two tiles share each broadcast of u.
template <int kTiles>
void DotMasked(const SignDot& a, int64_t column) {
  __m512i acc[kTiles][8];
#pragma GCC unroll 2
  for (int i = 0; i < kTiles; ++i) {
#pragma GCC unroll 8
    for (int bit = 0; bit < 8; ++bit) acc[i][bit] = _mm512_setzero_si512();
  }
  const int8_t* u = a.columns[column];
  ForEachTile<kTiles>(
      a, [&](const __m512i* w, int64_t offset) __attribute__((always_inline)) {
#pragma GCC unroll 8
        for (int bit = 0; bit < 8; ++bit) {
          const __m512i bytes = Bytes4(u + offset + 4 * bit);
#pragma GCC unroll 2
          for (int i = 0; i < kTiles; ++i) {
            acc[i][bit] = _mm512_dpbusd_epi32(
                acc[i][bit], _mm512_and_si512(w[i], _mm512_set1_epi8(static_cast<char>(1 << bit))),
                bytes);
          }
        }
      });
#pragma GCC unroll 2
  for (int i = 0; i < kTiles; ++i) {
    __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int bit = 0; bit < 8; ++bit) {
      sum = _mm512_add_epi32(sum, _mm512_srai_epi32(acc[i][bit], bit));
    }
    AddTo(a.acc + column * kTilePair + i * kTileRows, sum);
  }
}

// Many columns: bytes of value 0 or 1, made once for all of them. A dot product takes several
// cycles and two can start in each, so few columns are summed in several parts.
template <int kTiles, int kColumns>
void DotExpanded(const SignDot& a, int64_t first) {
  constexpr int kSums = kTiles * kColumns, kParts = kSums <= 4 ? 4 : kSums <= 8 ? 2 : 1;
  __m512i acc[kParts][kTiles][kColumns];
#pragma GCC unroll 4
  for (int part = 0; part < kParts; ++part) {
#pragma GCC unroll 2
    for (int i = 0; i < kTiles; ++i) {
#pragma GCC unroll 8
      for (int c = 0; c < kColumns; ++c) acc[part][i][c] = _mm512_setzero_si512();
    }
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
            for (int i = 0; i < kTiles; ++i) {
              __m512i& sum = acc[bit % kParts][i][c];
              sum = _mm512_dpbusd_epi32(sum, x[i], bytes);
            }
          }
        }
      });
#pragma GCC unroll 2
  for (int i = 0; i < kTiles; ++i) {
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) {
      __m512i sum = acc[0][i][c];
#pragma GCC unroll 4
      for (int part = 1; part < kParts; ++part) sum = _mm512_add_epi32(sum, acc[part][i][c]);
      AddTo(a.acc + (first + c) * kTilePair + i * kTileRows, sum);
    }
  }
}

template <int kTiles>
void DotUpTo8(const SignDot& a, int64_t first, int64_t columns) {
  switch (columns) {
    case 1:
      return DotMasked<kTiles>(a, first);
    case 2:
      return DotExpanded<kTiles, 2>(a, first);
    case 3:
      return DotExpanded<kTiles, 3>(a, first);
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
    if (a.tiles == 2) {
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

void ScaleRows(const uint16_t* scale, int64_t rows, float* y) {
  for (int64_t r = 0; r < rows; r += kLanes) {
    const __mmask16 lanes = FirstLanes(rows - r);
    const __m512 factor = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, scale + r));
    const __m512 values = _mm512_maskz_loadu_ps(lanes, y + r);
    _mm512_mask_storeu_ps(y + r, lanes, _mm512_mul_ps(values, factor));
  }
}

// Adds stored stream `s` of tile `i` to its derived words q[.][i]; `before` holds the block before
// and then this one.
template <int kDerived, int kTiles>
__attribute__((target("gfni,avx512vbmi2"), always_inline)) inline void DeriveWords(
    const ParityTables& tables, int s, __m512i w, __m512i& before, int i, __m512i (*q)[kTiles]) {
  const __m512i byte_before = _mm512_shldi_epi32(w, before, 8);
  before = w;
#pragma GCC unroll 2
  for (int k = 0; k < kDerived; ++k) {
    const __m512i same = _mm512_gf2p8affine_epi64_epi8(
        w, _mm512_set1_epi64(static_cast<int64_t>(tables.low[k][s])), 0);
    const __m512i carried = _mm512_gf2p8affine_epi64_epi8(
        byte_before, _mm512_set1_epi64(static_cast<int64_t>(tables.high[k][s])), 0);
    q[k][i] = s == 0 ? _mm512_xor_si512(same, carried)
                     : _mm512_ternarylogic_epi32(q[k][i], same, carried, 0x96);
  }
}

// One or two columns (a token, or the two bytes of a wide one) with the derived signs made in
// registers, so that memory and arithmetic overlap.
template <int kStored, int kDerived, int kColumns, int kTiles>
__attribute__((target("gfni,avx512vbmi2"))) void DotFused(const SignDot& a, int first_tile) {
  constexpr int kStreams = kStored + kDerived;
  const ParityTables& tables = *a.parity;
  __m512i acc[kTiles][kColumns][8], before[kTiles][kStored];
  const uint8_t* plane[kTiles];
#pragma GCC unroll 2
  for (int i = 0; i < kTiles; ++i) {
#pragma GCC unroll 2
    for (int c = 0; c < kColumns; ++c) {
#pragma GCC unroll 8
      for (int bit = 0; bit < 8; ++bit) acc[i][c][bit] = _mm512_setzero_si512();
    }
    plane[i] = a.planes[first_tile + i];
    const uint8_t* last = plane[i] + (a.end - 1) * kStored * kTileBytes;
#pragma GCC unroll 4
    for (int s = 0; s < kStored; ++s) before[i][s] = _mm512_loadu_si512(last + s * kTileBytes);
  }
  const int8_t* u[kColumns];
  for (int c = 0; c < kColumns; ++c) u[c] = a.columns[c];
  int64_t offset = 0;
  const auto add = [&](const __m512i* w, int64_t at) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int bit = 0; bit < 8; ++bit) {
      __m512i x[kTiles];
#pragma GCC unroll 2
      for (int i = 0; i < kTiles; ++i)
        x[i] = _mm512_and_si512(w[i], _mm512_set1_epi8(static_cast<char>(1 << bit)));
#pragma GCC unroll 2
      for (int c = 0; c < kColumns; ++c) {
        const __m512i bytes = Bytes4(u[c] + at + 4 * bit);
#pragma GCC unroll 2
        for (int i = 0; i < kTiles; ++i) {
          acc[i][c][bit] = _mm512_dpbusd_epi32(acc[i][c][bit], x[i], bytes);
        }
      }
    }
  };
  for (int64_t b = 0; b < a.end; ++b, offset += kStreams * kTileColumns) {
    __m512i q[kDerived + 1][kTiles];
    const int64_t ahead = Ahead(a, b);
#pragma GCC unroll 4
    for (int s = 0; s < kStored; ++s) {
      __m512i w[kTiles];
#pragma GCC unroll 2
      for (int i = 0; i < kTiles; ++i) {
        w[i] = _mm512_loadu_si512(plane[i]);
        _mm_prefetch(reinterpret_cast<const char*>(plane[i]) + ahead, _MM_HINT_T0);
        plane[i] += kTileBytes;
      }
      add(w, offset + s * kTileColumns);
      if constexpr (kDerived > 0) {
#pragma GCC unroll 2
        for (int i = 0; i < kTiles; ++i) {
          DeriveWords<kDerived>(tables, s, w[i], before[i][s], i, q);
        }
      }
    }
#pragma GCC unroll 2
    for (int k = 0; k < kDerived; ++k) add(q[k], offset + (kStored + k) * kTileColumns);
  }
#pragma GCC unroll 2
  for (int i = 0; i < kTiles; ++i) {
#pragma GCC unroll 2
    for (int c = 0; c < kColumns; ++c) {
      __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 8
      for (int bit = 0; bit < 8; ++bit) {
        sum = _mm512_add_epi32(sum, _mm512_srai_epi32(acc[i][c][bit], bit));
      }
      AddTo(a.acc + c * kTilePair + (first_tile + i) * kTileRows, sum);
    }
  }
}

template <int kStored, int kDerived>
void DotFusedTiles(const SignDot& a) {
  if (a.num_columns == 1 && a.tiles == 2) return DotFused<kStored, kDerived, 1, 2>(a, 0);
  for (int tile = 0; tile < a.tiles; ++tile) {
    if (a.num_columns == 1) {
      DotFused<kStored, kDerived, 1, 1>(a, tile);
    } else {
      DotFused<kStored, kDerived, 2, 1>(a, tile);
    }
  }
}

bool SignDotFusedGfni(const SignDot& a) {
  using Dot = void (*)(const SignDot&);
  static constexpr Dot kDots[4][3] = {
      {DotFusedTiles<1, 0>, DotFusedTiles<1, 1>, DotFusedTiles<1, 2>},
      {DotFusedTiles<2, 0>, DotFusedTiles<2, 1>, DotFusedTiles<2, 2>},
      {DotFusedTiles<3, 0>, DotFusedTiles<3, 1>, nullptr},
      {DotFusedTiles<4, 0>, DotFusedTiles<4, 1>, nullptr}};
  if (a.num_columns > 2 || a.stored > 4 || a.derived_streams > 2) return false;
  if (a.num_columns == 2 && a.derived_streams == 0) return false;  // DotExpanded is faster
  const Dot dot = kDots[a.stored - 1][a.derived_streams];
  if (dot == nullptr) return false;
  dot(a);
  return true;
}

// A byte of a derived stream depends on the same byte and the one before it of each stored stream,
// linearly over GF(2): two matrix products, whatever the mask.
template <int kStored, int kDerived>
__attribute__((target("gfni"))) void DeriveFixed(const DeriveTile& a) {
  const ParityTables& tables = *a.tables;
  __m512i before[kStored], low[kDerived][kStored], high[kDerived][kStored];
  const int64_t last = a.begin == 0 ? a.blocks - 1 : a.begin - 1;
  for (int s = 0; s < kStored; ++s) {
    before[s] = _mm512_loadu_si512(a.planes + (last * kStored + s) * kTileBytes);
    for (int k = 0; k < kDerived; ++k) {
      low[k][s] = _mm512_set1_epi64(static_cast<int64_t>(tables.low[k][s]));
      high[k][s] = _mm512_set1_epi64(static_cast<int64_t>(tables.high[k][s]));
    }
  }
  uint8_t* out = a.out;
  const uint8_t* in = a.planes + a.begin * kStored * kTileBytes;
  for (int64_t b = a.begin; b < a.end; ++b) {
    __m512i q[kDerived];
#pragma GCC unroll 8
    for (int s = 0; s < kStored; ++s, in += kTileBytes) {
      const __m512i w = _mm512_loadu_si512(in);
      _mm_prefetch(reinterpret_cast<const char*>(in) + kPrefetchBytes, _MM_HINT_T0);
      const __m512i byte_before =
          _mm512_or_si512(_mm512_slli_epi32(w, 8), _mm512_srli_epi32(before[s], 24));
      before[s] = w;
#pragma GCC unroll 8
      for (int k = 0; k < kDerived; ++k) {
        const __m512i same = _mm512_gf2p8affine_epi64_epi8(w, low[k][s], 0);
        const __m512i carried = _mm512_gf2p8affine_epi64_epi8(byte_before, high[k][s], 0);
        q[k] = s == 0 ? _mm512_xor_si512(same, carried)
                      : _mm512_ternarylogic_epi32(q[k], same, carried, 0x96);
      }
    }
#pragma GCC unroll 8
    for (int k = 0; k < kDerived; ++k, out += kTileBytes) _mm512_store_si512(out, q[k]);
  }
}

void DeriveGfni(const DeriveTile& a) {
  const int derived = a.tables->derived;
  if (a.stored == 1 && derived == 1) return DeriveFixed<1, 1>(a);
  if (a.stored == 1 && derived == 2) return DeriveFixed<1, 2>(a);
  if (a.stored == 2 && derived == 1) return DeriveFixed<2, 1>(a);
  if (a.stored == 2 && derived == 2) return DeriveFixed<2, 2>(a);
  if (a.stored == 3 && derived == 1) return DeriveFixed<3, 1>(a);
  if (a.stored == 3 && derived == 2) return DeriveFixed<3, 2>(a);
  if (a.stored == 4 && derived == 1) return DeriveFixed<4, 1>(a);
  DeriveByShifts(a);
}
