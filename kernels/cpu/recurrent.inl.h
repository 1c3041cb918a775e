// The causal convolution and the selective scan of Mamba on the 16-lane vectors of simd_*.inl.h.
// Products are fused where they say so and nowhere else: every instruction set gives the same bits.

void ConvKernel(const ConvRun& a) {
  for (int64_t t = 0; t < a.tokens; ++t) {
    for (int64_t c = 0; c < a.channels; c += kLanes) {
      const int64_t n = a.channels - c;
      V sum = LoadN(a.bias + c, n);
      for (int64_t k = 0; k < a.kernel; ++k) {
        const int64_t at = t - (a.kernel - 1) + k;
        if (at < 0 && a.history == nullptr) continue;
        const float* input =
            at < 0 ? a.history + (at + a.kernel - 1) * a.pitch : a.x + at * a.x_pitch;
        sum = Add(sum, Mul(LoadN(a.weight + k * a.pitch + c, n), LoadN(input + c, n)));
      }
      const V silu = Div(sum, Add(Splat(1.0f), Exp(Sub(Splat(0.0f), sum))));
      StoreN(a.out + t * a.pitch + c, silu, n);
    }
  }
}

// Tokens [first, first + kTokens): a vector of the state goes through all of them in a register.
template <int kTokens>
inline void ScanTokens(const ScanRun& a, int64_t first) {
  V dt[kTokens], same[kTokens];
  for (int t = 0; t < kTokens; ++t) {
    dt[t] = Splat(a.dt[first + t]);
    same[t] = a.a_per_state ? dt[t] : Exp(Mul(dt[t], Splat(a.a[0])));
  }
  const float* b = a.b + first * a.bc_pitch;
  const float* c = a.c + first * a.bc_pitch;
  for (int64_t p = 0; p < a.head_dim; ++p) {
    const float* x = a.x + first * a.x_pitch + p;
    float* state = a.state + p * a.states;
    V step[kTokens], sum[kTokens];
    for (int t = 0; t < kTokens; ++t) {
      step[t] = Splat(a.dt[first + t] * x[t * a.x_pitch]);
      sum[t] = Splat(0.0f);
    }
    for (int64_t i = 0; i < a.states; i += kLanes) {
      const int64_t n = a.states - i;
      V s = LoadN(state + i, n);
      for (int t = 0; t < kTokens; ++t) {
        const V decay = a.a_per_state ? Exp(Mul(dt[t], LoadN(a.a + i, n))) : same[t];
        s = Fma(decay, s, Mul(step[t], LoadN(b + t * a.bc_pitch + i, n)));
        sum[t] = Fma(s, LoadN(c + t * a.bc_pitch + i, n), sum[t]);
      }
      StoreN(state + i, s, n);
    }
    float* out = a.out + first * a.out_pitch + p;
    for (int t = 0; t < kTokens; ++t)
      out[t * a.out_pitch] = ReduceAdd(sum[t]) + a.d * x[t * a.x_pitch];
  }
}

void ScanKernel(const ScanRun& a) {
  int64_t t = 0;
  for (; t + 4 <= a.tokens; t += 4) ScanTokens<4>(a, t);
  for (; t < a.tokens; ++t) ScanTokens<1>(a, t);
}
