#include "kernels/base/dtype.h"

#include <array>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"

namespace lift {
namespace {

struct Traits {
  std::string_view name;
  int elements;  // per block
  size_t bytes;  // per block
};

// Indexed by DType.
constexpr std::array<Traits, 13> kTraits = {{
    {"F32", 1, 4},
    {"F16", 1, 2},
    {"BF16", 1, 2},
    {"Q4_0", 32, 18},
    {"Q4_1", 32, 20},
    {"Q5_0", 32, 22},
    {"Q5_1", 32, 24},
    {"Q8_0", 32, 34},
    {"Q2_K", 256, 84},
    {"Q3_K", 256, 110},
    {"Q4_K", 256, 144},
    {"Q5_K", 256, 176},
    {"Q6_K", 256, 210},
}};

const Traits& TraitsOf(DType type) {
  const size_t index = static_cast<size_t>(type);
  LIFT_CHECK(index < kTraits.size());
  return kTraits[index];
}

}  // namespace

std::string_view DTypeName(DType type) { return TraitsOf(type).name; }

absl::StatusOr<DType> DTypeFromName(std::string_view name) {
  std::string known;
  for (size_t i = 0; i < kTraits.size(); ++i) {
    if (kTraits[i].name == name) return static_cast<DType>(i);
    if (i > 0) known += ", ";
    known += kTraits[i].name;
  }
  return absl::InvalidArgumentError(absl::StrCat("element type \"", std::string(name),
                                                 "\" is not supported; supported are ", known));
}

int BlockElements(DType type) { return TraitsOf(type).elements; }

size_t BlockBytes(DType type) { return TraitsOf(type).bytes; }

size_t RowBytes(DType type, int64_t elements) {
  const Traits& traits = TraitsOf(type);
  LIFT_CHECK(elements >= 0 && elements % traits.elements == 0);
  return static_cast<size_t>(elements / traits.elements) * traits.bytes;
}

}  // namespace lift
