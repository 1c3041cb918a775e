// The ops that read and write a model's state: attention and recurrent layers.
#include <algorithm>

#include "kernels/base/check.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/cuda_backend_impl.h"
#include "kernels/cuda/recurrent.h"

namespace lift::cuda {
namespace {

int64_t LastRow(std::span<const AttentionSequence> sequences) {
  int64_t rows = 0;
  for (const AttentionSequence& s : sequences) rows = std::max(rows, s.first_row + s.tokens);
  return rows;
}

int64_t LastRow(std::span<const RecurrentSequence> sequences) {
  int64_t rows = 0;
  for (const RecurrentSequence& s : sequences) {
    LIFT_CHECK(s.tokens > 0 && s.first_row >= 0 && s.from >= -1 && s.to >= 0);
    rows = std::max(rows, s.first_row + s.tokens);
  }
  return rows;
}

// Bytes of cache up to the last block that a table names.
int64_t CacheBytes(const AttentionShape& shape, std::span<const AttentionSequence> sequences) {
  int32_t last = -1;
  for (const AttentionSequence& s : sequences) {
    for (const int32_t block : s.blocks) last = std::max(last, block);
  }
  return shape.block_bytes() * (int64_t{last} + 1);
}

int64_t StateFloats(std::span<const RecurrentSequence> sequences, int64_t pitch, int64_t floats) {
  int32_t last = 0;
  for (const RecurrentSequence& s : sequences) last = std::max({last, s.from, s.to});
  return last * pitch + floats;
}

bool SameSequence(const AttentionSequence& a, const StagedSequences::Sequence& b) {
  return a.first_row == b.first_row && a.tokens == b.tokens && a.position == b.position &&
         std::equal(a.blocks.begin(), a.blocks.end(), b.blocks.begin(), b.blocks.end());
}

}  // namespace

// The layers of a step are given the same sequences: they are staged once.
const AttentionStep& CudaBackend::StageSequences(const AttentionShape& shape,
                                                 std::span<const AttentionSequence> sequences) {
  const int64_t group = shape.heads / shape.kv_heads;
  for (const auto& staged : staged_sequences_) {
    if (staged->batch == device_->queue.batches() && staged->block_tokens == shape.block_tokens &&
        staged->group == group && staged->window == shape.window &&
        std::equal(sequences.begin(), sequences.end(), staged->sequences.begin(),
                   staged->sequences.end(), SameSequence))
      return staged->step;
  }
  std::erase_if(staged_sequences_,
                [&](const auto& staged) { return staged->batch != device_->queue.batches(); });
  auto& staged = *staged_sequences_.emplace_back(std::make_unique<StagedSequences>());
  staged.block_tokens = shape.block_tokens, staged.group = group, staged.window = shape.window;
  for (const AttentionSequence& s : sequences) {
    staged.sequences.push_back(
        {s.first_row, s.tokens, s.position, {s.blocks.begin(), s.blocks.end()}});
  }
  staged.step = StageAttention(device_->queue, shape, sequences);
  staged.batch = device_->queue.batches();
  return staged.step;
}

void CudaBackend::WriteKv(std::byte* cache, const AttentionShape& shape,
                          std::span<const AttentionSequence> sequences, const float* k,
                          const float* v) {
  if (sequences.empty()) return;
  const int64_t floats = LastRow(sequences) * shape.kv_heads * shape.head_dim;
  const AttentionStep& step = StageSequences(shape, sequences);
  QueueWriteKv(device_->queue, InOut(cache, CacheBytes(shape, sequences)), shape, step,
               In(k, floats), In(v, floats));
  Finish();
}

void CudaBackend::Attention(const std::byte* cache, const AttentionShape& shape,
                            std::span<const AttentionSequence> sequences, const float* q,
                            float* out) {
  if (sequences.empty()) return;
  const int64_t floats = LastRow(sequences) * shape.heads * shape.head_dim;
  const size_t bytes = AttentionWorkspaceBytes(shape, StageSequences(shape, sequences));
  auto* workspace = static_cast<float*>(attention_scratch_.Reserve(bytes));
  const AttentionStep& step = StageSequences(shape, sequences);  // Reserve may have begun a batch
  QueueAttention(device_->queue, In(cache, CacheBytes(shape, sequences)), shape, step,
                 In(q, floats), Out(out, floats), workspace);
  Finish();
}

void CudaBackend::CausalConv(const ConvLayer& layer, std::span<const RecurrentSequence> sequences,
                             float* states, const float* x, int64_t pitch, float* out) {
  const int64_t rows = LastRow(sequences);
  if (rows == 0) return;
  ConvLayer on_device = layer;
  on_device.weight = In(layer.weight, layer.kernel * layer.channels);
  on_device.bias = In(layer.bias, layer.channels);
  QueueCausalConv(
      device_->queue, on_device, sequences,
      InOut(states, StateFloats(sequences, layer.state_pitch, (layer.kernel - 1) * layer.channels)),
      In(x, (rows - 1) * pitch + layer.channels), pitch, Out(out, rows * layer.channels));
  Finish();
}

void CudaBackend::SelectiveScan(const ScanLayer& layer,
                                std::span<const RecurrentSequence> sequences, float* states,
                                const ScanInputs& in, float* out) {
  const int64_t rows = LastRow(sequences);
  if (rows == 0) return;
  const int64_t width = layer.heads * layer.head_dim;
  ScanLayer on_device = layer;
  on_device.a = In(layer.a, layer.a_per_state ? layer.heads * layer.states : layer.heads);
  on_device.d = In(layer.d, layer.heads);
  on_device.dt_bias = In(layer.dt_bias, layer.heads);
  ScanInputs inputs = in;
  inputs.x = In(in.x, (rows - 1) * in.x_pitch + width);
  inputs.dt = In(in.dt, (rows - 1) * in.dt_pitch + layer.heads);
  const int64_t bc = (rows - 1) * in.bc_pitch + layer.groups * layer.states;
  inputs.b = In(in.b, bc);
  inputs.c = In(in.c, bc);
  QueueSelectiveScan(device_->queue, on_device, sequences,
                     InOut(states, StateFloats(sequences, layer.state_pitch, width * layer.states)),
                     inputs, Out(out, rows * width));
  Finish();
}

}  // namespace lift::cuda
