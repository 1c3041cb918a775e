// Cells of the key/value cache: storing a row, and where the rows of a block are.

// Orthonormal rotation of a head before its bytes are kept: signs, then Walsh-Hadamard butterflies
// over the largest power of two that divides the dimension. Dot products stay the same and an
// outlier is spread over its block.
inline float HeadSign(int64_t i) {
  const uint64_t mixed = static_cast<uint64_t>(i + 1) * 0x9E3779B97F4A7C15u;
  return (mixed >> 40 & 1) != 0 ? -1.0f : 1.0f;
}

inline int64_t HeadPower(int64_t dim) { return dim & -dim; }

inline float HeadNorm(int64_t dim) {
  return 1.0f / __builtin_sqrtf(static_cast<float>(HeadPower(dim)));
}

void RotateHead(float* x, int64_t dim) {
  const float norm = HeadNorm(dim);
  for (int64_t i = 0; i < dim; ++i) x[i] *= HeadSign(i) * norm;
  for (int64_t i = 0; i < dim; i += HeadPower(dim)) Butterflies(x + i, HeadPower(dim));
}

void RotateHeadBack(float* x, int64_t dim) {
  const float norm = HeadNorm(dim);
  for (int64_t i = 0; i < dim; i += HeadPower(dim)) Butterflies(x + i, HeadPower(dim));
  for (int64_t i = 0; i < dim; ++i) x[i] *= HeadSign(i) * norm;
}

void StoreBytes(const StoreKv& a) {
  float* x = a.scratch;
  for (int64_t i = 0; i < a.dim; ++i) x[i] = a.x[i];
  RotateHead(x, a.dim);
  uint32_t top = 0;  // bits of max |x|, where a NaN is above everything
  for (int64_t i = 0; i < a.dim; ++i) {
    const uint32_t bits = __builtin_bit_cast(uint32_t, x[i]) & 0x7FFFFFFFu;
    top = bits > top ? bits : top;
  }
  const float maximum = __builtin_bit_cast(float, top);
  const bool finite = top < 0x7F800000u;
  const bool usable = finite && maximum > 1e-30f;
  const float inverse = usable ? 127.0f / maximum : 0.0f;
  const float scale = usable ? maximum / 127.0f : (finite ? 0.0f : __builtin_nanf(""));
  __builtin_memcpy(a.scale, &scale, sizeof(scale));  // odd shapes leave scales at odd places
  auto* cells = static_cast<int8_t*>(a.cells);
  for (int64_t i = 0; i < a.dim; ++i) {
    constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const float rounded = finite ? x[i] * inverse + kMagic : kMagic;
    cells[i * a.stride] = static_cast<int8_t>(__builtin_bit_cast(int32_t, rounded) -
                                              __builtin_bit_cast(int32_t, kMagic));
  }
}

void StoreHalfCells(const StoreKv& a) {
  auto* cells = static_cast<uint16_t*>(a.cells);
  for (int64_t i = 0; i < a.dim; i += kLanes) {
    const int64_t n = a.dim - i < kLanes ? a.dim - i : kLanes;
    const V x = LoadN(a.x + i, n);
    const V floor = SelectLess(x, Splat(-65504.0f), Splat(-65504.0f), x);
    uint16_t halves[kLanes];
    StoreHalves(halves, SelectLess(Splat(65504.0f), floor, Splat(65504.0f), floor));
    for (int64_t j = 0; j < n; ++j) cells[(i + j) * a.stride] = halves[j];
  }
}

void StoreKvRow(const StoreKv& a) {
  switch (a.format) {
    case KvFormat::kF32: {
      auto* cells = static_cast<float*>(a.cells);
      for (int64_t i = 0; i < a.dim; ++i) cells[i * a.stride] = a.x[i];
      return;
    }
    case KvFormat::kBF16: {
      auto* cells = static_cast<uint16_t*>(a.cells);
      for (int64_t i = 0; i < a.dim; ++i) {
        const uint32_t x = __builtin_bit_cast(uint32_t, a.x[i]);
        const bool nan = (x & 0x7FFFFFFFu) > 0x7F800000u;
        const uint32_t rounded = (x + 0x7FFFu + ((x >> 16) & 1)) >> 16;
        cells[i * a.stride] = static_cast<uint16_t>(nan ? (x >> 16) | 0x40 : rounded);
      }
      return;
    }
    case KvFormat::kF16:
      return StoreHalfCells(a);
    case KvFormat::kInt8:
      return StoreBytes(a);
  }
}

// One cell, converted as LoadCells does.
template <typename Cell>
inline float CellToFloat(Cell cell) {
  if constexpr (sizeof(Cell) == 2) {
    Cell cells[kLanes] = {cell};
    float values[kLanes];
    Store(values, LoadCells(cells));
    return values[0];
  } else {
    return static_cast<float>(cell);
  }
}

// The cells that one key/value head of a sequence reads.
template <typename Cell>
struct KvCells {
  const std::byte* cache;
  const int32_t* blocks;
  int64_t block_bytes, block_tokens, dim, kv_heads, kv_head;

  explicit KvCells(const AttendItem& a)
      : cache(a.cache),
        blocks(a.sequence->blocks.data()),
        block_bytes(a.shape->block_bytes()),
        block_tokens(a.shape->block_tokens),
        dim(a.shape->head_dim),
        kv_heads(a.shape->kv_heads),
        kv_head(a.kv_head) {}
  const std::byte* block(int64_t position) const {
    return cache + block_bytes * blocks[position / block_tokens];
  }
  // Cells of the key at `position`, block_tokens apart.
  const Cell* key(int64_t position) const {
    return reinterpret_cast<const Cell*>(block(position)) + kv_head * block_tokens * dim +
           position % block_tokens;
  }
  // Cells of the value at `position`, side by side.
  const Cell* value(int64_t position) const {
    return reinterpret_cast<const Cell*>(block(position)) +
           (kv_heads + kv_head) * block_tokens * dim + position % block_tokens * dim;
  }
  // Scale of the key (half 0) or value (half 1).
  float scale(int64_t position, int half) const {
    const std::byte* scales = block(position) + 2 * kv_heads * block_tokens * dim;
    float scale;
    __builtin_memcpy(
        &scale, scales + 4 * ((half * kv_heads + kv_head) * block_tokens + position % block_tokens),
        sizeof(scale));
    return scale;
  }
  // Positions from `position` on, at most `keys`, that share one block.
  int64_t run(int64_t position, int64_t keys) const {
    const int64_t left = block_tokens - position % block_tokens;
    return keys < left ? keys : left;
  }
};
