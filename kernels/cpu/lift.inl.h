// Rotation, lifting and quantization of one token. Operation order is that of format/rotation.cc
// and the same on every instruction set, without fused operations, so all give the same bits.

// Strides 1 to 8 of the Walsh-Hadamard butterflies inside one vector.
inline V SmallButterflies(V a) {
  a = LaneButterfly<1>(a);
  a = LaneButterfly<2>(a);
  a = LaneButterfly<4>(a);
  return LaneButterfly<8>(a);
}

void Butterflies(float* x, int64_t p) {
  int64_t h = 1;
  if (p >= kLanes) {
    for (int64_t i = 0; i < p; i += kLanes) Store(x + i, SmallButterflies(Load(x + i)));
    h = kLanes;
  }
  for (; h < p; h *= 2) {
    for (int64_t i = 0; i < p; i += 2 * h) {
      float* low = x + i;
      float* high = x + i + h;
      if (h < kLanes) {
        for (int64_t k = 0; k < h; ++k) {
          const float a = low[k], b = high[k];
          low[k] = a + b;
          high[k] = a - b;
        }
        continue;
      }
      for (int64_t k = 0; k < h; k += kLanes) {
        const V a = Load(low + k), b = Load(high + k);
        Store(low + k, Add(a, b));
        Store(high + k, Sub(a, b));
      }
    }
  }
}

// out = (C_m (x) I_p) in.
void MixBlocks(const float* c, int64_t m, int64_t p, const float* in, float* out) {
  for (int64_t i = 0; i < m; ++i, c += m) {
    for (int64_t k = 0; k < p; k += kLanes) {
      const int64_t n = p - k;
      V sum = Mul(Splat(c[0]), LoadN(in + k, n));
      for (int64_t j = 1; j < m; ++j) sum = Add(sum, Mul(Splat(c[j]), LoadN(in + j * p + k, n)));
      StoreN(out + i * p + k, sum, n);
    }
  }
}

void Rotate(const RotateToken& a) {
  if (a.signs == nullptr) {
    for (int64_t i = 0; i < a.cols; ++i) a.out[i] = a.x[i];
  } else {
    float* z = a.odd == 1 ? a.out : a.scratch;
    for (int64_t i = 0; i < a.cols; ++i) z[i] = a.x[i] * (a.signs[i] * a.norm);
    for (int64_t b = 0; b < a.odd; ++b) Butterflies(z + b * a.power, a.power);
    if (a.odd != 1) MixBlocks(a.hartley, a.odd, a.power, z, a.out);
  }
  for (int64_t i = a.cols; i < a.padded; ++i) a.out[i] = 0.0f;
  for (int64_t i = 0; i < a.tail; ++i) a.out[a.padded + i] = a.out[i % a.padded];
}

// u [streams][padded]; returns the bits of max |u|, where a NaN is above everything.
uint32_t LiftStreams(const LiftSlot& a) {
  uint32_t top = 0;
  for (int r = 0; r < a.streams; ++r) {
    float* u = a.scratch + r * a.padded;
    for (int64_t t = 0; t < a.padded; t += kLanes) {
      V sum = Mul(Splat(a.taps[r]), Load(a.x + t));
      for (int m = 1; m < a.steps; ++m) {
        sum = Add(sum, Mul(Splat(a.taps[m * a.streams + r]), Load(a.x + t + m)));
      }
      Store(u + t, sum);
    }
    for (int64_t t = 0; t < a.padded; ++t) {
      const uint32_t bits = __builtin_bit_cast(uint32_t, u[t]) & 0x7FFFFFFFu;
      top = bits > top ? bits : top;
    }
  }
  return top;
}

// Bytes of 32 columns in tile order: position 4 * i + j holds column 8 * j + i.
inline void PackBlock(const int32_t* q, int8_t* out) {
  uint32_t words[8];
  for (int i = 0; i < 8; ++i) {
    const uint32_t a = static_cast<uint32_t>(q[i]), b = static_cast<uint32_t>(q[8 + i]);
    const uint32_t c = static_cast<uint32_t>(q[16 + i]), d = static_cast<uint32_t>(q[24 + i]);
    words[i] = (a & 255) | (b & 255) << 8 | (c & 255) << 16 | d << 24;
  }
  __builtin_memcpy(out, words, sizeof(words));
}

inline void QuantizeBlock(const float* u, float inverse, bool wide, int8_t* high_out,
                          int8_t* low_out, int32_t* high_sum, int32_t* low_sum) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest even integer
  int32_t high[kTileColumns], low[kTileColumns];
  for (int t = 0; t < kTileColumns; ++t) {
    const int32_t q =
        __builtin_bit_cast(int32_t, u[t] * inverse + kMagic) - __builtin_bit_cast(int32_t, kMagic);
    high[t] = wide ? (q + 64) >> 7 : q;
    low[t] = q - high[t] * 128;
  }
  for (int t = 0; t < kTileColumns; ++t) high_sum[t % kLanes] += high[t];
  PackBlock(high, high_out);
  if (!wide) return;
  for (int t = 0; t < kTileColumns; ++t) low_sum[t % kLanes] += low[t];
  PackBlock(low, low_out);
}

void LiftSlotKernel(const LiftSlot& a) {
  const uint32_t top = LiftStreams(a);
  const float maximum = __builtin_bit_cast(float, top);
  const float limit = a.wide ? 16256.0f : 127.0f;
  const bool finite = top < 0x7F800000u;
  // Below 1e-30 limit / maximum could overflow; such an input is zero for every purpose.
  const bool usable = finite && maximum > 1e-30f;
  const float inverse = usable ? limit / maximum : 0.0f;
  *a.scale = usable ? maximum / limit : (finite ? 0.0f : __builtin_nanf(""));
  int32_t high_sum[kLanes] = {}, low_sum[kLanes] = {};
  if (!finite) {
    for (int64_t i = 0; i < a.padded * a.streams; ++i) a.scratch[i] = 0.0f;
  }
  for (int64_t block = 0; block < a.padded / kTileColumns; ++block) {
    for (int r = 0; r < a.streams; ++r) {
      const int64_t at = (block * a.streams + r) * kTileColumns;
      QuantizeBlock(a.scratch + r * a.padded + block * kTileColumns, inverse, a.wide, a.high + at,
                    a.wide ? a.low + at : nullptr, high_sum, low_sum);
    }
  }
  a.sums[0] = a.sums[1] = 0;
  for (int i = 0; i < kLanes; ++i) {
    a.sums[0] += high_sum[i];
    a.sums[1] += low_sum[i];
  }
}
