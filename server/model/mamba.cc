#include "server/model/mamba.h"

#include <cmath>

#include "kernels/base/check.h"

namespace lift {
namespace {

std::span<const float> Vector(const Weights& weights, const std::string& name) {
  const std::span<const float> values = weights.GetVector(name);
  LIFT_CHECK(!values.empty());  // Weights binds every vector of the layout
  return values;
}

void Observe(const MambaStep& step, const LinearSite& site, const float* x, int64_t tokens,
             int64_t dim) {
  ShowInput(step.observer, step.backend, site, x, tokens, dim);
}

// One row of the input projection: Mamba-1 {x, z}, Mamba-2 {z, x B C, dt}.
int64_t ProjectedFloats(const SsmConfig& ssm) {
  return ssm.kind == SsmKind::kMamba1 ? 2 * ssm.inner : ssm.inner + ssm.conv_channels() + ssm.heads;
}

// y [tokens, inner] <- rmsnorm over each group of (y * silu(z)), then `gain`.
void GatedNorm(const MambaBlock& block, int64_t tokens, const ModelConfig& config, Backend& backend,
               float* y) {
  const int64_t groups = config.ssm.groups, width = config.ssm.inner / groups;
  if (groups == 1)
    return backend.RmsNorm(y, block.gated_norm.data(), config.rms_norm_eps, tokens, width, y);
  for (int64_t i = 0; i < tokens * groups; ++i) {
    backend.RmsNorm(y + i * width, block.gated_norm.data() + i % groups * width,
                    config.rms_norm_eps, 1, width, y + i * width);
  }
}

}  // namespace

absl::StatusOr<MambaBlock> BindMamba(const Weights& weights, const layout::LayerNames& names) {
  const ModelConfig& config = weights.config();
  const SsmConfig& ssm = config.ssm;
  const bool first = ssm.kind == SsmKind::kMamba1;
  MambaBlock block;
  LIFT_ASSIGN_OR_RETURN(block.in, BindSite(weights, names.mamba.in));
  LIFT_ASSIGN_OR_RETURN(block.out, BindSite(weights, names.mamba.out));
  if (first) {
    LIFT_ASSIGN_OR_RETURN(block.x, BindSite(weights, names.mamba.x));
    LIFT_ASSIGN_OR_RETURN(block.dt, BindSite(weights, names.mamba.dt));
  } else {
    block.gated_norm = Vector(weights, names.mamba.gated_norm);
  }
  const int64_t channels = ssm.conv_channels(), kernel = ssm.conv_kernel;
  const std::span<const float> stored = Vector(weights, names.mamba.conv);
  block.conv_weight.resize(stored.size());
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t k = 0; k < kernel; ++k)
      block.conv_weight[static_cast<size_t>(k * channels + c)] =
          stored[static_cast<size_t>(c * kernel + k)];
  }
  const std::span<const float> bias = weights.GetVector(layout::BiasName(names.mamba.conv));
  block.conv_bias.assign(bias.begin(), bias.end());
  block.conv_bias.resize(static_cast<size_t>(channels));
  const int64_t pitch = layout::RecurrentStateFloats(config);
  block.conv = {channels, kernel, block.conv_weight.data(), block.conv_bias.data(), pitch};
  block.scan.heads = ssm.heads, block.scan.head_dim = ssm.head_dim;
  block.scan.states = ssm.state, block.scan.groups = ssm.groups;
  for (const float log : Vector(weights, names.mamba.a_log))
    block.a.push_back(static_cast<float>(-std::exp(static_cast<double>(log))));
  block.scan.a = block.a.data();
  block.scan.a_per_state = first;
  block.scan.d = Vector(weights, names.mamba.d).data();
  if (!first) block.scan.dt_bias = Vector(weights, names.mamba.dt_bias).data();
  block.scan.dt_min = ssm.dt_min, block.scan.dt_max = ssm.dt_max;
  block.scan.state_pitch = pitch;
  return block;
}

absl::Status AdoptMamba(const MambaBlock& block, Backend& backend) {
  for (const std::vector<float>* own : {&block.conv_weight, &block.conv_bias, &block.a})
    LIFT_RETURN_IF_ERROR(backend.Adopt(std::as_bytes(std::span(*own))));
  return absl::OkStatus();
}

void AbandonMamba(const MambaBlock& block, Backend& backend) {
  for (const std::vector<float>* own : {&block.conv_weight, &block.conv_bias, &block.a})
    backend.Abandon(std::as_bytes(std::span(*own)));
}

void ApplyMamba(const MambaBlock& block, const float* x, int64_t tokens, float* states,
                MambaStep& step, float* out) {
  const ModelConfig& config = step.config;
  const SsmConfig& ssm = config.ssm;
  const bool first = ssm.kind == SsmKind::kMamba1;
  const int64_t inner = ssm.inner, pitch = ProjectedFloats(ssm), channels = ssm.conv_channels();
  Workspace& memory = step.workspace;
  float* projected = memory.Get(Workspace::kMixerIn, tokens * pitch);
  float* convolved = memory.Get(Workspace::kMixerConv, tokens * channels);
  float* y = memory.Get(Workspace::kAttended, tokens * inner);
  float* gate = memory.Get(Workspace::kGate, tokens * inner);

  Observe(step, block.in, x, tokens, config.hidden_size);
  float* const in[] = {projected};
  ApplySite(block.in, x, step.rows, step.backend, step.lifted, in);
  const float* conv_input = projected + (first ? 0 : inner);
  step.backend.CausalConv(block.conv, step.sequences, states, conv_input, pitch, convolved);

  ScanInputs scan;
  scan.x = convolved, scan.x_pitch = channels;
  if (first) {
    const int64_t rank = ssm.dt_rank, width = rank + 2 * ssm.state;
    float* selected = memory.Get(Workspace::kMixerSelect, tokens * width);
    float* low_rank = memory.Get(Workspace::kMixerRank, tokens * rank);
    float* dt = memory.Get(Workspace::kUp, tokens * inner);
    Observe(step, block.x, convolved, tokens, inner);
    float* const select[] = {selected};
    ApplySite(block.x, convolved, step.rows, step.backend, step.lifted, select);
    step.backend.CopyColumns(selected, tokens, width, rank, low_rank);
    Observe(step, block.dt, low_rank, tokens, rank);
    float* const steps[] = {dt};
    ApplySite(block.dt, low_rank, step.rows, step.backend, step.lifted, steps);
    scan.dt = dt, scan.dt_pitch = inner;
    scan.b = selected + rank, scan.c = scan.b + ssm.state, scan.bc_pitch = width;
  } else {
    scan.dt = projected + inner + channels, scan.dt_pitch = pitch;
    scan.b = convolved + inner, scan.c = scan.b + ssm.groups * ssm.state, scan.bc_pitch = channels;
  }
  float* scan_states = states + (ssm.conv_kernel - 1) * channels;
  step.backend.SelectiveScan(block.scan, step.sequences, scan_states, scan, y);

  step.backend.CopyColumns(projected + (first ? inner : 0), tokens, pitch, inner, gate);
  step.backend.SwiGlu(gate, y, tokens * inner, y);
  if (!first) GatedNorm(block, tokens, config, step.backend, y);
  Observe(step, block.out, y, tokens, inner);
  float* const result[] = {out};
  ApplySite(block.out, y, step.rows, step.backend, step.lifted, result);
}

std::vector<std::pair<Workspace::Slot, int64_t>> MambaWorkspace(const ModelConfig& config) {
  const SsmConfig& ssm = config.ssm;
  std::vector<std::pair<Workspace::Slot, int64_t>> slots = {
      {Workspace::kMixerIn, ProjectedFloats(ssm)},
      {Workspace::kMixerConv, ssm.conv_channels()},
      {Workspace::kAttended, ssm.inner},
      {Workspace::kGate, ssm.inner}};
  if (ssm.kind == SsmKind::kMamba1) {
    slots.push_back({Workspace::kMixerSelect, ssm.dt_rank + 2 * ssm.state});
    slots.push_back({Workspace::kMixerRank, ssm.dt_rank});
    slots.push_back({Workspace::kUp, ssm.inner});
  }
  return slots;
}

}  // namespace lift
