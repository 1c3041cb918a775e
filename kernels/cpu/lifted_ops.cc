// Lifted layers: lifting activations, and sign planes times lifted activations.
#include <algorithm>
#include <cmath>

#include "kernels/base/check.h"
#include "kernels/base/float16.h"
#include "kernels/cpu/cpu_backend_impl.h"

namespace lift::cpu {
namespace {

constexpr int64_t kDotColumns =
    96;  // columns whose sums are held at once (in the first-level cache)
constexpr int64_t kUnitsPerThread = 8;  // of a matrix at least, so that threads end together
constexpr int64_t kDotBlocks = 64;      // column blocks whose derived signs are made at once
constexpr size_t kAccBytes = sizeof(int32_t) * kDotColumns * kTilePair;
// Below this no 32-bit sum of 128 * 127 * (columns / 8) can overflow.
constexpr int64_t kMaxSigns = kMaxRowSigns;

// Whole cache lines, an odd number of them: the same block of several tokens then falls into
// different sets of the first-level cache.
int64_t ColumnStride(int64_t bytes) {
  const int64_t lines = (bytes + 63) / 64;
  return 64 * (lines | 1);
}

RotateToken MakeRotate(const LiftSite& site, int64_t tail) {
  RotateToken rotate;
  rotate.cols = site.cols;
  rotate.padded = PaddedColumns(site.cols);
  rotate.tail = tail;
  if (site.rotation != nullptr && site.rotation->enabled()) {
    LIFT_CHECK(site.rotation->dimension() == site.cols);
    rotate.signs = site.rotation->signs().data();
    rotate.hartley = site.rotation->hartley().data();
    rotate.power = site.rotation->power();
    rotate.odd = site.rotation->odd();
    rotate.norm = static_cast<float>(1 / std::sqrt(static_cast<double>(rotate.power)));
  }
  return rotate;
}

void CheckCode(const LiftCode& code) {
  LIFT_CHECK(code.stored >= 1 && code.derived >= 0 && code.streams() <= kMaxStreams);
  LIFT_CHECK(code.steps >= 1 && code.masks.size() == static_cast<size_t>(code.derived));
  LIFT_CHECK(code.taps.size() ==
             static_cast<size_t>(code.steps) * static_cast<size_t>(code.streams()));
}

}  // namespace

ParityTables MakeParityTables(const LiftCode& code) {
  ParityTables tables;
  tables.derived = code.derived;
  int count = 0;
  for (int k = 0; k < code.derived; ++k) {
    tables.begin[k] = count;
    const uint64_t mask = code.masks[static_cast<size_t>(k)];
    for (int bit = 0; bit < 64; ++bit) {
      if ((mask >> bit & 1) == 0) continue;
      const int stream = bit % code.streams(), shift = bit / code.streams();
      LIFT_CHECK(stream < code.stored && shift <= kMaxShift);
      tables.taps[count++] = {static_cast<uint8_t>(stream), static_cast<uint8_t>(shift)};
      // Row t of the matrix makes output bit t; it is byte 7 - t of the 64-bit operand.
      for (int t = 0; t < 8; ++t) {
        const int from = t - shift;
        uint64_t& matrix = from >= 0 ? tables.low[k][stream] : tables.high[k][stream];
        matrix ^= uint64_t{1} << (8 * (7 - t) + (from & 7));
      }
    }
  }
  tables.begin[code.derived] = count;
  return tables;
}

void CpuLiftedActivations::Slot::Reserve(int64_t tokens, int64_t bytes) {
  stride = ColumnStride(bytes);
  data.Reserve(static_cast<size_t>(tokens * parts * stride));
  wide.Reserve(static_cast<size_t>(tokens));
  scale.Reserve(static_cast<size_t>(tokens));
  sums.Reserve(static_cast<size_t>(2 * tokens));
}

std::unique_ptr<LiftedActivations> CpuBackend::MakeLiftedActivations() {
  return std::make_unique<CpuLiftedActivations>();
}

void CpuBackend::Lift(const LiftSite& site, const float* x, int64_t tokens,
                      std::span<const uint8_t> variants, LiftedActivations& out) {
  auto& u = static_cast<CpuLiftedActivations&>(out);
  const size_t slots = site.codes.size();
  LIFT_CHECK(site.cols > 0 && static_cast<int64_t>(variants.size()) == tokens);
  u.tokens = tokens;
  u.padded = PaddedColumns(site.cols);
  u.slots.resize(slots);
  PlanPrompts(site, variants, u);
  u.variants.assign(variants.begin(), variants.end());
  if (u.prompts.rows.empty()) {
    for (uint8_t& variant : u.variants) variant &= static_cast<uint8_t>(~kPrefillRow);
  }
  int64_t tail = 0, streams = 1;
  const auto lifted = [&](int64_t t) { return u.variants[static_cast<size_t>(t)] < kPrefillRow; };
  const auto flag = [&](const std::vector<uint8_t>& flags, int64_t t, size_t s) {
    return lifted(t) && flags.at(u.variants[static_cast<size_t>(t)] * slots + s) != 0;
  };
  for (size_t s = 0; s < slots; ++s) {
    const LiftCode& code = *site.codes[s];
    CheckCode(code);
    tail = std::max<int64_t>(tail, code.steps);
    streams = std::max<int64_t>(streams, code.streams());
    CpuLiftedActivations::Slot& slot = u.slots[s];
    slot.code = &code;
    slot.parts = 1;
    for (int64_t t = 0; t < tokens; ++t) {
      if (flag(site.used, t, s) && flag(site.wide, t, s)) slot.parts = 2;
    }
    slot.Reserve(tokens, u.padded * code.streams());
  }
  const RotateToken rotate = MakeRotate(site, tail);
  const int64_t x_floats = (u.padded + tail + 31) / 16 * 16;
  ReserveScratch(sizeof(float) * static_cast<size_t>(2 * x_floats + streams * u.padded));
  const auto prompts = static_cast<int64_t>(u.prompts.rows.size());
  static constexpr float kAsItIs = 1;
  const auto rotate_token = [&](int64_t t, int thread) {
    RotateToken token = rotate;
    token.x = x + t * site.cols;
    token.out = Scratch<float>(thread);
    token.scratch = token.out + x_floats;
    k_.rotate(token);
    return token;
  };
  For(prompts, 16 * u.padded, [&](int64_t begin, int64_t end, int thread) {
    CpuLiftedActivations::Slot& slot = u.prompts.bytes;
    size_t g = 0;
    for (int64_t i = begin; i < end; ++i) {
      while (i >= u.prompts.groups[g].first + u.prompts.groups[g].count) ++g;
      const bool wide = u.prompts.groups[g].wide;
      const RotateToken token = rotate_token(u.prompts.rows[static_cast<size_t>(i)], thread);
      k_.lift_slot({token.out, &kAsItIs, u.padded, 1, 1, wide, token.out + 2 * x_floats,
                    slot.column(i, 0), wide ? slot.column(i, 1) : nullptr, &slot.scale[i],
                    &slot.sums[2 * i]});
    }
  });
  if (prompts == tokens) return;
  For(tokens, 64 * u.padded, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t t = begin; t < end; ++t) {
      if (!lifted(t)) continue;
      const RotateToken token = rotate_token(t, thread);
      for (size_t s = 0; s < slots; ++s) {
        if (!flag(site.used, t, s)) continue;
        CpuLiftedActivations::Slot& slot = u.slots[s];
        const bool wide = flag(site.wide, t, s);
        slot.wide[t] = wide;
        k_.lift_slot({token.out, slot.code->taps.data(), u.padded, slot.code->streams(),
                      slot.code->steps, wide, token.out + 2 * x_floats, slot.column(t, 0),
                      wide ? slot.column(t, 1) : nullptr, &slot.scale[t], &slot.sums[2 * t]});
      }
    }
  });
}

void CpuBackend::PlanStage(const LiftedMatrix& w, size_t stage, const CpuLiftedActivations& u,
                           StagePlan& plan) {
  const LiftedMatrix::Stage& s = w.stages[stage];
  CheckCode(*s.code);
  const CpuLiftedActivations::Slot& slot = u.slots.at(static_cast<size_t>(s.slot));
  LIFT_CHECK(slot.code == s.code && u.padded * s.code->streams() <= kMaxSigns);
  plan.parity = MakeParityTables(*s.code);
  std::vector<int64_t> ends;
  for (const uint8_t variant : u.variants) {
    if (variant >= kPrefillRow) continue;
    const int64_t rows = w.rows_of(variant)[stage];
    LIFT_CHECK(rows >= 0 && rows <= w.rows);
    if (rows > 0 && std::find(ends.begin(), ends.end(), rows) == ends.end()) ends.push_back(rows);
  }
  std::sort(ends.begin(), ends.end());
  plan.segments.resize(ends.size());
  for (size_t i = 0; i < ends.size(); ++i) {
    Segment& segment = plan.segments[i];
    segment.row_end = ends[i];
    segment.readers.clear();
    segment.columns.clear();
    segment.tables.clear();
    for (int64_t t = 0; t < u.tokens; ++t) {
      const uint8_t variant = u.variants[static_cast<size_t>(t)];
      if (variant >= kPrefillRow || w.rows_of(variant)[stage] < ends[i]) continue;
      const bool wide = slot.wide[t] != 0;
      segment.readers.push_back({static_cast<int32_t>(t),
                                 wide,
                                 s.gain * slot.scale[t],
                                 {slot.sums[2 * t], slot.sums[2 * t + 1]}});
      for (int part = 0; part <= (wide ? 1 : 0); ++part) {
        segment.columns.push_back(slot.column(t, part));
      }
    }
    const Lookup& lookup = lookups_[static_cast<size_t>(s.slot)];
    for (const int8_t* column : segment.columns) {
      if (const int16_t* table = lookup.Table(column)) segment.tables.push_back(table);
    }
    LIFT_CHECK(segment.tables.empty() || segment.tables.size() == segment.columns.size());
  }
}

void CpuBackend::SignSegment(const LiftedMatrix::Stage& s, const ParityTables& parity,
                             const Segment& segment, int64_t padded, int64_t pitch, int64_t row,
                             int64_t row_end, float* y, int thread) {
  const bool look_up = !segment.tables.empty();
  const int64_t rows_at_once = look_up ? k_.lookups.rows : kTilePair;
  for (int64_t end; row < row_end; row = end) {
    end = std::min<int64_t>(row_end, row + rows_at_once);
    if (look_up) {
      LookUpSegment(s, parity, segment, padded, pitch, row, end, y, thread);
    } else {
      DotSegment(s, parity, segment, padded, pitch, row, end, y, thread);
    }
  }
}

// Rows [row, row_end) of one or two row tiles; all of them belong to `segment`.
void CpuBackend::DotSegment(const LiftedMatrix::Stage& s, const ParityTables& parity,
                            const Segment& segment, int64_t padded, int64_t pitch, int64_t row,
                            int64_t row_end, float* y, int thread) {
  const int64_t blocks = padded / kTileColumns;
  const int derived = s.code->derived;
  int32_t* acc = Scratch<int32_t>(thread);
  uint8_t* words = Scratch<uint8_t>(thread) + kAccBytes;
  SignDot dot;
  dot.tiles = row_end - row > kTileRows ? 2 : 1;
  dot.stored = s.code->stored;
  dot.derived_streams = derived;
  dot.acc = acc;
  for (int i = 0; i < dot.tiles; ++i) {
    dot.planes[i] = TilePlanes(s, padded, row + i * kTileRows);
    dot.derived[i] = words + i * derived * kDotBlocks * kTileBytes;
  }
  size_t column = 0;
  for (size_t first = 0; first < segment.readers.size();) {
    size_t last = first, count = 0;
    for (; last < segment.readers.size(); ++last) {
      const size_t more = segment.readers[last].wide ? 2 : 1;
      if (count + more > kDotColumns) break;
      count += more;
    }
    std::fill(acc, acc + count * kTilePair, 0);
    dot.columns = segment.columns.data() + column;
    dot.num_columns = static_cast<int64_t>(count);
    dot.begin = 0;
    dot.end = dot.blocks = blocks;
    dot.parity = &parity;
    if (k_.sign_dot_fused != nullptr && k_.sign_dot_fused(dot)) dot.begin = blocks;
    for (; dot.begin < blocks; dot.begin = dot.end) {
      dot.end = std::min(blocks, dot.begin + kDotBlocks);
      for (int i = 0; derived > 0 && i < dot.tiles; ++i) {
        k_.derive({&parity, dot.planes[i], dot.stored, blocks, dot.begin, dot.end,
                   words + i * derived * kDotBlocks * kTileBytes});
      }
      k_.sign_dot(dot);
    }
    const int32_t* sums = acc;
    for (; first < last; ++first) {
      const Reader& reader = segment.readers[first];
      k_.combine({sums, reader.wide ? sums + kTilePair : nullptr, reader.sums[0], reader.sums[1],
                  reader.coefficient, row_end - row, y + reader.token * pitch + row});
      sums += reader.wide ? 2 * kTilePair : kTilePair;
    }
    column += count;
  }
}

void CpuBackend::SignRows(const LiftedMatrix& w, const std::vector<StagePlan>& plans,
                          const CpuLiftedActivations& u, int64_t row, int64_t row_end, float* y,
                          int thread) {
  const auto lifted = [&](int64_t t) { return u.variants[static_cast<size_t>(t)] < kPrefillRow; };
  for (int64_t t = 0; t < u.tokens; ++t) {
    if (!lifted(t)) continue;
    std::fill(y + t * Pitch(w) + row, y + t * Pitch(w) + row_end, 0.0f);
  }
  for (size_t j = 0; j < w.stages.size(); ++j) {
    const std::vector<Segment>& segments = plans[j].segments;
    int64_t from = row;
    for (const Segment& segment : segments) {
      if (segment.row_end <= from) continue;
      const int64_t to = std::min(row_end, segment.row_end);
      SignSegment(w.stages[j], plans[j].parity, segment, u.padded, Pitch(w), from, to, y, thread);
      from = to;
      if (from == row_end) break;
    }
  }
  for (int64_t t = 0; t < u.tokens; ++t) {
    if (!lifted(t)) continue;
    k_.scale_rows(w.row_scale + row, row_end - row, y + t * Pitch(w) + row);
  }
}

void CpuBackend::LiftedMatmul(const LiftedMatrix& w, const LiftedActivations& u,
                              std::span<const uint8_t> variants, float* y) {
  const LiftedProduct product{&w, y};
  LiftedMatmuls({&product, 1}, u, variants);
}

void CpuBackend::LiftedMatmuls(std::span<const LiftedProduct> products,
                               const LiftedActivations& activations,
                               std::span<const uint8_t> variants) {
  const auto& u = static_cast<const CpuLiftedActivations&>(activations);
  LIFT_CHECK(static_cast<int64_t>(variants.size()) == u.tokens);
  plans_.resize(std::max(plans_.size(), products.size()));
  // Rows of a unit of work: few where there are few, so that threads end together.
  int64_t all_rows = 0;
  for (const LiftedProduct& product : products) all_rows += product.w->rows;
  int64_t unit_rows = std::max<int64_t>(k_.lookups.rows, 2 * kTilePair);
  while (unit_rows > kTilePair && all_rows < kUnitsPerThread * pool_.threads() * unit_rows)
    unit_rows /= 2;
  const auto units_of = [&](const LiftedMatrix& w) { return (w.rows + unit_rows - 1) / unit_rows; };
  PlanLookups(products, u);
  int64_t derived = 0, units = 0;
  for (size_t i = 0; i < products.size(); ++i) {
    const LiftedMatrix& w = *products[i].w;
    LIFT_CHECK(w.rows > 0 && PaddedColumns(w.cols) == u.padded);
    plans_[i].resize(std::max(plans_[i].size(), w.stages.size()));
    for (size_t j = 0; j < w.stages.size(); ++j) {
      PlanStage(w, j, u, plans_[i][j]);
      derived = std::max<int64_t>(derived, w.stages[j].code->derived);
    }
    units += units_of(w);
  }
  const size_t groups = u.prompts.groups.size();
  tile_plans_.resize(std::max(tile_plans_.size(), products.size()));
  for (size_t i = 0; i < products.size(); ++i) {
    tile_plans_[i].resize(std::max(tile_plans_[i].size(), groups));
    for (size_t g = 0; g < groups; ++g) {
      PlanTiles(*products[i].w, u.prompts.groups[g], tile_plans_[i][g]);
    }
  }
  const bool signs = static_cast<int64_t>(u.prompts.rows.size()) < u.tokens;
  ReserveScratch(std::max(kAccBytes + static_cast<size_t>(2 * derived * kDotBlocks * kTileBytes),
                          PromptScratch(u, products)));
  // Small ranges: a thread that another process delays then holds up little.
  constexpr int64_t kRangesPerThread = 16;
  For(
      units, unit_rows * u.padded,
      [&](int64_t begin, int64_t end, int thread) {
        size_t i = 0;
        int64_t first = 0;  // unit of products[i]
        for (int64_t unit = begin; unit < end; ++unit) {
          while (unit - first >= units_of(*products[i].w)) first += units_of(*products[i++].w);
          const LiftedMatrix& w = *products[i].w;
          const int64_t row = (unit - first) * unit_rows;
          const int64_t row_end = std::min(w.rows, row + unit_rows);
          if (signs) SignRows(w, plans_[i], u, row, row_end, products[i].y, thread);
          for (int64_t from = row; from < row_end && groups > 0; from += kTilePair) {
            for (size_t g = 0; g < groups; ++g) {
              PromptRows(w, tile_plans_[i][g], u.prompts.groups[g], u, from,
                         std::min<int64_t>(row_end, from + kTilePair), products[i].y, thread);
            }
          }
        }
      },
      kRangesPerThread);
}

void CpuBackend::LiftedRow(const LiftedMatrix& w, int64_t row, int variant, float* out) {
  LIFT_CHECK(row >= 0 && row < w.rows && w.cols > 0);
  const int64_t padded = PaddedColumns(w.cols);
  int64_t steps = 1, streams = 1;
  for (const LiftedMatrix::Stage& stage : w.stages) {
    CheckCode(*stage.code);
    steps = std::max<int64_t>(steps, stage.code->steps);
    streams = std::max<int64_t>(streams, stage.code->streams());
  }
  const int64_t bit_floats = streams * (steps - 1 + padded);
  ReserveScratch(sizeof(float) *
                 static_cast<size_t>(3 * padded + bit_floats + streams * padded / 32));
  float* v = Scratch<float>(0);
  float* sum = v + padded;
  float* scratch = sum + padded;
  float* bits = scratch + padded;
  uint32_t* words = reinterpret_cast<uint32_t*>(bits + bit_floats);
  std::fill(v, v + padded, 0.0f);
  const std::span<const int64_t> stage_rows = w.rows_of(variant);
  for (size_t j = 0; j < w.stages.size(); ++j) {
    if (row >= stage_rows[j]) continue;
    const LiftedMatrix::Stage& stage = w.stages[j];
    k_.decode_row({stage.code, TilePlanes(stage, padded, row), static_cast<int>(row % kTileRows),
                   padded, stage.gain, words, bits, sum, v});
  }
  const float scale = HalfToFloat(w.row_scale[row]);
  for (int64_t i = 0; i < w.cols; ++i) out[i] = scale * v[i];
  if (w.rotation != nullptr) w.rotation->ApplyTranspose(out, scratch);
}

}  // namespace lift::cpu
