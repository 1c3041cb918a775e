// Norms, activations and the rotary embedding on the 16-lane vectors of simd_*.inl.h.

// Relative error below 2e-7; 0 below -86, infinity above 88; NaN stays NaN. No fused operations, so
// every instruction set rounds alike.
inline V Exp(V x) {
  const V magic = Splat(12582912.0f);
  const V t = Add(Mul(x, Splat(1.44269504f)), magic);
  const V n = Sub(t, magic);
  const V r = Sub(Sub(x, Mul(n, Splat(0.693359375f))), Mul(n, Splat(-2.12194440e-4f)));
  V p = Splat(1.9875691500e-4f);
  p = Add(Mul(p, r), Splat(1.3981999507e-3f));
  p = Add(Mul(p, r), Splat(8.3334519073e-3f));
  p = Add(Mul(p, r), Splat(4.1665795894e-2f));
  p = Add(Mul(p, r), Splat(1.6666665459e-1f));
  p = Add(Mul(p, r), Splat(5.0000001201e-1f));
  p = Add(Add(Mul(Mul(p, r), r), r), Splat(1.0f));
  const V inside = ScaleByMagic(p, t);
  const V floored = SelectLess(x, Splat(-86.0f), Splat(0.0f), inside);
  return SelectLess(Splat(88.0f), x, Splat(__builtin_inff()), floored);
}

void RmsNormRow(const float* x, const float* gain, float eps, int64_t dim, float* out) {
  V sum = Splat(0.0f);
  for (int64_t i = 0; i < dim; i += kLanes) {
    const V a = LoadN(x + i, dim - i);
    sum = Add(sum, Mul(a, a));
  }
  const V inverse = Splat(1.0f / __builtin_sqrtf(ReduceAdd(sum) / static_cast<float>(dim) + eps));
  for (int64_t i = 0; i < dim; i += kLanes) {
    const int64_t n = dim - i;
    StoreN(out + i, Mul(Mul(LoadN(x + i, n), inverse), LoadN(gain + i, n)), n);
  }
}

void LayerNormRow(const float* x, const float* gain, const float* bias, float eps, int64_t dim,
                  float* out) {
  V sum = Splat(0.0f);
  for (int64_t i = 0; i < dim; i += kLanes) sum = Add(sum, LoadN(x + i, dim - i));
  const float mean = ReduceAdd(sum) / static_cast<float>(dim);
  V squares = Splat(0.0f);
  for (int64_t i = 0; i < dim; i += kLanes) {
    float centred[kLanes] = {};  // lanes past the end stay zero
    StoreN(centred, Sub(LoadN(x + i, dim - i), Splat(mean)), dim - i);
    squares = Add(squares, Mul(Load(centred), Load(centred)));
  }
  const float variance = ReduceAdd(squares) / static_cast<float>(dim);
  const V inverse = Splat(1.0f / __builtin_sqrtf(variance + eps));
  for (int64_t i = 0; i < dim; i += kLanes) {
    const int64_t n = dim - i;
    const V centred = Mul(Sub(LoadN(x + i, n), Splat(mean)), inverse);
    StoreN(out + i, Add(Mul(centred, LoadN(gain + i, n)), LoadN(bias + i, n)), n);
  }
}

void AddInPlace(float* x, const float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] += y[i];
}

void SwiGluRange(const float* gate, const float* up, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const V g = LoadN(gate + i, n - i);
    const V silu = Div(g, Add(Splat(1.0f), Exp(Sub(Splat(0.0f), g))));
    StoreN(out + i, Mul(silu, LoadN(up + i, n - i)), n - i);
  }
}

// 1 - erf(z) for z >= 0 is poly(t) exp(-z^2) with t = 1 / (1 + 0.3275911 z); error below 2e-7
// (Abramowitz and Stegun 7.1.26).
inline V ErfComplement(V z) {
  const V t = Div(Splat(1.0f), Add(Splat(1.0f), Mul(Splat(0.3275911f), z)));
  V p = Splat(1.061405429f);
  p = Add(Mul(p, t), Splat(-1.453152027f));
  p = Add(Mul(p, t), Splat(1.421413741f));
  p = Add(Mul(p, t), Splat(-0.284496736f));
  p = Add(Mul(p, t), Splat(0.254829592f));
  return Mul(Mul(p, t), Exp(Sub(Splat(0.0f), Mul(z, z))));
}

void GeluRange(float* x, int64_t n, bool tanh_form) {
  const V zero = Splat(0.0f), one = Splat(1.0f), half = Splat(0.5f);
  for (int64_t i = 0; i < n; i += kLanes) {
    const V v = LoadN(x + i, n - i);
    V share;  // of x that passes
    if (tanh_form) {
      const V cube = Mul(Mul(v, v), v);
      const V twice =
          Mul(Splat(1.5957691216f), Add(v, Mul(Splat(0.044715f), cube)));  // 2 sqrt(2/pi) (...)
      share = Div(one, Add(one, Exp(Sub(zero, twice))));
    } else {
      const V tail =
          Mul(half, ErfComplement(Mul(Max(v, Sub(zero, v)), Splat(0.70710678f))));  // Phi(-|x|)
      share = SelectLess(v, zero, tail, Sub(one, tail));
    }
    StoreN(x + i, Mul(v, share), n - i);
  }
}

void RopeToken(float* x, int64_t heads, int64_t head_dim, int64_t rotary_dim, const float* cos_sin,
               bool interleaved) {
  const int64_t half = rotary_dim / 2;
  const int64_t step = interleaved ? 2 : 1, partner = interleaved ? 1 : half;
  const float* sine = cos_sin + half;
  for (int64_t h = 0; h < heads; ++h, x += head_dim) {
    for (int64_t i = 0; i < half; ++i) {
      float& a = x[i * step];
      float& b = x[i * step + partner];
      const float a0 = a, b0 = b;
      a = a0 * cos_sin[i] - b0 * sine[i];
      b = a0 * sine[i] + b0 * cos_sin[i];
    }
  }
}
