#include "kernels/format/layout.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"

namespace lift::format {
namespace {

constexpr int64_t kMaxDimension = int64_t{1} << 30;
constexpr size_t kMaxTensors = 1 << 16, kMaxCodes = 256;
constexpr int kMaxMaskSteps = 7;
constexpr int64_t kMaxOddFactor = 4096;  // bounds the dense part of a rotation

absl::Status Invalid(const std::string& message) { return absl::InvalidArgumentError(message); }

absl::Status CheckCode(const LiftCode& code) {
  const std::string who = absl::StrCat("code '", code.name, "'");
  if (code.stored < 1 || code.stored > kMaxStreams || code.derived < 0 ||
      code.derived > kMaxStreams - code.stored) {
    return Invalid(absl::StrCat(who, " needs 1 to ", kMaxStreams, " streams, at least one stored"));
  }
  if (code.steps < 1 || code.steps > 64 || code.steps * code.streams() > 64) {
    return Invalid(absl::StrCat(who, " has a window of more than 64 signs (or none)"));
  }
  if (code.masks.size() != static_cast<size_t>(code.derived)) {
    return Invalid(absl::StrCat(who, " needs one mask for each derived stream"));
  }
  if (code.taps.size() != static_cast<size_t>(code.steps * code.streams())) {
    return Invalid(absl::StrCat(who, " needs steps * streams taps"));
  }
  for (float tap : code.taps) {
    if (!std::isfinite(tap)) return Invalid(absl::StrCat(who, " has a tap that is not finite"));
  }
  for (uint64_t mask : code.masks) {
    if (mask == 0) return Invalid(absl::StrCat(who, " has an empty mask"));
    for (int bit = 0; bit < 64; ++bit) {
      if (!(mask >> bit & 1)) continue;
      if (bit % code.streams() >= code.stored || bit / code.streams() > kMaxMaskSteps) {
        return Invalid(absl::StrCat(who, " has a mask that names a derived stream or more than ",
                                    kMaxMaskSteps, " steps back"));
      }
    }
  }
  return absl::OkStatus();
}

int64_t OddFactor(int64_t n) { return n / (n & -n); }

absl::Status CheckTensor(const LiftedTensor& tensor, const std::vector<LiftCode>& codes) {
  const std::string who = absl::StrCat("tensor '", tensor.name, "'");
  if (tensor.rows < 1 || tensor.cols < 1 || tensor.rows > kMaxDimension ||
      tensor.cols > kMaxDimension) {
    return Invalid(absl::StrCat(who, " has a shape outside 1 to 2^30"));
  }
  if (tensor.rotation.enabled && OddFactor(tensor.cols) > kMaxOddFactor) {
    return Invalid(absl::StrCat(who, " cannot be rotated: the odd factor of its ", tensor.cols,
                                " columns is above ", kMaxOddFactor));
  }
  if (tensor.stages.empty() || tensor.stages.size() > kMaxStages) {
    return Invalid(absl::StrCat(who, " needs 1 to ", kMaxStages, " stages"));
  }
  for (const LiftStage& stage : tensor.stages) {
    if (stage.code < 0 || static_cast<size_t>(stage.code) >= codes.size()) {
      return Invalid(absl::StrCat(who, " names a code that the file does not have"));
    }
    if (!std::isfinite(stage.gain))
      return Invalid(absl::StrCat(who, " has a gain that is not finite"));
  }
  if (tensor.source && (tensor.source->rows != tensor.rows || tensor.source->cols != tensor.cols ||
                        tensor.cols % BlockElements(tensor.source->type) != 0)) {
    return Invalid(absl::StrCat(who, " has a source whose shape does not fit"));
  }
  return absl::OkStatus();
}

uint64_t TileRowBytes(const LiftedTensor& tensor, const LiftCode& code) {
  return static_cast<uint64_t>(tensor.padded_cols() / kTileColumns) *
         static_cast<uint64_t>(code.stored) * kTileBytes;
}

// Advances `total` by `bytes` after alignment and stores where they start; false on overflow.
bool Place(uint64_t bytes, uint64_t& total, uint64_t& offset) {
  offset = AlignUp(total, kAlignment);
  return !__builtin_add_overflow(offset, bytes, &total) && total < (uint64_t{1} << 62);
}

absl::Status PlaceNamed(Contents& contents, Layout& layout) {
  std::set<std::string_view> names;
  const absl::Status too_large = Invalid("the tensors are larger than any file can be");
  for (size_t i = 0; i < contents.vectors.size(); ++i) {
    if (!names.insert(contents.vectors[i].name).second) {
      return Invalid(absl::StrCat("vector '", contents.vectors[i].name, "' appears twice"));
    }
    const uint64_t count = contents.vector_counts[i];
    if (count > static_cast<uint64_t>(kMaxDimension) ||
        !Place(count * 4, layout.vectors_bytes, layout.vector_offsets.emplace_back())) {
      return too_large;
    }
  }
  size_t sources = 0;
  std::set<std::pair<uint64_t, int64_t>> rotations;
  for (LiftedTensor& tensor : contents.tensors) {
    if (!names.insert(tensor.name).second) {
      return Invalid(absl::StrCat("tensor '", tensor.name, "' appears twice"));
    }
    LIFT_RETURN_IF_ERROR(CheckTensor(tensor, contents.codes));
    if (!Place(static_cast<uint64_t>(tensor.rows) * 2, layout.scales_bytes,
               layout.scale_offsets.emplace_back())) {
      return too_large;
    }
    if (__builtin_add_overflow(
            layout.weights, static_cast<uint64_t>(tensor.rows) * static_cast<uint64_t>(tensor.cols),
            &layout.weights)) {
      return too_large;
    }
    uint64_t& source_offset = layout.source_offsets.emplace_back();
    if (tensor.source && !Place(tensor.source->bytes(), layout.source_bytes, source_offset)) {
      return too_large;
    }
    sources += tensor.source.has_value();
    if (tensor.rotation.enabled && rotations.insert({tensor.rotation.seed, tensor.cols}).second) {
      const int64_t odd = OddFactor(tensor.cols);
      layout.table_bytes += 4 * static_cast<uint64_t>(tensor.cols + odd * odd);
    }
  }
  layout.has_source = sources == contents.tensors.size();
  return absl::OkStatus();
}

// Every stage once, in a tensor's own order; offsets follow.
absl::Status PlacePlanes(Contents& contents, Layout& layout) {
  size_t stages = 0;
  for (const LiftedTensor& tensor : contents.tensors) stages += tensor.stages.size();
  if (contents.order.size() != stages) {
    return Invalid("the plane order does not name every stage exactly once");
  }
  std::vector<size_t> next(contents.tensors.size(), 0);
  for (const PlaneUnit& unit : contents.order) {
    if (unit.tensor < 0 || static_cast<size_t>(unit.tensor) >= contents.tensors.size()) {
      return Invalid("the plane order names a tensor that the file does not have");
    }
    LiftedTensor& tensor = contents.tensors[static_cast<size_t>(unit.tensor)];
    size_t& expected = next[static_cast<size_t>(unit.tensor)];
    if (unit.stage < 0 || static_cast<size_t>(unit.stage) != expected ||
        expected >= tensor.stages.size()) {
      return Invalid(
          absl::StrCat("the plane order has the stages of '", tensor.name, "' out of order"));
    }
    LiftStage& stage = tensor.stages[expected++];
    // The kernels sum that many int8 products in 32 bits.
    if (tensor.padded_cols() * contents.codes[static_cast<size_t>(stage.code)].streams() >
        kMaxRowSigns) {
      return Invalid(absl::StrCat("'", tensor.name, "' has more than ", kMaxRowSigns,
                                  " signs in a row of one stage"));
    }
    // At most 2^26 row tiles times 2^25 blocks times 8 streams times 64 bytes: fits in 60 bits.
    stage.bytes = static_cast<uint64_t>(tensor.padded_rows() / kTileRows) *
                  TileRowBytes(tensor, contents.codes[static_cast<size_t>(stage.code)]);
    if (!Place(stage.bytes, layout.planes_bytes, stage.offset)) {
      return Invalid("the planes are larger than any file can be");
    }
  }
  return absl::OkStatus();
}

}  // namespace

const char* SectionName(SectionKind kind) {
  static constexpr const char* kNames[] = {"?",      "META",   "TOKENIZER", "VECTORS",
                                           "SCALES", "PLANES", "SOURCE"};
  return kNames[static_cast<uint32_t>(kind) <= kSectionKinds ? static_cast<uint32_t>(kind) : 0];
}

uint64_t SectionAlignment(SectionKind kind) {
  return kind == SectionKind::kPlanes || kind == SectionKind::kSource ? kPageBytes : kAlignment;
}

absl::Status LayOut(Contents& contents, Layout& layout) {
  layout = Layout{};
  if (contents.codes.size() > kMaxCodes) return Invalid("the file has more than 256 codes");
  if (contents.tensors.empty()) return Invalid("the file has no tensors");
  if (contents.tensors.size() > kMaxTensors || contents.vectors.size() > kMaxTensors) {
    return Invalid("the file has more than 65536 tensors");
  }
  for (const LiftCode& code : contents.codes) {
    LIFT_RETURN_IF_ERROR(CheckCode(code));
    layout.table_bytes += code.taps.size() * 4 + code.masks.size() * 8;
  }
  LIFT_RETURN_IF_ERROR(PlaceNamed(contents, layout));
  return PlacePlanes(contents, layout);
}

std::vector<int64_t> RowsInPrefix(const LiftedTensor& tensor, uint64_t plane_bytes) {
  std::vector<int64_t> rows;
  for (const LiftStage& stage : tensor.stages) {
    const uint64_t inside =
        plane_bytes <= stage.offset ? 0 : std::min(stage.bytes, plane_bytes - stage.offset);
    const uint64_t tiles = static_cast<uint64_t>(tensor.padded_rows() / kTileRows);
    rows.push_back(
        std::min(tensor.rows, static_cast<int64_t>(inside / (stage.bytes / tiles)) * kTileRows));
  }
  return rows;
}

uint64_t CutPlanes(const Contents& contents, uint64_t plane_bytes) {
  uint64_t end = 0;
  for (const PlaneUnit& unit : contents.order) {
    const LiftedTensor& tensor = contents.tensors[static_cast<size_t>(unit.tensor)];
    const LiftStage& stage = tensor.stages[static_cast<size_t>(unit.stage)];
    end = stage.offset + stage.bytes;
    if (plane_bytes >= end) continue;
    const uint64_t tile_row = TileRowBytes(tensor, contents.codes[static_cast<size_t>(stage.code)]);
    return stage.offset + (plane_bytes - stage.offset) / tile_row * tile_row;
  }
  return end;
}

void FillVariants(Contents& contents, const Layout& layout) {
  for (LiftedVariant& variant : contents.variants) {
    if (variant.full) {
      variant.plane_bytes = 0;
      variant.lambda = 1;
      variant.bits_per_weight =
          8.0 * static_cast<double>(layout.source_bytes) / static_cast<double>(layout.weights);
      variant.bytes = layout.source_bytes + layout.vectors_bytes;
      continue;
    }
    variant.plane_bytes = CutPlanes(contents, variant.plane_bytes);
    variant.bits_per_weight =
        8.0 * static_cast<double>(variant.plane_bytes) / static_cast<double>(layout.weights);
    variant.lambda = std::clamp(std::log2(std::max(variant.bits_per_weight, 1.0)) / 4, 0.0, 1.0);
    variant.bytes = layout.fixed_bytes() + variant.plane_bytes;
  }
}

absl::Status AddCuts(Contents& contents, const Layout& layout, std::span<const uint64_t> budgets) {
  uint64_t base = 0;
  for (const LiftedTensor& tensor : contents.tensors) base += tensor.stages.front().bytes;
  std::vector<LiftedVariant>& variants = contents.variants;
  for (uint64_t budget : budgets) {
    const uint64_t least = layout.fixed_bytes() + base;
    if (budget < least) {
      return Invalid(absl::StrCat("a variant of ", static_cast<double>(budget) / 1e6,
                                  " MB is not to be had: its first stages alone need ",
                                  std::ceil(static_cast<double>(least) / 1e4) / 100, " MB"));
    }
    LiftedVariant cut;
    cut.name = absl::StrCat("b", static_cast<double>(budget) / 1e6);
    cut.budget_bytes = budget;
    cut.plane_bytes = CutPlanes(contents, budget - layout.fixed_bytes());
    cut.wide_stages = WideStages(8.0 * static_cast<double>(cut.plane_bytes) /
                                 static_cast<double>(layout.weights));
    const auto at = std::find_if(variants.begin(), variants.end(), [&](const LiftedVariant& v) {
      return v.full || v.plane_bytes >= cut.plane_bytes;
    });
    if (at != variants.end() && !at->full && at->plane_bytes == cut.plane_bytes) {
      return Invalid(absl::StrCat("a variant of ", static_cast<double>(budget) / 1e6,
                                  " MB would hold the same planes as '", at->name,
                                  "'; leave it out"));
    }
    variants.insert(at, std::move(cut));
  }
  FillVariants(contents, layout);
  return CheckVariants(contents, layout);
}

absl::Status CheckVariants(const Contents& contents, const Layout& layout) {
  const std::vector<LiftedVariant>& variants = contents.variants;
  if (variants.empty() || variants.size() > 255) return Invalid("a file needs 1 to 255 variants");
  std::set<std::string_view> names;
  Contents expected;
  expected.order = contents.order, expected.tensors = contents.tensors,
  expected.codes = contents.codes;
  expected.variants = variants;
  FillVariants(expected, layout);
  for (size_t i = 0; i < variants.size(); ++i) {
    const LiftedVariant& variant = variants[i];
    const std::string who = absl::StrCat("variant '", variant.name, "'");
    if (variant.name.empty() || !names.insert(variant.name).second) {
      return Invalid(absl::StrCat(who, " needs a name of its own"));
    }
    if (variant.full && (i + 1 != variants.size() || !layout.has_source)) {
      return Invalid(
          absl::StrCat(who, " must be the last one and needs every source tensor stored"));
    }
    if (i > 0 && !variant.full && variant.plane_bytes <= variants[i - 1].plane_bytes) {
      return Invalid(absl::StrCat(who, " does not read more planes than the one before it"));
    }
    if (variant.wide_stages < 0 || variant.wide_stages > kMaxStages || !std::isfinite(variant.kl) ||
        !std::isfinite(variant.perplexity)) {
      return Invalid(absl::StrCat(who, " has wide stages or measurements out of range"));
    }
    const LiftedVariant& derived = expected.variants[i];
    if (variant.plane_bytes != derived.plane_bytes || variant.bytes != derived.bytes ||
        !(std::abs(variant.bits_per_weight - derived.bits_per_weight) < 1e-9) ||
        !(std::abs(variant.lambda - derived.lambda) < 1e-9)) {
      return Invalid(absl::StrCat(who, " states sizes that do not follow from its planes"));
    }
  }
  return absl::OkStatus();
}

}  // namespace lift::format
