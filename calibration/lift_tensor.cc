#include "calibration/lift_tensor.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "calibration/codes.h"
#include "kernels/base/check.h"
#include "kernels/base/float16.h"

namespace lift {
namespace {

// y = x H for x [rows, n].
std::vector<float> TimesHessian(const std::vector<float>& x, int64_t rows, const SiteMetric& metric,
                                Backend& backend) {
  const int64_t n = metric.padded();
  std::vector<float> y(static_cast<size_t>(rows * n));
  const DenseMatrixView view{DType::kF32, n, n,
                             reinterpret_cast<const std::byte*>(metric.hessian().data())};
  backend.DenseMatmul(view, x.data(), rows, y.data());
  return y;
}

double Inner(const float* a, const float* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

// Rows [rows, cols] rotated and padded.
std::vector<float> RotateRows(std::vector<float> w, int64_t rows, int64_t cols, int64_t padded,
                              const Rotation& rotation, ThreadPool& pool) {
  pool.ParallelFor(rows, 16, [&](int64_t begin, int64_t end, int) {
    std::vector<float> scratch(static_cast<size_t>(cols));
    for (int64_t r = begin; r < end; ++r)
      rotation.Apply(&w[static_cast<size_t>(r * cols)], scratch.data());
  });
  if (padded == cols) return w;
  std::vector<float> out(static_cast<size_t>(rows * padded), 0.0f);
  for (int64_t r = 0; r < rows; ++r)
    std::copy_n(&w[static_cast<size_t>(r * cols)], cols, &out[static_cast<size_t>(r * padded)]);
  return out;
}

// Row scales that make each row of unit variance, as stored (binary16). A row of zeros keeps scale
// 0.
std::vector<uint16_t> UnitScales(const std::vector<float>& w, int64_t rows, int64_t padded,
                                 int64_t live) {
  std::vector<uint16_t> scale(static_cast<size_t>(rows));
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = &w[static_cast<size_t>(r * padded)];
    scale[static_cast<size_t>(r)] = FloatToHalf(
        static_cast<float>(std::sqrt(Inner(row, row, live) / static_cast<double>(live))));
  }
  return scale;
}

// After the first stage: per row, the scale that minimises the weighted error of scale * v against
// w, mildly regularised.
void RefitScales(const std::vector<float>& w, const std::vector<float>& v, int64_t rows,
                 const SiteMetric& metric, Backend& backend, std::vector<uint16_t>& scale) {
  constexpr double kDamping = 0.1;
  const int64_t n = metric.padded();
  const std::vector<float> hv = TimesHessian(v, rows, metric, backend);
  for (int64_t r = 0; r < rows; ++r) {
    const float *wr = &w[static_cast<size_t>(r * n)], *vr = &v[static_cast<size_t>(r * n)],
                *hr = &hv[static_cast<size_t>(r * n)];
    const double top = Inner(wr, hr, n) + kDamping * Inner(wr, vr, metric.live());
    const double bottom = Inner(vr, hr, n) + kDamping * Inner(vr, vr, metric.live());
    if (bottom > 0 && top > 0)
      scale[static_cast<size_t>(r)] = FloatToHalf(static_cast<float>(top / bottom));
  }
}

// e = w / scale - sum so far, on live columns; returns its root mean square over rows with a scale.
double Residual(const std::vector<float>& w, const std::vector<uint16_t>& scale,
                const std::vector<float>& sum, int64_t rows, int64_t padded, int64_t live,
                std::vector<float>& out) {
  out.assign(w.size(), 0.0f);
  double energy = 0;
  int64_t counted = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const float s = HalfToFloat(scale[static_cast<size_t>(r)]);
    if (s == 0) continue;
    for (int64_t t = 0; t < live; ++t) {
      const size_t i = static_cast<size_t>(r * padded + t);
      out[i] = w[i] / s - sum[i];
    }
    energy +=
        Inner(&out[static_cast<size_t>(r * padded)], &out[static_cast<size_t>(r * padded)], live);
    counted += live;
  }
  return counted > 0 ? std::sqrt(energy / static_cast<double>(counted)) : 0.0;
}

// sum over rows of scale^2 e H e^T.
double WeightedEnergy(const std::vector<float>& e, const std::vector<uint16_t>& scale, int64_t rows,
                      const SiteMetric& metric, Backend& backend) {
  const std::vector<float> he = TimesHessian(e, rows, metric, backend);
  const int64_t n = metric.padded();
  double sum = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const double s = HalfToFloat(scale[static_cast<size_t>(r)]);
    sum += s * s * Inner(&e[static_cast<size_t>(r * n)], &he[static_cast<size_t>(r * n)], n);
  }
  return sum;
}

// The largest error of each row, and what is large for all of them: limit times the rms error.
struct RowErrors {
  std::vector<float> largest;
  float limit = 0;
};
RowErrors ErrorsOf(const std::vector<float>& target, const std::vector<float>& v, int64_t n,
                   int64_t live, double limit) {
  RowErrors errors;
  double squares = 0;
  for (size_t row = 0; row < target.size(); row += static_cast<size_t>(n)) {
    float largest = 0;
    for (size_t i = row; i < row + static_cast<size_t>(live); ++i) {
      const float error = target[i] - v[i];
      squares += double{error} * error;
      largest = std::max(largest, std::abs(error));
    }
    errors.largest.push_back(largest);
  }
  const double count = static_cast<double>(errors.largest.size()) * static_cast<double>(live);
  errors.limit = static_cast<float>(limit * std::sqrt(squares / count));
  return errors;
}

// A search that lost the right path for a while leaves errors that no later stage's table reaches.
// Rows with such errors are searched again with twice the survivors; the result that reaches less
// far is kept. bits, v: the rows' signs and their reconstruction, mended in place.
void SearchAgain(const LiftCode& code, float gain, const EncoderMetric& metric,
                 const std::vector<float>& target, const EncoderOptions& options, ThreadPool& pool,
                 std::vector<uint8_t>& bits, std::vector<float>& v) {
  const auto n = static_cast<size_t>(metric.n());
  EncoderOptions wider = options;
  wider.beam = std::min(2 * options.beam, 256);
  if (wider.beam == options.beam) return;
  const RowErrors before = ErrorsOf(target, v, metric.n(), metric.live(), options.second_look);
  std::vector<size_t> rows;
  std::vector<float> targets;
  for (size_t r = 0; r < before.largest.size(); ++r) {
    if (before.largest[r] <= before.limit) continue;
    rows.push_back(r);
    const float* row = &target[r * n];
    targets.insert(targets.end(), row, row + n);
  }
  if (rows.empty()) return;
  const auto count = static_cast<int64_t>(rows.size());
  std::vector<uint8_t> new_bits(targets.size());
  std::vector<float> new_v(targets.size());
  EncodeRows(code, gain, metric, targets.data(), count, wider, pool, new_bits.data());
  ReconstructRows(code, gain, new_bits.data(), count, metric.n(), pool, new_v.data());
  const RowErrors after = ErrorsOf(targets, new_v, metric.n(), metric.live(), 0);
  for (size_t i = 0; i < rows.size(); ++i) {
    if (after.largest[i] >= before.largest[rows[i]]) continue;
    std::copy_n(&new_bits[i * n], n, &bits[rows[i] * n]);
    std::copy_n(&new_v[i * n], n, &v[rows[i] * n]);
  }
}

}  // namespace

// Noise shaped by one stage is a larger, coloured target for the next, which pays for it unless it
// is damped less: each stage stands between its own use as the last one and its successors'.
// Measured on layers and on the output of a real model, see README.md.
constexpr double kDamping[] = {0.6, 0.2, 0.1, 0.07, 0.05};

std::vector<StageSpec> MakeStages(const std::vector<int>& sizes) {
  std::vector<StageSpec> chain;
  for (size_t j = 0; j < sizes.size(); ++j) {
    StageSpec stage;
    stage.code = DefaultCode(sizes[j]);
    stage.damping = kDamping[std::min(j, std::size(kDamping) - 1)];
    stage.from_middle = j % 2 == 1;
    // A table a little wide leaves the next stage no tail; a next stage of one bit gains nothing
    // from it (measured on real layers).
    stage.scale = j + 1 < sizes.size() && sizes[j + 1] > 1 ? 1.07 : 1.0;
    chain.push_back(std::move(stage));
  }
  return chain;
}

SiteMetric::SiteMetric(std::vector<float> hessian, int64_t padded, int64_t live, int64_t seam,
                       bool keep, Backend& backend, ThreadPool& pool)
    : hessian_(std::move(hessian)),
      padded_(padded),
      live_(live),
      seam_(seam),
      keep_(keep),
      backend_(backend),
      pool_(pool) {}

const EncoderMetric& SiteMetric::of(const StageSpec& stage) {
  const Key key = KeyOf(stage);
  if (!keep_ && !metrics_.contains(key)) metrics_.clear();
  return metrics_
      .try_emplace(key, hessian_, padded_, live_, key.first, seam_, backend_, pool_, key.second)
      .first->second;
}

SiteMetric::Key SiteMetric::KeyOf(const StageSpec& stage) const {
  const bool whole = live_ == padded_ && padded_ >= 8 * kTileColumns;
  return {stage.damping,
          stage.from_middle && whole ? padded_ / 2 / kTileColumns * kTileColumns : 0};
}

std::vector<float> DenseValues(const DenseMatrixView& view) {
  std::vector<float> w(static_cast<size_t>(view.rows * view.cols));
  const auto cols = static_cast<size_t>(view.cols);
  for (int64_t r = 0; r < view.rows; ++r)
    Dequantize(view.type, view.row(r), std::span(w).subspan(static_cast<size_t>(r) * cols, cols));
  return w;
}

LiftedTensorBits LiftTensor(const std::string& name, std::vector<float> w, int64_t rows,
                            int64_t cols, const Rotation& rotation, RotationSpec spec,
                            SiteMetric& metric, const std::vector<StageSpec>& chain,
                            const EncoderOptions& options, Backend& backend, ThreadPool& pool) {
  const int64_t padded = metric.padded(), live = cols;
  LIFT_CHECK(padded == PaddedColumns(cols) && metric.live() == live && !chain.empty());
  LiftedTensorBits out{name, rows, cols, padded, spec, {}, {}, 0, {1.0}};
  const std::vector<float> rotated = RotateRows(std::move(w), rows, cols, padded, rotation, pool);
  out.row_scale = UnitScales(rotated, rows, padded, live);
  std::vector<float> sum(rotated.size(), 0.0f), target, v(rotated.size());
  Residual(rotated, out.row_scale, sum, rows, padded, live, target);
  const double energy = WeightedEnergy(target, out.row_scale, rows, metric, backend);
  out.energy = energy;
  double deviation = 1.0;
  for (size_t j = 0; j < chain.size(); ++j) {
    const StageSpec& stage = chain[j];
    const float gain = static_cast<float>(deviation * stage.scale);
    std::vector<uint8_t> bits(rotated.size());
    EncodeRows(stage.code, gain, metric.of(stage), target.data(), rows, options, pool, bits.data());
    ReconstructRows(stage.code, gain, bits.data(), rows, padded, pool, v.data());
    if (options.second_look > 0)
      SearchAgain(stage.code, gain, metric.of(stage), target, options, pool, bits, v);
    for (int64_t r = 0; r < rows; ++r)
      std::fill(&v[static_cast<size_t>(r * padded + live)],
                &v[static_cast<size_t>(r * padded)] + padded, 0.0f);
    if (j == 0) RefitScales(rotated, v, rows, metric, backend, out.row_scale);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += v[i];
    deviation = Residual(rotated, out.row_scale, sum, rows, padded, live, target);
    out.error.push_back(
        energy > 0 ? WeightedEnergy(target, out.row_scale, rows, metric, backend) / energy : 0.0);
    out.stages.push_back({PackPlanes(bits, rows, padded, stage.code.stored), gain});
  }
  return out;
}

void ReconstructTensor(const LiftedTensorBits& tensor, const std::vector<StageSpec>& chain,
                       size_t stages, const Rotation& rotation, ThreadPool& pool, float* out) {
  LIFT_CHECK(stages <= tensor.stages.size());
  const int64_t n = tensor.padded, cols = tensor.cols;
  std::vector<float> v(static_cast<size_t>(tensor.rows * n)), sum(v.size(), 0.0f);
  for (size_t j = 0; j < stages; ++j) {
    const std::vector<uint8_t> bits =
        UnpackPlanes(tensor.stages[j].planes, tensor.rows, n, chain[j].code.stored);
    ReconstructRows(chain[j].code, tensor.stages[j].gain, bits.data(), tensor.rows, n, pool,
                    v.data());
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += v[i];
  }
  pool.ParallelFor(tensor.rows, 16, [&](int64_t begin, int64_t end, int) {
    std::vector<float> scratch(static_cast<size_t>(cols));
    for (int64_t r = begin; r < end; ++r) {
      const float s = HalfToFloat(tensor.row_scale[static_cast<size_t>(r)]);
      for (int64_t t = 0; t < cols; ++t)
        out[r * cols + t] = s * sum[static_cast<size_t>(r * n + t)];
      rotation.ApplyTranspose(out + r * cols, scratch.data());
    }
  });
}

namespace {

// Offset of row r's word of stored stream s in column block b.
size_t WordOffset(int64_t r, int64_t b, int s, int64_t blocks, int stored) {
  const int64_t tile = (r / kTileRows * blocks + b) * stored + s;
  return static_cast<size_t>(tile * kTileBytes + r % kTileRows * 4);
}

}  // namespace

std::vector<uint8_t> PackPlanes(const std::vector<uint8_t>& bits, int64_t rows, int64_t padded,
                                int stored) {
  const int64_t tiles = PaddedRows(rows) / kTileRows, blocks = padded / kTileColumns;
  std::vector<uint8_t> planes(static_cast<size_t>(tiles * blocks * stored * kTileBytes), 0);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t b = 0; b < blocks; ++b) {
      const uint8_t* column = &bits[static_cast<size_t>(r * padded + b * kTileColumns)];
      for (int s = 0; s < stored; ++s) {
        uint32_t word = 0;
        for (int t = 0; t < kTileColumns; ++t)
          word |= static_cast<uint32_t>(column[t] >> s & 1) << t;
        uint8_t* to = &planes[WordOffset(r, b, s, blocks, stored)];
        for (int i = 0; i < 4; ++i) to[i] = static_cast<uint8_t>(word >> (8 * i));
      }
    }
  }
  return planes;
}

std::vector<uint8_t> UnpackPlanes(const std::vector<uint8_t>& planes, int64_t rows, int64_t padded,
                                  int stored) {
  const int64_t blocks = padded / kTileColumns;
  std::vector<uint8_t> bits(static_cast<size_t>(rows * padded), 0);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t b = 0; b < blocks; ++b) {
      uint8_t* column = &bits[static_cast<size_t>(r * padded + b * kTileColumns)];
      for (int s = 0; s < stored; ++s) {
        const uint8_t* from = &planes[WordOffset(r, b, s, blocks, stored)];
        for (int t = 0; t < kTileColumns; ++t)
          column[t] |= static_cast<uint8_t>((from[t / 8] >> (t % 8) & 1) << s);
      }
    }
  }
  return bits;
}

}  // namespace lift
