// Lifted layers of prompts: planes are decoded to integer tiles once for many rows, and the tiles
// multiplied by the rotated, not lifted, activations. See kPrefillRow.
#include <algorithm>
#include <cmath>

#include "kernels/base/check.h"
#include "kernels/base/float16.h"
#include "kernels/cpu/cpu_backend_impl.h"

namespace lift::cpu {
namespace {

constexpr int64_t kExpandBlocks = 64;      // decoded at once: a pair of tiles then takes 64 KiB
constexpr int64_t kPrefillColumns = 1024;  // whose sums are held at once
constexpr int64_t kPanelBytes = kExpandBlocks * 8 * kQuadBytes;  // of one tile
// 255 * 127 * this stays below 2^31.
constexpr int64_t kMaxPrefillColumns = 1 << 16;

struct TableShape {
  int windows = 0;
  size_t bytes = 0;
};

TableShape ShapeOf(const LiftCode& code, int window_signs) {
  TableShape shape;
  shape.windows = (code.steps + window_signs - 1) / window_signs;
  shape.bytes = static_cast<size_t>(code.streams() * shape.windows) << (window_signs + 1);
  return shape;
}

// The largest |sum of taps| of a stage.
double Reach(const LiftedMatrix::Stage& stage) {
  double sum = 0;
  for (const float tap : stage.code->taps) sum += std::abs(static_cast<double>(tap));
  return sum * std::abs(static_cast<double>(stage.gain));
}

// ExpandStage::tables of a stage whose values are counted in `unit`s.
void FillTables(const LiftedMatrix::Stage& stage, double unit, int windows, int window_signs,
                uint8_t* table) {
  const int entries = 1 << window_signs;
  const LiftCode& code = *stage.code;
  for (int s = 0; s < code.streams(); ++s) {
    for (int window = 0; window < windows; ++window, table += 2 * entries) {
      int32_t sums[1 << kWindowSigns] = {}, filled = 1;
      for (int i = 0; i < window_signs; ++i, filled *= 2) {
        const int m = window_signs * window + window_signs - 1 - i;
        const float tap =
            m < code.steps ? code.taps[static_cast<size_t>(m * code.streams() + s)] : 0;
        const auto units = static_cast<int32_t>(
            std::lrint(static_cast<double>(stage.gain) * static_cast<double>(tap) / unit));
        for (int32_t k = 0; k < filled; ++k) {
          sums[filled + k] = sums[k] + units;
          sums[k] -= units;
        }
      }
      for (int k = 0; k < entries; ++k) {
        table[k] = static_cast<uint8_t>(sums[k] & 255);
        table[entries + k] = static_cast<uint8_t>(sums[k] >> 8 & 255);
      }
    }
  }
}

}  // namespace

bool CpuBackend::ReadsPrompts(const LiftSite& site) {
  const auto short_enough = [](const LiftCode* code) { return code->steps <= kMaxExpandSteps; };
  return PaddedColumns(site.cols) <= kMaxPrefillColumns &&
         std::all_of(site.codes.begin(), site.codes.end(), short_enough);
}

void CpuBackend::PlanPrompts(const LiftSite& site, std::span<const uint8_t> variants,
                             CpuLiftedActivations& u) {
  const size_t slots = site.codes.size();
  CpuLiftedActivations::Prompts& prompts = u.prompts;
  prompts.groups.clear();
  prompts.rows.clear();
  if (!ReadsPrompts(site)) return;
  std::vector<uint8_t> seen;
  for (size_t t = 0; t < variants.size(); ++t) {
    if ((variants[t] & kPrefillRow) == 0) continue;
    if (std::find(seen.begin(), seen.end(), variants[t]) == seen.end()) seen.push_back(variants[t]);
  }
  for (const uint8_t flagged : seen) {
    CpuLiftedActivations::PromptGroup group;
    group.variant = flagged & ~kPrefillRow;
    group.first = static_cast<int64_t>(prompts.rows.size());
    for (size_t s = 0; s < slots; ++s) {
      const size_t flag = static_cast<size_t>(group.variant) * slots + s;
      group.wide = group.wide || (site.used.at(flag) != 0 && site.wide.at(flag) != 0);
    }
    for (size_t t = 0; t < variants.size(); ++t) {
      if (variants[t] == flagged) prompts.rows.push_back(static_cast<int32_t>(t));
    }
    group.count = static_cast<int64_t>(prompts.rows.size()) - group.first;
    prompts.groups.push_back(group);
  }
  const auto rows = static_cast<int64_t>(prompts.rows.size());
  prompts.bytes.parts = 1;
  for (const auto& group : prompts.groups) {
    if (group.wide) prompts.bytes.parts = 2;
  }
  prompts.bytes.Reserve(rows, u.padded);
}

void CpuBackend::PlanTiles(const LiftedMatrix& w, const CpuLiftedActivations::PromptGroup& group,
                           TilePlan& plan) const {
  const std::span<const int64_t> rows = w.rows_of(group.variant);
  plan.stages.clear();
  double reach = 0;
  int bits = 0;
  size_t bytes = 0;
  for (size_t j = 0; j < w.stages.size(); ++j) {
    if (rows[j] == 0) continue;
    reach += Reach(w.stages[j]);
    bits += w.stages[j].code->stored;
    bytes += ShapeOf(*w.stages[j].code, k_.window_signs).bytes;
  }
  plan.wide = group.wide || bits > kNarrowPrefillBits;
  // Each rounded tap may add half a unit.
  const double unit = std::max(reach, 1e-30) / 32000;
  plan.unit = static_cast<float>(unit);
  plan.tables.Reserve(bytes);
  uint8_t* table = plan.tables.data();
  for (size_t j = 0; j < w.stages.size(); ++j) {
    if (rows[j] == 0) continue;
    const LiftCode& code = *w.stages[j].code;
    const TableShape shape = ShapeOf(code, k_.window_signs);
    FillTables(w.stages[j], unit, shape.windows, k_.window_signs, table);
    plan.stages.push_back({&w.stages[j], rows[j], shape.windows, table, MakeParityTables(code)});
    table += shape.bytes;
  }
}

// Decodes blocks [begin, end) of the row tile at `row` into `high` and, if the plan is wide, `low`.
void CpuBackend::Expand(const TilePlan& plan, int64_t padded, int64_t row, int64_t begin,
                        int64_t end, uint8_t* words, int8_t* high, int8_t* low) {
  const int64_t blocks = padded / kTileColumns;
  ExpandStage stages[kMaxExpandStages];
  ExpandTile tile;
  tile.stages = stages;
  for (const TilePlan::Stage& planned : plan.stages) {
    if (row >= planned.rows) continue;
    const LiftCode& code = *planned.stage->code;
    LIFT_CHECK(tile.num_stages < kMaxExpandStages);
    ExpandStage& stage = stages[tile.num_stages++];
    stage.planes = TilePlanes(*planned.stage, padded, row);
    stage.stored = code.stored;
    stage.derived_streams = code.derived;
    stage.windows = planned.windows;
    stage.tables = planned.tables;
    if (code.derived == 0) continue;
    stage.derived = words;
    const int64_t before = begin == 0 ? blocks - 1 : begin - 1;
    const int64_t line = code.derived * kTileBytes;
    k_.derive({&planned.parity, stage.planes, code.stored, blocks, before, before + 1, words});
    k_.derive({&planned.parity, stage.planes, code.stored, blocks, begin, end, words + line});
    words += (end - begin + 1) * line;
  }
  tile.blocks = blocks;
  tile.begin = begin;
  tile.end = end;
  tile.high = high;
  tile.low = plan.wide ? low : nullptr;
  k_.expand(tile);
}

size_t CpuBackend::PromptScratch(const CpuLiftedActivations& u,
                                 std::span<const LiftedProduct> products) const {
  if (u.prompts.groups.empty()) return 0;
  int64_t derived = 0, columns = 0;
  for (const LiftedProduct& product : products) {
    int64_t streams = 0;
    for (const LiftedMatrix::Stage& stage : product.w->stages) streams += stage.code->derived;
    derived = std::max(derived, streams);
  }
  for (const auto& group : u.prompts.groups) {
    columns = std::max(columns, group.count * (group.wide ? 2 : 1));
  }
  columns = std::min(columns, kPrefillColumns);
  return static_cast<size_t>(2 * columns * kTilePair * static_cast<int64_t>(sizeof(int32_t)) +
                             4 * kPanelBytes + derived * (kExpandBlocks + 1) * kTileBytes);
}

// Sums of prompts' rows [first, first + count), [panels][count][parts][kTilePair], to outputs.
void CpuBackend::CombinePrompts(const LiftedMatrix& w, const TilePlan& plan, bool wide,
                                const CpuLiftedActivations& u, int64_t first, int64_t count,
                                int64_t row, int64_t row_end, const int32_t* acc, float* y) {
  const CpuLiftedActivations::Slot& bytes = u.prompts.bytes;
  const int parts = wide ? 2 : 1, panels = plan.wide ? 2 : 1;
  float row_scale[kTilePair];
  for (int64_t r = row; r < row_end; ++r) row_scale[r - row] = HalfToFloat(w.row_scale[r]);
  TileCombine combine;
  combine.parts = panels * parts;
  combine.row_scale = row_scale;
  combine.rows = row_end - row;
  for (int64_t at = first; at < first + count; ++at, acc += parts * kTilePair) {
    for (int n = 0; n < combine.parts; ++n) {
      const int panel = n / parts, part = n % parts;
      combine.acc[n] = acc + (panel * count * parts + part) * kTilePair;
      combine.offset[n] = k_.tile_bias * bytes.sums[2 * at + part];
      combine.weight[n] =
          (plan.wide && panel == 0 ? 256.0 : 1.0) * (wide && part == 0 ? 128.0 : 1.0);
    }
    combine.coefficient = (plan.wide ? 1.0f : 256.0f) * plan.unit * bytes.scale[at];
    combine.y = y + u.prompts.rows[static_cast<size_t>(at)] * Pitch(w) + row;
    k_.tile_combine(combine);
  }
}

// Rows [row, row_end) of one or two row tiles for the prompts of one group.
void CpuBackend::PromptRows(const LiftedMatrix& w, const TilePlan& plan,
                            const CpuLiftedActivations::PromptGroup& group,
                            const CpuLiftedActivations& u, int64_t row, int64_t row_end, float* y,
                            int thread) {
  const CpuLiftedActivations::Slot& bytes = u.prompts.bytes;
  const int64_t blocks = u.padded / kTileColumns;
  const int parts = group.wide ? 2 : 1, panels = plan.wide ? 2 : 1;
  const int64_t most = kPrefillColumns / parts;
  for (int64_t first = 0; first < group.count; first += most) {
    const int64_t count = std::min(most, group.count - first), columns = count * parts;
    int8_t* panel = Scratch<int8_t>(thread);  // [high, low][tile][kPanelBytes]
    auto* acc = reinterpret_cast<int32_t*>(panel + 4 * kPanelBytes);
    auto* words = reinterpret_cast<uint8_t*>(acc + 2 * columns * kTilePair);
    std::fill(acc, acc + panels * columns * kTilePair, 0);
    if (row_end - row <= kTileRows) {  // the second tile is not there
      for (int p = 0; p < 2; ++p) {
        std::fill_n(panel + (2 * p + 1) * kPanelBytes, kPanelBytes,
                    static_cast<int8_t>(k_.tile_bias));
      }
    }
    for (int64_t begin = 0; begin < blocks; begin += kExpandBlocks) {
      const int64_t end = std::min(blocks, begin + kExpandBlocks);
      for (int64_t i = 0; row + i * kTileRows < row_end; ++i) {
        Expand(plan, u.padded, row + i * kTileRows, begin, end, words, panel + i * kPanelBytes,
               panel + (2 + i) * kPanelBytes);
      }
      for (int p = 0; p < panels; ++p) {
        k_.tile_dot({{panel + 2 * p * kPanelBytes, panel + (2 * p + 1) * kPanelBytes},
                     end - begin,
                     bytes.column(group.first + first, 0) + begin * kTileColumns,
                     parts == bytes.parts ? bytes.stride : bytes.parts * bytes.stride,
                     columns,
                     acc + p * columns * kTilePair});
      }
    }
    CombinePrompts(w, plan, group.wide, u, group.first + first, count, row, row_end, acc, y);
  }
}

}  // namespace lift::cpu
