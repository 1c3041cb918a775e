#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/reference/reference.h"

namespace lift::reference {
namespace {

constexpr double kEps = std::numeric_limits<float>::epsilon();

}  // namespace

Expected CausalConv(const ConvLayer& layer, std::span<const float> x, int64_t pitch,
                    int64_t tokens) {
  Expected out;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t c = 0; c < layer.channels; ++c) {
      double sum = layer.bias[c], size = std::abs(sum);
      for (int64_t back = 0; back < layer.kernel && back <= t; ++back) {
        const double product = static_cast<double>(x[static_cast<size_t>((t - back) * pitch + c)]) *
                               layer.weight[(layer.kernel - 1 - back) * layer.channels + c];
        sum += product;
        size += std::abs(product);
      }
      out.values.push_back(sum / (1 + std::exp(-sum)));
      out.tolerance.push_back((static_cast<double>(layer.kernel) + 12) * kEps * (size + 1e-30));
    }
  }
  return out;
}

Expected SelectiveScan(const ScanLayer& layer, const ScanInputs& in, int64_t tokens) {
  Expected out;
  const int64_t width = layer.heads * layer.head_dim, group_heads = layer.heads / layer.groups;
  out.values.resize(static_cast<size_t>(tokens * width));
  out.tolerance.resize(out.values.size());
  for (int64_t channel = 0; channel < width; ++channel) {
    const int64_t h = channel / layer.head_dim, group = h / group_heads;
    // Of each state: its value, and how large an error of it may be in units of kEps.
    std::vector<double> state(static_cast<size_t>(layer.states), 0.0), error(state);
    for (int64_t t = 0; t < tokens; ++t) {
      const double raw = static_cast<double>(in.dt[t * in.dt_pitch + h]) +
                         (layer.dt_bias ? layer.dt_bias[h] : 0.0f);
      const double dt = std::clamp(std::log1p(std::exp(raw)), static_cast<double>(layer.dt_min),
                                   static_cast<double>(layer.dt_max));
      const double x = in.x[t * in.x_pitch + channel];
      double y = layer.d[h] * x, bound = 4 * std::abs(y);
      for (int64_t n = 0; n < layer.states; ++n) {
        const double a = layer.a[layer.a_per_state ? h * layer.states + n : h];
        const int64_t at = t * in.bc_pitch + group * layer.states + n;
        double& s = state[static_cast<size_t>(n)];
        double& e = error[static_cast<size_t>(n)];
        const double decay = std::exp(dt * a), added = dt * x * in.b[at];
        e = decay * e + (8 + 8 * std::abs(dt * a)) * decay * std::abs(s) + 8 * std::abs(added);
        s = decay * s + added;
        y += s * in.c[at];
        bound += (e + static_cast<double>(layer.states) * std::abs(s)) * std::abs(in.c[at]);
      }
      out.values[static_cast<size_t>(t * width + channel)] = y;
      out.tolerance[static_cast<size_t>(t * width + channel)] = kEps * (bound + 1e-30);
    }
  }
  return out;
}

}  // namespace lift::reference
