// Recurrent layers: work is split over channels or heads; a sequence's tokens follow one another.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/base/check.h"
#include "kernels/cpu/cpu_backend_impl.h"

namespace lift::cpu {
namespace {

size_t Bytes(int64_t floats) { return sizeof(float) * static_cast<size_t>(floats); }

int64_t CountTokens(std::span<const RecurrentSequence> sequences) {
  int64_t tokens = 0;
  for (const RecurrentSequence& s : sequences) {
    LIFT_CHECK(s.tokens > 0 && s.first_row >= 0 && s.from >= -1 && s.to >= 0);
    tokens += s.tokens;
  }
  return tokens;
}

// As torch's: x itself where the logarithm adds nothing.
float Softplus(float x) { return x > 20.0f ? x : std::log1p(std::exp(x)); }

// The last kernel - 1 inputs of history and x together.
void KeepHistory(const ConvRun& run, float* to) {
  for (int64_t j = 0; j + 1 < run.kernel; ++j) {
    const int64_t at = run.tokens - (run.kernel - 1) + j;
    float* row = to + j * run.pitch;
    if (at >= 0) {
      std::memcpy(row, run.x + at * run.x_pitch, Bytes(run.channels));
    } else if (run.history != nullptr) {
      std::memmove(row, run.history + (at + run.kernel - 1) * run.pitch, Bytes(run.channels));
    } else {
      std::fill_n(row, run.channels, 0.0f);
    }
  }
}

}  // namespace

void CpuBackend::CausalConv(const ConvLayer& layer, std::span<const RecurrentSequence> sequences,
                            float* states, const float* x, int64_t pitch, float* out) {
  LIFT_CHECK(layer.channels > 0 && layer.kernel > 0 && pitch >= layer.channels);
  const int64_t tokens = CountTokens(sequences), groups = (layer.channels + kLanes - 1) / kLanes;
  For(groups, tokens * layer.kernel * kLanes, [&](int64_t begin, int64_t end, int) {
    const int64_t c = begin * kLanes;
    ConvRun run;
    run.weight = layer.weight + c, run.bias = layer.bias + c;
    run.x_pitch = pitch, run.pitch = layer.channels, run.kernel = layer.kernel;
    run.channels = std::min(layer.channels, end * kLanes) - c;
    for (const RecurrentSequence& s : sequences) {
      run.x = x + s.first_row * pitch + c;
      run.out = out + s.first_row * layer.channels + c;
      run.history = s.from < 0 ? nullptr : states + s.from * layer.state_pitch + c;
      run.tokens = s.tokens;
      k_.conv(run);
      KeepHistory(run, states + s.to * layer.state_pitch + c);
    }
  });
}

void CpuBackend::SelectiveScan(const ScanLayer& layer, std::span<const RecurrentSequence> sequences,
                               float* states, const ScanInputs& in, float* out) {
  LIFT_CHECK(layer.heads > 0 && layer.head_dim > 0 && layer.states > 0);
  LIFT_CHECK(layer.groups > 0 && layer.heads % layer.groups == 0);
  const int64_t tokens = CountTokens(sequences), head_floats = layer.head_dim * layer.states;
  const int64_t group_heads = layer.heads / layer.groups;
  int64_t longest = 0;
  for (const RecurrentSequence& s : sequences) longest = std::max(longest, s.tokens);
  ReserveScratch(Bytes(longest));
  For(layer.heads, 4 * tokens * head_floats, [&](int64_t begin, int64_t end, int thread) {
    float* dt = Scratch<float>(thread);
    ScanRun run;
    run.dt = dt;
    run.a_per_state = layer.a_per_state;
    run.x_pitch = in.x_pitch, run.bc_pitch = in.bc_pitch;
    run.out_pitch = layer.heads * layer.head_dim;
    run.head_dim = layer.head_dim, run.states = layer.states;
    for (int64_t h = begin; h < end; ++h) {
      run.a = layer.a + h * (layer.a_per_state ? layer.states : 1);
      run.d = layer.d[h];
      for (const RecurrentSequence& s : sequences) {
        const float* raw = in.dt + s.first_row * in.dt_pitch + h;
        const float bias = layer.dt_bias ? layer.dt_bias[h] : 0.0f;
        for (int64_t t = 0; t < s.tokens; ++t)
          dt[t] = std::clamp(Softplus(raw[t * in.dt_pitch] + bias), layer.dt_min, layer.dt_max);
        run.x = in.x + s.first_row * in.x_pitch + h * layer.head_dim;
        run.b = in.b + s.first_row * in.bc_pitch + h / group_heads * layer.states;
        run.c = in.c + s.first_row * in.bc_pitch + h / group_heads * layer.states;
        run.out = out + s.first_row * run.out_pitch + h * layer.head_dim;
        run.tokens = s.tokens;
        run.state = states + s.to * layer.state_pitch + h * head_floats;
        if (s.from < 0) {
          std::fill_n(run.state, head_floats, 0.0f);
        } else if (s.from != s.to) {
          std::memcpy(run.state, states + s.from * layer.state_pitch + h * head_floats,
                      Bytes(head_floats));
        }
        k_.scan(run);
      }
    }
  });
}

void CpuBackend::CopyColumns(const float* x, int64_t tokens, int64_t pitch, int64_t cols,
                             float* out) {
  LIFT_CHECK(cols > 0 && pitch >= cols);
  for (int64_t t = 0; t < tokens; ++t) std::memcpy(out + t * cols, x + t * pitch, Bytes(cols));
}

}  // namespace lift::cpu
