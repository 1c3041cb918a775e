// Rotation, lifting and quantization of one token. Operation order is that of format/rotation.cc
// and the same on every instruction set, without fused operations, so all give the same bits.

// Strides 1 to 8 of the Walsh-Hadamard butterflies inside one vector.
inline V SmallButterflies(V a) {
  a = LaneButterfly<1>(a);
  a = LaneButterfly<2>(a);
  a = LaneButterfly<4>(a);
  return LaneButterfly<8>(a);
}

// Strides h and 2 h in one pass, each sum in the order of two passes.
inline void FourButterflies(float* x, int64_t p, int64_t h) {
  for (int64_t i = 0; i < p; i += 4 * h) {
    for (float* at = x + i; at < x + i + h; at += kLanes) {
      const V a = Load(at), b = Load(at + h), c = Load(at + 2 * h), d = Load(at + 3 * h);
      const V ab = Add(a, b), cd = Add(c, d), a_b = Sub(a, b), c_d = Sub(c, d);
      Store(at, Add(ab, cd));
      Store(at + h, Add(a_b, c_d));
      Store(at + 2 * h, Sub(ab, cd));
      Store(at + 3 * h, Sub(a_b, c_d));
    }
  }
}

void Butterflies(float* x, int64_t p) {
  int64_t h = 1;
  if (p >= kLanes) {
    for (int64_t i = 0; i < p; i += kLanes) Store(x + i, SmallButterflies(Load(x + i)));
    h = kLanes;
  }
  for (; h >= kLanes && 4 * h <= p; h *= 4) FourButterflies(x, p, h);
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

inline int32_t SumI(I a) {
  int32_t lanes[kLanes], sum = 0;
  StoreI(lanes, a);
  for (const int32_t lane : lanes) sum += lane;
  return sum;
}

// kStreams streams from `first` on, each input read once for all of them; the largest magnitude's
// bits go into `top`.
template <int kStreams>
inline void LiftRuns(const LiftSlot& a, int first, I& top) {
  for (int64_t t = 0; t < a.padded; t += kLanes) {
    V sum[kStreams];
    const V x0 = Load(a.x + t);
    for (int r = 0; r < kStreams; ++r) sum[r] = Mul(Splat(a.taps[first + r]), x0);
    for (int m = 1; m < a.steps; ++m) {
      const V x = Load(a.x + t + m);
      const float* taps = a.taps + m * a.streams + first;
      for (int r = 0; r < kStreams; ++r) sum[r] = Add(sum[r], Mul(Splat(taps[r]), x));
    }
    for (int r = 0; r < kStreams; ++r) {
      Store(a.scratch + (first + r) * a.padded + t, sum[r]);
      top = MaxI(top, MagnitudeBits(sum[r]));
    }
  }
}

// u [streams][padded]; returns the bits of max |u|, where a NaN is above everything.
uint32_t LiftStreams(const LiftSlot& a) {
  I top = ZeroI();
  int r = 0;
  for (; r + 3 <= a.streams; r += 3) LiftRuns<3>(a, r, top);
  for (; r + 2 <= a.streams; r += 2) LiftRuns<2>(a, r, top);
  for (; r < a.streams; ++r) LiftRuns<1>(a, r, top);
  int32_t lanes[kLanes], most = 0;
  StoreI(lanes, top);
  for (const int32_t lane : lanes) most = lane > most ? lane : most;
  return static_cast<uint32_t>(most);
}

// 32 columns of one stream: rounded, split if wide, and stored in tile order.
template <bool kWide>
inline void QuantizeBlock(const float* u, V inverse, int8_t* high_out, int8_t* low_out, I& high_sum,
                          I& low_sum) {
  const V magic = Splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to the nearest even integer
  I q[2], low[2];
  for (int h = 0; h < 2; ++h) {
    q[h] = FromMagic(Add(Mul(Load(u + h * kLanes), inverse), magic));
    if constexpr (kWide) SplitWide(q[h], q[h], low[h]);
  }
  high_sum = AddI(high_sum, AddI(q[0], q[1]));
  StoreTileBytes(high_out, q[0], q[1]);
  if constexpr (kWide) {
    low_sum = AddI(low_sum, AddI(low[0], low[1]));
    StoreTileBytes(low_out, low[0], low[1]);
  }
}

template <bool kWide>
void Quantize(const LiftSlot& a, float inverse) {
  I high_sum = ZeroI(), low_sum = ZeroI();
  int8_t* high = a.high;
  int8_t* low = a.low;
  for (int64_t t = 0; t < a.padded; t += kTileColumns) {
    for (int r = 0; r < a.streams; ++r, high += kTileColumns) {
      QuantizeBlock<kWide>(a.scratch + r * a.padded + t, Splat(inverse), high, low, high_sum,
                           low_sum);
      if (kWide) low += kTileColumns;
    }
  }
  a.sums[0] = SumI(high_sum);
  a.sums[1] = SumI(low_sum);
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
  if (!finite) {
    for (int64_t i = 0; i < a.padded * a.streams; ++i) a.scratch[i] = 0.0f;
  }
  a.wide ? Quantize<true>(a, inverse) : Quantize<false>(a, inverse);
}
