// The causal convolution and the selective scan of Mamba on the 16-lane vectors of simd_*.inl.h. No
// fused operations: every instruction set gives the same bits.

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

void ScanKernel(const ScanRun& a) {
  for (int64_t t = 0; t < a.tokens; ++t) {
    const float* b = a.b + t * a.bc_pitch;
    const float* c = a.c + t * a.bc_pitch;
    const V dt = Splat(a.dt[t]);
    const V same = a.a_per_state ? dt : Exp(Mul(dt, Splat(a.a[0])));
    for (int64_t p = 0; p < a.head_dim; ++p) {
      const float x = a.x[t * a.x_pitch + p];
      const V step = Splat(a.dt[t] * x);
      float* state = a.state + p * a.states;
      V sum = Splat(0.0f);
      for (int64_t i = 0; i < a.states; i += kLanes) {
        const int64_t n = a.states - i;
        const V decay = a.a_per_state ? Exp(Mul(dt, LoadN(a.a + i, n))) : same;
        const V next = Add(Mul(decay, LoadN(state + i, n)), Mul(step, LoadN(b + i, n)));
        StoreN(state + i, next, n);
        sum = Add(sum, Mul(next, LoadN(c + i, n)));
      }
      a.out[t * a.out_pitch + p] = ReduceAdd(sum) + a.d * x;
    }
  }
}
