#include "server/model/layers.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"

namespace lift {

void RowVariants::Assign(std::span<const uint8_t> row_variants,
                         std::span<const LiftedVariant> known) {
  variants.assign(row_variants.begin(), row_variants.end());
  runs.clear();
  for (size_t r = 0; r < variants.size(); ++r) {
    LIFT_CHECK(Variant(variants[r]) < known.size());
    const bool full = known[Variant(variants[r])].full;
    const auto row = static_cast<int64_t>(r);
    if (runs.empty() || runs.back().full != full) runs.push_back({row, row, full});
    runs.back().end = row + 1;
  }
}

void Norm::Apply(Backend& backend, const float* x, int64_t tokens, float* out) const {
  const auto dim = static_cast<int64_t>(gain.size());
  if (kind == NormKind::kLayer) {
    backend.LayerNorm(x, gain.data(), bias.data(), eps, tokens, dim, out);
  } else {
    backend.RmsNorm(x, gain.data(), eps, tokens, dim, out);
  }
}

Norm BindNorm(const Weights& weights, const std::string& name) {
  const ModelConfig& config = weights.config();
  return {config.norm, weights.GetVector(name), weights.GetVector(layout::BiasName(name)),
          config.rms_norm_eps};
}

absl::StatusOr<LinearSite> BindSite(const Weights& weights, const layout::SiteSpec& spec) {
  LinearSite site;
  site.name = spec.name;
  site.lift = weights.FindSite(spec.name);
  for (const std::string& name : spec.matrices) {
    LIFT_ASSIGN_OR_RETURN(const Matrix* matrix, weights.GetMatrix(name));
    const std::span<const float> bias = weights.GetVector(layout::BiasName(name));
    if (!bias.empty() && bias.size() != static_cast<size_t>(matrix->rows)) {
      return absl::InvalidArgumentError(absl::StrCat("the bias of '", name, "' has ", bias.size(),
                                                     " values instead of ", matrix->rows));
    }
    site.linears.push_back({matrix, bias});
  }
  return site;
}

void ApplySite(const LinearSite& site, const float* x, const RowVariants& rows, Backend& backend,
               LiftedActivations& scratch, std::span<float* const> outputs) {
  LIFT_CHECK(outputs.size() == site.linears.size());
  for (const RowVariants::Run& run : rows.runs) {
    const int64_t tokens = run.end - run.begin;
    const auto variants = std::span(rows.variants)
                              .subspan(static_cast<size_t>(run.begin), static_cast<size_t>(tokens));
    std::vector<Backend::LiftedProduct> products;
    const float* lifted_input = nullptr;
    for (size_t i = 0; i < outputs.size(); ++i) {
      const Linear& linear = site.linears[i];
      const float* input = x + run.begin * linear.weight->cols;
      float* output = outputs[i] + run.begin * linear.weight->rows;
      if (run.full || linear.weight->lifted.empty()) {
        LIFT_CHECK(linear.weight->dense.has_value());
        backend.DenseMatmul(*linear.weight->dense, input, tokens, output);
      } else {
        int64_t row = 0;
        for (const LiftedMatrix& strip : linear.weight->lifted) {
          products.push_back({&strip, output + row});
          row += strip.rows;
        }
        lifted_input = input;
      }
    }
    if (!products.empty()) {
      backend.Lift(*site.lift, lifted_input, tokens, variants, scratch);
      backend.LiftedMatmuls(products, scratch, variants);
    }
    for (size_t i = 0; i < outputs.size(); ++i) {
      const Linear& linear = site.linears[i];
      if (linear.bias.empty()) continue;
      backend.AddBias(outputs[i] + run.begin * linear.weight->rows, linear.bias.data(), tokens,
                      linear.weight->rows);
    }
  }
}

void ShowInput(ActivationObserver* observer, Backend& backend, const LinearSite& site,
               const float* x, int64_t tokens, int64_t dim) {
  if (observer == nullptr) return;
  if (backend.host_memory()) return observer->OnInput(site.name, x, tokens, dim);
  std::vector<float> copy(static_cast<size_t>(tokens * dim));
  backend.Download(x, copy.size() * sizeof(float), copy.data());
  observer->OnInput(site.name, copy.data(), tokens, dim);
}

namespace {

std::vector<double> Frequencies(const RopeConfig& config) {
  std::vector<double> frequencies;
  for (int64_t i = 0; i < config.dimension / 2; ++i) {
    double frequency = std::pow(
        config.theta, -2.0 * static_cast<double>(i) / static_cast<double>(config.dimension));
    if (config.scaling == RopeConfig::Scaling::kLinear) frequency /= config.factor;
    if (config.scaling == RopeConfig::Scaling::kLlama3) {
      // Long waves are stretched by `factor`, short ones kept, those between blended by how often
      // they fit the old context.
      const double waves =
          static_cast<double>(config.original_context) * frequency / (2 * std::numbers::pi);
      const double blend = std::clamp(
          (waves - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor),
          0.0, 1.0);
      frequency *= blend + (1 - blend) / config.factor;
    }
    if (!config.frequency_factors.empty())
      frequency /= config.frequency_factors[static_cast<size_t>(i)];
    frequencies.push_back(frequency);
  }
  return frequencies;
}

}  // namespace

std::vector<float> RopeFrequencies(const RopeConfig& config) {
  const std::vector<double> frequencies = Frequencies(config);
  return {frequencies.begin(), frequencies.end()};
}

RopeTable::RopeTable(const RopeConfig& config) : frequencies_(Frequencies(config)) {}

void RopeTable::CopyRows(int64_t position, int64_t count, float* out) {
  const int64_t half = static_cast<int64_t>(frequencies_.size()), row = 2 * half;
  if (row == 0) return;
  for (auto p = static_cast<int64_t>(rows_.size()) / row; p < position + count; ++p) {
    rows_.resize(static_cast<size_t>((p + 1) * row));
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(p) * frequencies_[static_cast<size_t>(i)];
      rows_[static_cast<size_t>(p * row + i)] = static_cast<float>(std::cos(angle));
      rows_[static_cast<size_t>(p * row + half + i)] = static_cast<float>(std::sin(angle));
    }
  }
  std::copy_n(rows_.begin() + position * row, count * row, out);
}

absl::Status Workspace::Reserve(Slot slot, int64_t floats) {
  auto& buffer = buffers_[slot];
  const size_t bytes = static_cast<size_t>(floats) * sizeof(float);
  if (buffer && buffer->size() >= bytes) return absl::OkStatus();
  buffer.reset();
  LIFT_ASSIGN_OR_RETURN(buffer, backend_.Allocate(bytes, MemoryKind::kWorkspace));
  return absl::OkStatus();
}

float* Workspace::Get(Slot slot, int64_t floats) {
  LIFT_CHECK(Reserve(slot, floats).ok());
  return buffers_[slot]->as<float>();
}

uint64_t Workspace::bytes() const {
  uint64_t total = 0;
  for (const auto& buffer : buffers_) total += buffer ? buffer->size() : 0;
  return total;
}

}  // namespace lift
