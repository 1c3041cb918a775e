#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <numbers>

#include "kernels/base/float16.h"
#include "kernels/reference/reference.h"

namespace lift::reference {
namespace {

constexpr double kEps = std::numeric_limits<float>::epsilon();

// The sign (+1 or -1) of stream r at column t of a row, from the definition of planes and masks.
class RowSigns {
 public:
  RowSigns(const LiftedMatrix::Stage& stage, int64_t row, int64_t columns)
      : stage_(stage), row_(row), columns_(columns) {}

  double Sign(int64_t t, int r) const {
    const LiftCode& code = *stage_.code;
    if (r < code.stored) return Bit(t, r) ? 1 : -1;
    bool parity = false;
    for (int i = 0; i < 64; ++i) {
      if ((code.masks[static_cast<size_t>(r - code.stored)] >> i & 1) == 0) continue;
      parity ^= Bit(t - i / code.streams(), i % code.streams());
    }
    return parity ? 1 : -1;
  }

 private:
  bool Bit(int64_t t, int r) const {
    t = ((t % columns_) + columns_) % columns_;
    const int64_t tile =
        (row_ / kTileRows * (columns_ / kTileColumns) + t / kTileColumns) * stage_.code->stored + r;
    const int64_t byte = tile * kTileBytes + row_ % kTileRows * 4 + t % kTileColumns / 8;
    return (std::to_integer<int>(stage_.planes[byte]) >> (t % 8) & 1) != 0;
  }

  const LiftedMatrix::Stage& stage_;
  int64_t row_, columns_;
};

std::vector<double> LiftedToken(const LiftCode& code, const std::vector<double>& x) {
  const int64_t n = static_cast<int64_t>(x.size());
  std::vector<double> u(static_cast<size_t>(n * code.streams()));
  for (int64_t t = 0; t < n; ++t) {
    for (int r = 0; r < code.streams(); ++r) {
      double sum = 0;
      for (int m = 0; m < code.steps; ++m) {
        sum += code.taps[static_cast<size_t>(m * code.streams() + r)] *
               x[static_cast<size_t>((t + m) % n)];
      }
      u[static_cast<size_t>(t * code.streams() + r)] = sum;
    }
  }
  return u;
}

// Rounds u to the grid in place; returns its step.
double Quantize(std::vector<double>& u, bool wide) {
  double top = 0;
  for (const double value : u) top = std::max(top, std::abs(value));
  const double limit = wide ? 127 * 128 : 127;
  if (top == 0) return 0;
  for (double& value : u) value = std::nearbyint(value * limit / top) * (top / limit);
  return top / limit;
}

}  // namespace

std::vector<double> RotationMatrix(const RotationSpec& spec, int64_t n) {
  std::vector<double> matrix(static_cast<size_t>(n * n));
  const int64_t p = n & -n, m = n / p;
  uint64_t state = spec.seed;
  for (int64_t column = 0; column < n; ++column) {
    state += 0x9E3779B97F4A7C15u;  // SplitMix64
    uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    const double sign = static_cast<int64_t>(z) < 0 ? -1 : 1;
    for (int64_t row = 0; row < n; ++row) {
      double& value = matrix[static_cast<size_t>(row * n + column)];
      if (!spec.enabled) {
        value = row == column ? 1 : 0;
        continue;
      }
      const int64_t overlap = (row % p) & (column % p);
      const double walsh = std::popcount(static_cast<uint64_t>(overlap)) % 2 == 1 ? -1 : 1;
      const double angle = 2 * std::numbers::pi * static_cast<double>((row / p) * (column / p)) /
                           static_cast<double>(m);
      value =
          sign * walsh * (std::cos(angle) + std::sin(angle)) / std::sqrt(static_cast<double>(n));
    }
  }
  return matrix;
}

std::vector<double> RotatedRow(const LiftedMatrix& w, int64_t row, int variant) {
  const int64_t n = PaddedColumns(w.cols);
  std::vector<double> v(static_cast<size_t>(w.cols));
  for (size_t j = 0; j < w.stages.size(); ++j) {
    if (row >= w.stage_rows[static_cast<size_t>(variant) * w.stages.size() + j]) continue;
    const LiftCode& code = *w.stages[j].code;
    const RowSigns signs(w.stages[j], row, n);
    for (int64_t t = 0; t < w.cols; ++t) {
      double sum = 0;
      for (int m = 0; m < code.steps; ++m) {
        for (int r = 0; r < code.streams(); ++r) {
          sum += code.taps[static_cast<size_t>(m * code.streams() + r)] * signs.Sign(t - m, r);
        }
      }
      v[static_cast<size_t>(t)] += w.stages[j].gain * sum * HalfToFloat(w.row_scale[row]);
    }
  }
  return v;
}

Expected LiftedRow(const LiftedMatrix& w, std::span<const double> rotation, int64_t row,
                   int variant) {
  const std::vector<double> v = RotatedRow(w, row, variant);
  double size = 0;
  for (const double value : v) size += std::abs(value);
  Expected out;
  for (int64_t i = 0; i < w.cols; ++i) {
    double sum = 0;
    for (int64_t t = 0; t < w.cols; ++t) {
      sum += rotation[static_cast<size_t>(t * w.cols + i)] * v[static_cast<size_t>(t)];
    }
    out.values.push_back(sum);
    out.tolerance.push_back(64 * kEps * (size / std::sqrt(static_cast<double>(w.cols)) + 1));
  }
  return out;
}

namespace {

// Rows of x in the rotated basis, padded with zeros.
std::vector<std::vector<double>> RotatedTokens(int64_t cols, const RotationSpec& spec,
                                               std::span<const float> x, int64_t tokens) {
  const std::vector<double> rotation = RotationMatrix(spec, cols);
  std::vector<std::vector<double>> rotated(static_cast<size_t>(tokens));
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<double>& to = rotated[static_cast<size_t>(t)];
    to.resize(static_cast<size_t>(PaddedColumns(cols)));
    for (int64_t i = 0; i < cols; ++i) {
      for (int64_t c = 0; c < cols; ++c) {
        to[static_cast<size_t>(i)] +=
            rotation[static_cast<size_t>(i * cols + c)] * x[static_cast<size_t>(t * cols + c)];
      }
    }
  }
  return rotated;
}

}  // namespace

Expected PrefillMatmul(const LiftedMatrix& w, const LiftSite& site, const RotationSpec& spec,
                       std::span<const float> x, int64_t tokens, int variant) {
  Expected out{std::vector<double>(static_cast<size_t>(tokens * w.rows)),
               std::vector<double>(static_cast<size_t>(tokens * w.rows), 1e-30)};
  std::vector<std::vector<double>> rotated = RotatedTokens(w.cols, spec, x, tokens);
  bool wide_x = false;
  for (size_t s = 0; s < site.codes.size(); ++s) {
    const size_t flag = static_cast<size_t>(variant) * site.codes.size() + s;
    wide_x = wide_x || (site.used[flag] != 0 && site.wide[flag] != 0);
  }
  int bits = 0;
  double reach = 0;
  for (size_t j = 0; j < w.stages.size(); ++j) {
    if (w.rows_of(variant)[j] == 0) continue;
    const LiftCode& code = *w.stages[j].code;
    bits += code.stored;
    for (const float tap : code.taps) reach += std::abs(double{tap} * w.stages[j].gain);
  }
  // A weight moves by half a step, and by half a unit a tap, whose signs vary as much as x does.
  const double unit = reach / 32000;
  const double moved = wide_x || bits > kNarrowPrefillBits ? 4 * unit : 0.5 * 256 * unit + 4 * unit;
  std::vector<double> step, size;
  for (std::vector<double>& row : rotated) {
    step.push_back(Quantize(row, wide_x));
    double squares = 0;
    for (const double value : row) squares += value * value;
    size.push_back(std::sqrt(squares));
  }
  for (int64_t row = 0; row < w.rows; ++row) {
    const std::vector<double> v = RotatedRow(w, row, variant);
    const double scale = HalfToFloat(w.row_scale[row]);
    double length = 0;
    for (const double value : v) length += value * value;
    for (int64_t t = 0; t < tokens; ++t) {
      const size_t from = static_cast<size_t>(t),
                   at = from * static_cast<size_t>(w.rows) + static_cast<size_t>(row);
      for (size_t i = 0; i < v.size(); ++i) out.values[at] += v[i] * rotated[from][i];
      // Four standard deviations of independent roundings, and some values of x that another
      // precision rounds to the other neighbour.
      out.tolerance[at] += 4 * scale * moved * size[from] +
                           (wide_x ? 1.0 : 0.1) * step[from] * std::sqrt(length) +
                           64 * kEps * std::sqrt(length) * size[from];
    }
  }
  return out;
}

Expected LiftedMatmul(const LiftedMatrix& w, const LiftSite& site, const RotationSpec& spec,
                      std::span<const float> x, std::span<const uint8_t> variants) {
  const int64_t n = PaddedColumns(w.cols), tokens = static_cast<int64_t>(variants.size());
  Expected out{std::vector<double>(static_cast<size_t>(tokens * w.rows)),
               std::vector<double>(static_cast<size_t>(tokens * w.rows), 1e-30)};
  const std::vector<std::vector<double>> rotated = RotatedTokens(w.cols, spec, x, tokens);
  for (size_t j = 0; j < w.stages.size(); ++j) {
    const LiftedMatrix::Stage& stage = w.stages[j];
    const int streams = stage.code->streams();
    std::vector<std::vector<double>> u(static_cast<size_t>(tokens));
    std::vector<double> step(static_cast<size_t>(tokens));
    for (size_t t = 0; t < u.size(); ++t) {
      u[t] = LiftedToken(*stage.code, rotated[t]);
      const size_t flag = variants[t] * site.codes.size() + static_cast<size_t>(stage.slot);
      step[t] = Quantize(u[t], site.wide[flag] != 0);
    }
    for (int64_t row = 0; row < w.rows; ++row) {
      const RowSigns signs(stage, row, n);
      std::vector<double> b(static_cast<size_t>(n * streams));
      for (size_t i = 0; i < b.size(); ++i) {
        b[i] = signs.Sign(static_cast<int64_t>(i) / streams, static_cast<int>(i) % streams);
      }
      const double factor = static_cast<double>(HalfToFloat(w.row_scale[row])) * stage.gain;
      for (size_t t = 0; t < u.size(); ++t) {
        if (row >= w.stage_rows[variants[t] * w.stages.size() + j]) continue;
        double sum = 0;
        for (size_t i = 0; i < b.size(); ++i) sum += b[i] * u[t][i];
        const size_t at = t * static_cast<size_t>(w.rows) + static_cast<size_t>(row);
        out.values[at] += factor * sum;
        // Steps that rounding may move (most in a wide grid, whose steps are 128 times smaller),
        // and the step size itself.
        const double steps =
            site.wide[variants[t] * site.codes.size() + static_cast<size_t>(stage.slot)] != 0
                ? 4 + std::sqrt(static_cast<double>(b.size()))
                : 4;
        out.tolerance[at] += std::abs(factor) * (steps * step[t] + 64 * kEps * std::abs(sum));
      }
    }
  }
  return out;
}

}  // namespace lift::reference
