// Mixtures of experts: the tables of a layer's experts, kept on the device, and the launches.
#include <algorithm>

#include "kernels/base/check.h"
#include "kernels/cuda/cuda_backend_impl.h"
#include "kernels/cuda/lift.h"
#include "kernels/cuda/sign_gemm.inl.h"
#include "kernels/cuda/vector_ops.h"

namespace lift::cuda {
namespace {

constexpr int64_t kMaxPairs = 65535;  // of a launch's grid

bool FitsOneLaunch(const ExpertWeights& e) {
  return e.gate->stages.size() + e.up->stages.size() <= static_cast<size_t>(kMaxStageRows) &&
         e.down->stages.size() <= static_cast<size_t>(kMaxStageRows) &&
         e.gate_up->codes.size() <= static_cast<size_t>(kMaxSlots) &&
         e.down_input->codes.size() <= static_cast<size_t>(kMaxSlots);
}

}  // namespace

std::unique_ptr<ExpertLayer> CudaBackend::MakeExpertLayer(std::span<const ExpertWeights> experts,
                                                          int64_t per_token) {
  // Tables outlive a batch, so what they point to has to stay on the device.
  for (const ExpertWeights& e : experts) {
    if (!FitsOneLaunch(e)) return nullptr;
    for (const LiftedMatrix* w : {e.gate, e.up, e.down}) {
      if (device_->memory.Find(w->row_scale) == nullptr) return nullptr;
    }
  }
  auto layer = std::make_unique<CudaExpertLayer>(device_);
  layer->experts.assign(experts.begin(), experts.end());
  layer->per_token = static_cast<int32_t>(per_token);
  layer->first_touched = touched_experts_;
  touched_experts_ += static_cast<int64_t>(experts.size());
  return layer;
}

SiteTable CudaBackend::MakeExpertSite(const LiftSite& site) {
  SiteTable table = MakeSite(site);
  for (size_t s = 0; s < site.codes.size(); ++s) {
    table.slot[s] = expert_slots_.at(s).table;
    table.slot[s].code = MakeCode(*site.codes[s]);
  }
  return table;
}

// Room for the activations of `pairs` pairs; true if it moved.
bool CudaBackend::ReserveExperts(const CudaExpertLayer& layer, int64_t pairs, int64_t tokens) {
  size_t slots = 0;
  int64_t blocks = 0;
  for (const ExpertWeights& e : layer.experts) {
    for (const LiftSite* site : {e.gate_up, e.down_input}) {
      slots = std::max(slots, site->codes.size());
      blocks = std::max(blocks, PaddedColumns(site->cols) / kTileColumns);
    }
  }
  while (expert_slots_.size() < slots) expert_slots_.emplace_back(*device_);
  bool moved = false;
  const auto reserve = [&](auto*& at, Scratch& scratch, int64_t count) {
    using T = std::remove_reference_t<decltype(*at)>;
    T* now = scratch.ReserveFor<T>(count);
    moved = moved || now != at;
    at = now;
  };
  for (auto& slot : expert_slots_) {
    reserve(slot.table.bits, slot.bits, pairs * 2 * blocks * kMaxCodeStreams * kBits);
    reserve(slot.table.scale, slot.scale, pairs);
    reserve(slot.table.sums, slot.sums, 2 * pairs);
    reserve(slot.table.wide, slot.wide, pairs);
  }
  const int64_t inner = layer.experts[0].gate->rows, hidden = layer.experts[0].down->rows;
  reserve(expert_gate_, expert_memory_[0], pairs * inner);
  reserve(expert_up_, expert_memory_[1], pairs * inner);
  reserve(expert_out_, expert_memory_[2], pairs * hidden);
  ExpertPairs& p = expert_pairs_;
  const auto experts = static_cast<int64_t>(layer.experts.size());
  reserve(p.first, expert_memory_[3], experts + 1);
  reserve(p.expert, expert_memory_[4], pairs);
  reserve(p.row, expert_memory_[5], pairs);
  reserve(p.variant, expert_memory_[6], pairs);
  reserve(p.weight, expert_memory_[7], pairs);
  reserve(p.of_row, expert_memory_[8], pairs);
  reserve(p.choice, expert_memory_[9], pairs);
  reserve(p.choice_weight, expert_memory_[10], pairs);
  int32_t* touched = expert_memory_[11].ReserveFor<int32_t>(touched_experts_);
  p.touched = touched + layer.first_touched;
  p.rows = tokens;
  p.experts = static_cast<int32_t>(experts);
  p.per_row = layer.per_token;
  return moved;
}

ProductSet CudaBackend::MakeExpertSet(const LiftSite& site,
                                      std::span<const ExpertProduct> products) {
  ProductSet set = {};
  set.blocks = PaddedColumns(site.cols) / kTileColumns;
  const SiteTable table = MakeExpertSite(site);
  int64_t tiles = 0;
  for (const ExpertProduct& product : products) {
    std::vector<int64_t> all(product.w->stages.size(), 0);
    for (size_t i = 0; i < product.w->stage_rows.size(); ++i) {
      int64_t& rows = all[i % all.size()];
      rows = std::max(rows, product.w->stage_rows[i]);
    }
    // The planes are adopted as far as any kept variant reads them; others are never reached.
    for (size_t j = 0; j < all.size(); ++j) {
      if (device_->memory.Find(product.w->stages[j].planes) == nullptr) all[j] = 0;
    }
    LIFT_CHECK(AddProduct(*product.w, all, nullptr, 1,
                          {table.slot, static_cast<size_t>(table.slots)}, set, tiles));
    set.product[set.products - 1].y = product.y;
  }
  return set;
}

void CudaBackend::BuildExpertTables(CudaExpertLayer& layer) {
  std::vector<SiteTable> gate_up_sites, down_sites;
  std::vector<ProductSet> gate_up_sets, down_sets;
  layer.tiles[0] = layer.tiles[1] = layer.row_floats[0] = layer.row_floats[1] = 0;
  layer.slots[0] = layer.slots[1] = 0;
  layer.any_code = false;
  for (const ExpertWeights& e : layer.experts) {
    gate_up_sites.push_back(MakeExpertSite(*e.gate_up));
    down_sites.push_back(MakeExpertSite(*e.down_input));
    const ExpertProduct both[] = {{e.gate, expert_gate_}, {e.up, expert_up_}};
    const ExpertProduct down[] = {{e.down, expert_out_}};
    gate_up_sets.push_back(MakeExpertSet(*e.gate_up, both));
    down_sets.push_back(MakeExpertSet(*e.down_input, down));
    for (int i = 0; i < 2; ++i) {
      const SiteTable& site = i == 0 ? gate_up_sites.back() : down_sites.back();
      layer.slots[i] = std::max(layer.slots[i], site.slots);
      layer.row_floats[i] = std::max(layer.row_floats[i], LiftRowFloats(site));
      for (int s = 0; s < site.slots; ++s)
        layer.any_code = layer.any_code || !IsCommon(site.slot[s].code);
    }
    const auto tiles = [](const LiftedMatrix& w) { return PaddedRows(w.rows) / kTileRows; };
    layer.tiles[0] = std::max(layer.tiles[0], tiles(*e.gate) + tiles(*e.up));
    layer.tiles[1] = std::max(layer.tiles[1], tiles(*e.down));
  }
  const auto send = [&](const auto& tables, Scratch& scratch) {
    using T = std::remove_cvref_t<decltype(tables[0])>;
    T* to = scratch.ReserveFor<T>(static_cast<int64_t>(tables.size()));
    device_->queue.UploadLater(tables.data(), tables.size() * sizeof(T), to);
    return to;
  };
  layer.sites[0] = send(gate_up_sites, layer.memory[0]);
  layer.sites[1] = send(down_sites, layer.memory[1]);
  layer.sets[0] = send(gate_up_sets, layer.memory[2]);
  layer.sets[1] = send(down_sets, layer.memory[3]);
}

void CudaBackend::RunExperts(ExpertLayer& opaque, const float* x, const float* scores,
                             int64_t tokens, std::span<const uint8_t> variants, float* out) {
  auto& layer = static_cast<CudaExpertLayer&>(opaque);
  const int64_t hidden = layer.experts[0].down->rows, inner = layer.experts[0].gate->rows;
  const int64_t pairs = tokens * layer.per_token;
  const auto experts = static_cast<int64_t>(layer.experts.size());
  LIFT_CHECK(tokens > 0 && pairs <= kMaxPairs);
  if (ReserveExperts(layer, pairs, tokens)) ++expert_generation_;
  if (layer.generation != expert_generation_) {
    BuildExpertTables(layer);
    layer.generation = expert_generation_;
  }
  int32_t parts = 1;
  for (const ExpertWeights& e : layer.experts) {
    if (AnyWide(*e.gate_up, variants) || AnyWide(*e.down_input, variants)) parts = 2;
  }
  float* scratch = nullptr;
  for (int i = 0; i < 2; ++i) {
    if (static_cast<size_t>(layer.row_floats[i]) * sizeof(float) > device_->shared_limit)
      scratch = rows_scratch_.ReserveFor<float>(pairs * layer.slots[i] * layer.row_floats[i]);
  }
  CommandQueue& queue = device_->queue;
  const ExpertPairs& p = expert_pairs_;
  const float* x_in = In(x, tokens * hidden);
  float* to = Out(out, tokens * hidden);
  QueueRoute(queue, p, In(scores, tokens * experts), StageVariants(variants));
  QueueLiftExperts(queue, layer.sites[0], layer.slots[0], layer.row_floats[0], p, x_in, true, parts,
                   scratch, device_->shared_limit);
  QueueExpertProducts(queue, layer.sets[0], layer.tiles[0], layer.any_code, p, parts);
  QueueElementwise(queue, Elementwise::kSwiGlu, expert_gate_, expert_up_, pairs * inner,
                   pairs * inner, 1, expert_up_);
  QueueLiftExperts(queue, layer.sites[1], layer.slots[1], layer.row_floats[1], p, expert_up_, false,
                   parts, scratch, device_->shared_limit);
  QueueExpertProducts(queue, layer.sets[1], layer.tiles[1], layer.any_code, p, parts);
  QueueCombineExperts(queue, p, expert_out_, hidden, to);
  touched_known_ = false;
  Finish();
}

std::vector<int32_t> CudaBackend::TouchedExperts(ExpertLayer& opaque) {
  auto& layer = static_cast<CudaExpertLayer&>(opaque);
  if (!touched_known_) {
    touched_.resize(static_cast<size_t>(touched_experts_));
    device_->queue.Download(expert_memory_[11].ReserveFor<int32_t>(touched_experts_),
                            touched_.size() * sizeof(int32_t), touched_.data());
    touched_known_ = true;
  }
  const auto first = touched_.begin() + layer.first_touched;
  return {first, first + static_cast<std::ptrdiff_t>(layer.experts.size())};
}

}  // namespace lift::cuda
