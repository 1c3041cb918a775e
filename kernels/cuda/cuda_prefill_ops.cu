// Rows of prompts (kPrefillRow) in lifted layers: which they are, and their products. They are
// multiplied by decoded weights however few they are, so that a prompt's result does not depend on
// how it is cut into steps.
#include <algorithm>
#include <cmath>

#include "kernels/base/check.h"
#include "kernels/cuda/cuda_backend_impl.h"
#include "kernels/cuda/vector_ops.h"

namespace lift::cuda {
namespace {

constexpr int64_t kStripStep = 128;  // rows of a strip are a multiple, where there are as many

// The stages that a variant reads, and the power of two by which decoded weights are larger than
// the matrix's: it brings what they can reach at most to 512 or above, and below 1024.
struct Decoding {
  ExpandPlan plan = {};
  float scale = 1;
  int bits = 0;  // stored bits a column
};

int64_t StripRows(int64_t columns, bool split) {
  const auto bytes = columns * static_cast<int64_t>(sizeof(uint16_t)) * (split ? 2 : 1);
  const int64_t rows = static_cast<int64_t>(PromptStripBytes()) / bytes;
  if (rows >= kStripStep) return rows / kStripStep * kStripStep;
  return std::max<int64_t>(rows / kTileRows * kTileRows, kTileRows);
}

}  // namespace

PromptMemory::PromptMemory(Device& device)
    : weights{{device.memory, device.queue}, {device.memory, device.queue}},
      sums(device.memory, device.queue),
      workspace(device.memory, device.queue),
      answers_x(device.memory, device.queue),
      answers_y(device.memory, device.queue) {}

PromptMemory& CudaBackend::Prompts() {
  if (!prompt_memory_) prompt_memory_ = std::make_unique<PromptMemory>(*device_);
  return *prompt_memory_;
}

void CudaBackend::PlanPrompts(const LiftSite& site, std::span<const uint8_t> variants,
                              CudaLiftedActivations& u) {
  u.groups.clear();
  u.rows.clear();
  u.answers.clear();
  std::vector<uint8_t> seen;
  const bool reads_prompts = Blas::available();
  for (const uint8_t variant : variants) {
    if (reads_prompts && variant >= kPrefillRow &&
        std::find(seen.begin(), seen.end(), variant) == seen.end())
      seen.push_back(variant);
  }
  const auto add_rows = [&](auto&& belongs) {
    for (size_t t = 0; t < variants.size(); ++t) {
      if (belongs(variants[t])) u.rows.push_back(static_cast<int32_t>(t));
    }
  };
  for (const uint8_t flagged : seen) {
    CudaLiftedActivations::PromptGroup group;
    group.variant = flagged & ~kPrefillRow;
    group.first = static_cast<int64_t>(u.rows.size());
    for (size_t s = 0; s < site.codes.size(); ++s) {
      const size_t flag = static_cast<size_t>(group.variant) * site.codes.size() + s;
      group.wide = group.wide || (site.used.at(flag) != 0 && site.wide.at(flag) != 0);
    }
    add_rows([&](uint8_t variant) { return variant == flagged; });
    group.count = static_cast<int64_t>(u.rows.size()) - group.first;
    u.groups.push_back(group);
  }
  u.prompts = static_cast<int64_t>(u.rows.size());
  const auto is_answer = [&](uint8_t variant) { return !reads_prompts || variant < kPrefillRow; };
  add_rows(is_answer);
  for (const uint8_t variant : variants) {
    if (is_answer(variant))
      u.answers.push_back(static_cast<uint8_t>(variant & ~unsigned{kPrefillRow}));
  }
}

// Tokens of one step mostly come in the same order at every layer: rows are staged once.
const int32_t* CudaBackend::StageRows(std::span<const int32_t> rows) {
  if (staged_rows_ == nullptr || staged_rows_batch_ != device_->queue.batches() ||
      !std::equal(rows.begin(), rows.end(), rows_.begin(), rows_.end())) {
    rows_.assign(rows.begin(), rows.end());
    staged_rows_ = device_->queue.StageAll(rows);
    staged_rows_batch_ = device_->queue.batches();
  }
  return staged_rows_;
}

const float* CudaBackend::RotatePrompts(const RotationView& rotation, const float* x,
                                        CudaLiftedActivations& u) {
  CommandQueue& queue = device_->queue;
  const int32_t* rows = StageRows(u.rows);
  const int64_t padded = u.blocks * kTileColumns, floats = PromptRowFloats(rotation, u.blocks);
  // The last product of a group reads a whole number of columns.
  const int64_t numbers = (u.prompts + kPromptColumns) * padded;
  const bool wide =
      std::any_of(u.groups.begin(), u.groups.end(), [](const auto& group) { return group.wide; });
  const Halves out{u.prompts_high.ReserveFor<uint16_t>(numbers),
                   wide ? u.prompts_low.ReserveFor<uint16_t>(numbers) : nullptr};
  auto* scale = u.prompts_scale.ReserveFor<float>(u.prompts);
  float* scratch = nullptr;
  if (static_cast<size_t>(floats) * sizeof(float) > device_->shared_limit)
    scratch = rows_scratch_.ReserveFor<float>(u.prompts * floats);
  for (const auto& group : u.groups) {
    const int64_t at = group.first * padded;
    QueueRotatePrompts(queue, rotation, u.blocks, x, rows + group.first, group.count, scratch,
                       device_->shared_limit, {out.high + at, group.wide ? out.low + at : nullptr},
                       scale + group.first);
  }
  u.prompts_x = out;
  u.prompts_scale_at = scale;
  const auto answers = static_cast<int64_t>(u.answers.size());
  if (answers == 0) return nullptr;
  float* answers_x = Prompts().answers_x.ReserveFor<float>(answers * rotation.cols);
  QueueGatherRows(queue, x, rows + u.prompts, answers, rotation.cols, answers_x);
  return answers_x;
}

void CudaBackend::MultiplyPrompts(const LiftedMatrix& w, const CudaLiftedActivations& u, float* y) {
  LIFT_CHECK(w.stages.size() <= static_cast<size_t>(kMaxStageRows));
  for (const auto& group : u.groups) {
    const std::span<const int64_t> rows = w.rows_of(group.variant);
    Decoding decoding;
    decoding.plan.rows = w.rows;
    decoding.plan.blocks = static_cast<int32_t>(u.blocks);
    double reach = 0;
    for (size_t j = 0; j < w.stages.size(); ++j) {
      LIFT_CHECK(rows[j] >= 0 && rows[j] <= w.rows);
      if (rows[j] == 0) continue;
      const LiftedMatrix::Stage& from = w.stages[j];
      ExpandStage& stage = decoding.plan.stage[decoding.plan.stages++];
      stage.planes = Planes(from, u.blocks, rows[j]);
      stage.rows = rows[j];
      stage.code = MakeCode(*from.code);
      decoding.bits += from.code->stored;
      for (const float tap : from.code->taps)
        reach += std::abs(static_cast<double>(tap) * static_cast<double>(from.gain));
    }
    if (reach > 1e-30) decoding.scale = std::ldexp(1.0f, 9 - std::ilogb(reach));
    for (size_t j = 0, used = 0; j < w.stages.size(); ++j) {
      if (rows[j] > 0) decoding.plan.stage[used++].gain = w.stages[j].gain * decoding.scale;
    }
    PlanTables(device_->shared_limit, decoding.plan);
    MultiplyGroup(w, decoding.plan, decoding.scale, group.wide && decoding.bits > kMaxSingleBits,
                  group, u, y);
  }
}

// Two buffers take turns. On one stream they save nothing: decoding a strip while the one before is
// multiplied takes a second stream.
void CudaBackend::MultiplyGroup(const LiftedMatrix& w, const ExpandPlan& plan, float scale,
                                bool split, const CudaLiftedActivations::PromptGroup& group,
                                const CudaLiftedActivations& u, float* y) {
  CommandQueue& queue = device_->queue;
  PromptMemory& memory = Prompts();
  const int64_t columns = u.blocks * kTileColumns, pitch = w.pitch > 0 ? w.pitch : w.rows;
  const int64_t strip = std::min(StripRows(columns, split), PaddedRows(w.rows));
  const auto* row_scale = In(w.row_scale, w.rows);
  const int32_t* places = StageRows(u.rows);
  void* workspace = memory.workspace.Reserve(Blas::kWorkspaceBytes);
  auto* sums = memory.sums.ReserveFor<float>(kPromptColumns * strip);
  int turn = 0;
  for (int64_t row = 0; row < w.rows; row += strip, turn ^= 1) {
    const int64_t end = std::min(row + strip, w.rows);
    auto* high = memory.weights[turn].ReserveFor<uint16_t>(strip * columns * (split ? 2 : 1));
    const Halves decoded{high, split ? high + strip * columns : nullptr};
    QueueExpand(queue, plan, row, end, decoded);
    const int64_t sums_pitch = PaddedRows(end - row);  // aligned, as cuBLAS likes it
    for (int64_t at = group.first; at < group.first + group.count; at += kPromptColumns) {
      const Halves x{u.prompts_x.high + at * columns,
                     split ? u.prompts_x.low + at * columns : nullptr};
      memory.blas.QueueProduct(queue, decoded, x, end - row, columns, workspace, sums, sums_pitch);
      const int64_t count = std::min(kPromptColumns, group.first + group.count - at);
      QueuePromptOutput(queue,
                        {sums, u.prompts_scale_at + at, row_scale + row, places + at, y + row,
                         end - row, sums_pitch, pitch, 1 / scale, 0},
                        count);
    }
  }
}

}  // namespace lift::cuda
