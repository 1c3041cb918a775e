// Lifted layers: tables of what the kernels read, and the launches.
#include <algorithm>
#include <cmath>
#include <map>

#include "kernels/base/check.h"
#include "kernels/cuda/cuda_backend_impl.h"
#include "kernels/cuda/dense.h"
#include "kernels/cuda/lift.h"
#include "kernels/cuda/lifted_rows.h"
#include "kernels/cuda/sign_gemm.h"
#include "kernels/format/parity_masks.h"

namespace lift::cuda {
namespace {

size_t VariantOf(uint8_t variant) { return variant & static_cast<uint8_t>(~kPrefillRow); }

}  // namespace

SlotTable& CudaLiftedActivations::ReserveSlot(size_t slot, int64_t count, int of_parts,
                                              int64_t of_blocks, int streams) {
  while (slots.size() <= slot) slots.emplace_back(*device);
  Slot& s = slots[slot];
  s.table.bits = s.bits.ReserveFor<uint32_t>(count * of_parts * of_blocks * streams * 8);
  s.table.scale = s.scale.ReserveFor<float>(count);
  s.table.sums = s.sums.ReserveFor<int32_t>(2 * count);
  s.table.wide = s.wide.ReserveFor<uint8_t>(count);
  return s.table;
}

std::unique_ptr<LiftedActivations> CudaBackend::MakeLiftedActivations() {
  return std::make_unique<CudaLiftedActivations>(device_);
}

CodeTable CudaBackend::MakeCode(const LiftCode& code) {
  LIFT_CHECK(code.stored >= 1 && code.derived >= 0 && code.derived <= kMaxMasks &&
             code.streams() <= kMaxCodeStreams && code.steps >= 1);
  LIFT_CHECK(code.masks.size() == static_cast<size_t>(code.derived));
  LIFT_CHECK(code.taps.size() == static_cast<size_t>(code.steps * code.streams()));
  CodeTable table = {};
  table.stored = code.stored, table.derived = code.derived, table.steps = code.steps;
  table.taps = In(code.taps.data(), static_cast<int64_t>(code.taps.size()));
  for (size_t k = 0; k < code.masks.size(); ++k) {
    for (int bit = 0; bit < 64; ++bit) {
      if ((code.masks[k] >> bit & 1) == 0) continue;
      const int stream = bit % code.streams(), back = bit / code.streams();
      LIFT_CHECK(stream < code.stored && back < 8);
      table.masks[k][stream] |= static_cast<uint8_t>(1 << back);
    }
  }
  table.shipped = code.derived == 1 && code.stored < static_cast<int>(std::size(kParityMasks)) &&
                  code.masks[0] == kParityMasks[code.stored];
  return table;
}

RotationView CudaBackend::MakeRotation(const Rotation* rotation, int64_t cols) {
  RotationView view = {};
  view.cols = cols, view.power = 1, view.odd = 1;
  if (rotation == nullptr || !rotation->enabled()) return view;
  LIFT_CHECK(rotation->dimension() == cols);
  view.signs = In(rotation->signs().data(), cols);
  view.power = static_cast<int32_t>(rotation->power());
  view.odd = static_cast<int32_t>(rotation->odd());
  view.hartley = In(rotation->hartley().data(), rotation->odd() * rotation->odd());
  view.norm = static_cast<float>(1 / std::sqrt(static_cast<double>(rotation->power())));
  return view;
}

bool AnyWide(const LiftSite& site, std::span<const uint8_t> variants) {
  const size_t slots = site.codes.size();
  for (const uint8_t variant : variants) {
    for (size_t s = 0; s < slots; ++s) {
      const size_t flag = VariantOf(variant) * slots + s;
      if (site.used.at(flag) != 0 && site.wide.at(flag) != 0) return true;
    }
  }
  return false;
}

SiteTable CudaBackend::MakeSite(const LiftSite& site) {
  LIFT_CHECK(site.codes.size() >= 1 && site.codes.size() <= static_cast<size_t>(kMaxSlots));
  SiteTable table = {};
  table.rotation = MakeRotation(site.rotation, site.cols);
  table.blocks = PaddedColumns(site.cols) / kTileColumns;
  table.used = In(site.used.data(), static_cast<int64_t>(site.used.size()));
  table.wide_of = In(site.wide.data(), static_cast<int64_t>(site.wide.size()));
  table.slots = static_cast<int32_t>(site.codes.size());
  return table;
}

// Tokens of one step mostly come with the same variants at every layer: they are staged once.
const uint8_t* CudaBackend::StageVariants(std::span<const uint8_t> variants) {
  if (staged_variants_ != nullptr && staged_batch_ == device_->queue.batches() &&
      std::equal(variants.begin(), variants.end(), variants_.begin(), variants_.end()))
    return staged_variants_;
  variants_.assign(variants.begin(), variants.end());
  std::vector<uint8_t> plain(variants.size());
  for (size_t t = 0; t < plain.size(); ++t) plain[t] = static_cast<uint8_t>(VariantOf(variants[t]));
  staged_variants_ = device_->queue.StageAll(std::span<const uint8_t>(plain));
  staged_batch_ = device_->queue.batches();
  return staged_variants_;
}

void CudaBackend::Lift(const LiftSite& site, const float* x, int64_t tokens,
                       std::span<const uint8_t> variants, LiftedActivations& out) {
  auto& u = static_cast<CudaLiftedActivations&>(out);
  const size_t slots = site.codes.size();
  LIFT_CHECK(site.cols > 0 && static_cast<int64_t>(variants.size()) == tokens);
  u.tokens = tokens;
  u.blocks = PaddedColumns(site.cols) / kTileColumns;
  PlanPrompts(site, variants, u);
  const auto answers = static_cast<int64_t>(u.answers.size());
  u.parts = AnyWide(site, u.answers) ? 2 : 1;
  SiteTable table = MakeSite(site);
  x = In(x, tokens * site.cols);
  if (u.prompts > 0) x = RotatePrompts(table.rotation, x, u);
  for (size_t s = 0; s < slots; ++s) {
    const LiftCode& code = *site.codes[s];
    SlotTable& slot = u.ReserveSlot(s, answers, u.parts, u.blocks, code.streams());
    slot.code = MakeCode(code);
    u.slots[s].code = &code;
    table.slot[s] = slot;
  }
  if (answers == 0) return;
  float* scratch = nullptr;
  if (LiftSharedBytes(table, device_->shared_limit) == 0) {
    scratch = rows_scratch_.ReserveFor<float>(answers * static_cast<int64_t>(slots) *
                                              LiftRowFloats(table));
  }
  QueueLift(device_->queue, table, x, answers, u.parts, StageVariants(u.answers), scratch,
            device_->shared_limit);
}

const uint8_t* CudaBackend::Planes(const LiftedMatrix::Stage& stage, int64_t blocks, int64_t rows) {
  if (rows == 0) return nullptr;
  return reinterpret_cast<const uint8_t*>(
      In(stage.planes, PaddedRows(rows) / kTileRows * blocks * stage.code->stored * kTileBytes));
}

bool CudaBackend::AddProduct(const LiftedMatrix& w, std::span<const int64_t> rows_read, float* y,
                             int64_t tokens, std::span<const SlotTable> slots, ProductSet& set,
                             int64_t& tiles) {
  const auto stages = static_cast<int32_t>(w.stages.size());
  const int32_t used_stages = set.products == 0 ? 0
                                                : set.product[set.products - 1].first_stage +
                                                      set.product[set.products - 1].stages;
  if (set.products == kMaxProducts || used_stages + stages > kMaxStageRows) return false;
  LIFT_CHECK(slots.size() <= static_cast<size_t>(kMaxSlots));
  for (size_t s = 0; s < slots.size(); ++s) set.slot[s] = slots[s];
  ProductTable& product = set.product[set.products++];
  const int64_t pitch = w.pitch > 0 ? w.pitch : w.rows;
  product.row_scale = In(w.row_scale, w.rows);
  product.stage_rows = In(w.stage_rows.data(), static_cast<int64_t>(w.stage_rows.size()));
  product.y = y == nullptr ? nullptr : OutRows(y, tokens, w.rows, pitch);
  product.rows = w.rows, product.pitch = pitch;
  product.first_tile = static_cast<int32_t>(tiles);
  product.first_stage = used_stages, product.stages = stages;
  tiles += PaddedRows(w.rows) / kTileRows;
  for (int32_t j = 0; j < stages; ++j) {
    const LiftedMatrix::Stage& stage = w.stages[static_cast<size_t>(j)];
    const int64_t rows = rows_read[static_cast<size_t>(j)];
    LIFT_CHECK(rows >= 0 && rows <= w.rows);
    set.stage[used_stages + j] = {Planes(stage, set.blocks, rows), stage.gain, stage.slot};
  }
  return true;
}

namespace {

// By stage, the most rows that any of these variants reads.
std::vector<int64_t> RowsRead(const LiftedMatrix& w, std::span<const uint8_t> variants) {
  std::vector<int64_t> most(w.stages.size());
  int64_t last = -1;
  for (const uint8_t variant : variants) {
    if (static_cast<int64_t>(VariantOf(variant)) == last) continue;
    last = static_cast<int64_t>(VariantOf(variant));
    const std::span<const int64_t> rows = w.rows_of(static_cast<int>(last));
    for (size_t j = 0; j < most.size(); ++j) most[j] = std::max(most[j], rows[j]);
  }
  return most;
}

}  // namespace

void CudaBackend::LiftedMatmul(const LiftedMatrix& w, const LiftedActivations& u,
                               std::span<const uint8_t> variants, float* y) {
  const LiftedProduct product{&w, y};
  LiftedMatmuls({&product, 1}, u, variants);
}

// Answers' rows among prompts' are multiplied one after the other, then brought to their places.
void CudaBackend::LiftedMatmuls(std::span<const LiftedProduct> products,
                                const LiftedActivations& activations,
                                std::span<const uint8_t> variants) {
  const auto& u = static_cast<const CudaLiftedActivations&>(activations);
  LIFT_CHECK(static_cast<int64_t>(variants.size()) == u.tokens);
  if (u.tokens == 0) return;
  const auto answers = static_cast<int64_t>(u.answers.size());
  const bool mixed = u.prompts > 0 && answers > 0;
  std::vector<float*> outputs;  // of all rows, where some are prompts'
  int64_t all_rows = 0;
  for (const LiftedProduct& product : products) {
    const LiftedMatrix& w = *product.w;
    LIFT_CHECK(w.rows > 0 && PaddedColumns(w.cols) == u.blocks * kTileColumns);
    for (const LiftedMatrix::Stage& stage : w.stages)
      LIFT_CHECK(u.slots.at(static_cast<size_t>(stage.slot)).code == stage.code);
    all_rows += w.rows;
    if (u.prompts == 0) continue;
    outputs.push_back(OutRows(product.y, u.tokens, w.rows, w.pitch > 0 ? w.pitch : w.rows));
    MultiplyPrompts(w, u, outputs.back());
  }
  float* packed = mixed ? Prompts().answers_y.ReserveFor<float>(answers * all_rows) : nullptr;
  if (answers > 0) MultiplyAnswers(products, u, packed);
  for (size_t i = 0; mixed && i < products.size(); ++i) {
    const LiftedMatrix& w = *products[i].w;
    QueueScatterRows(device_->queue, packed, StageRows(u.rows) + u.prompts, answers, w.rows,
                     w.pitch > 0 ? w.pitch : w.rows, outputs[i]);
    packed += answers * w.rows;
  }
  Finish();
}

void CudaBackend::MultiplyAnswers(std::span<const LiftedProduct> products,
                                  const CudaLiftedActivations& u, float* packed) {
  const auto answers = static_cast<int64_t>(u.answers.size());
  std::vector<SlotTable> slots;
  for (const auto& slot : u.slots) slots.push_back(slot.table);
  const uint8_t* staged = StageVariants(u.answers);
  ProductSet set = {};
  int64_t tiles = 0;
  const auto send = [&] {
    QueueSignGemm(device_->queue, set, staged, answers, tiles);
    set = {};
    tiles = 0;
  };
  for (const LiftedProduct& product : products) {
    const LiftedMatrix& w = *product.w;
    const std::vector<int64_t> rows = RowsRead(w, u.answers);
    float* y = packed == nullptr ? product.y : nullptr;
    for (int attempt = 0; attempt < 2; ++attempt) {
      set.blocks = u.blocks, set.parts = u.parts;
      if (AddProduct(w, rows, y, answers, slots, set, tiles)) break;
      LIFT_CHECK(attempt == 0 && set.products > 0);
      send();
    }
    if (packed == nullptr) continue;
    ProductTable& added = set.product[set.products - 1];
    added.y = packed, added.pitch = w.rows;
    packed += answers * w.rows;
  }
  send();
}

void CudaBackend::LiftedRow(const LiftedMatrix& w, int64_t row, int variant, float* out) {
  const EmbeddingRow only{&w, nullptr, row, variant};
  EmbeddingRows({&only, 1}, w.cols, out);
}

namespace {

// Rows of one tensor among those of an EmbeddingRows.
struct RowGroup {
  std::vector<int32_t> rows, places;
  std::vector<uint8_t> variants;
};

}  // namespace

void CudaBackend::EmbeddingRows(std::span<const EmbeddingRow> rows, int64_t dim, float* out) {
  std::map<const void*, RowGroup> groups;
  std::vector<const EmbeddingRow*> firsts;
  for (size_t i = 0; i < rows.size(); ++i) {
    const EmbeddingRow& r = rows[i];
    LIFT_CHECK((r.lifted ? r.lifted->cols : r.dense->cols) == dim);
    LIFT_CHECK(r.row >= 0 && r.row < (r.lifted ? r.lifted->rows : r.dense->rows));
    RowGroup& group = groups[r.lifted ? static_cast<const void*>(r.lifted) : r.dense];
    if (group.rows.empty()) firsts.push_back(&r);
    group.rows.push_back(static_cast<int32_t>(r.row));
    group.places.push_back(static_cast<int32_t>(i));
    group.variants.push_back(static_cast<uint8_t>(r.variant));
  }
  CommandQueue& queue = device_->queue;
  float* to = Out(out, static_cast<int64_t>(rows.size()) * dim);
  for (const EmbeddingRow* first : firsts) {
    const RowGroup& group =
        groups[first->lifted ? static_cast<const void*>(first->lifted) : first->dense];
    const auto count = static_cast<int64_t>(group.rows.size());
    const int32_t* which = queue.StageAll(std::span<const int32_t>(group.rows));
    if (first->lifted == nullptr) {
      DenseMatrixView view = *first->dense;
      view.data = In(view.data, static_cast<int64_t>(view.bytes()));
      for (int64_t begin = 0, end = 0; begin < count; begin = end) {  // runs of places
        const int32_t place = group.places[static_cast<size_t>(begin)];
        for (end = begin + 1;
             end < count && group.places[static_cast<size_t>(end)] == place + end - begin;)
          ++end;
        QueueDenseRows(queue, view, which + begin, end - begin, to + place * dim);
      }
      continue;
    }
    DecodeRows(*first->lifted, which, queue.StageAll(std::span<const int32_t>(group.places)),
               group.variants, to);
  }
  Finish();
}

void CudaBackend::DecodeRows(const LiftedMatrix& w, const int32_t* rows, const int32_t* places,
                             std::span<const uint8_t> variants, float* out) {
  const auto count = static_cast<int64_t>(variants.size());
  // An embedding need not belong to a site, so slots are numbered anew here.
  LiftedMatrix matrix = w;
  std::vector<const LiftCode*> known;
  std::vector<SlotTable> codes;
  for (LiftedMatrix::Stage& stage : matrix.stages) {
    const auto at = std::find(known.begin(), known.end(), stage.code);
    stage.slot = static_cast<int>(at - known.begin());
    if (at != known.end()) continue;
    known.push_back(stage.code);
    codes.emplace_back().code = MakeCode(*stage.code);
  }
  ProductSet set = {};
  set.blocks = PaddedColumns(w.cols) / kTileColumns, set.parts = 1;
  int64_t tiles = 0;
  LIFT_CHECK(AddProduct(matrix, RowsRead(w, variants), nullptr, 1, codes, set, tiles));
  const RotationView rotation = MakeRotation(w.rotation, w.cols);
  const int64_t floats = LiftedRowFloats(set, rotation);
  float* scratch = nullptr;
  if (static_cast<size_t>(floats) * sizeof(float) > device_->shared_limit)
    scratch = rows_scratch_.ReserveFor<float>(count * floats);
  QueueLiftedRows(device_->queue, set, rotation, rows, places, device_->queue.StageAll(variants),
                  count, scratch, device_->shared_limit, out);
}

}  // namespace lift::cuda
