#include "kernels/base/kv_format.h"

namespace lift {
namespace {

constexpr KvFormat kFormats[] = {KvFormat::kF32, KvFormat::kF16, KvFormat::kBF16, KvFormat::kInt8};

}  // namespace

std::string_view KvFormatName(KvFormat format) {
  constexpr std::string_view kNames[] = {"f32", "f16", "bf16", "int8"};
  return kNames[static_cast<size_t>(format)];
}

std::optional<KvFormat> ParseKvFormat(std::string_view name) {
  for (const KvFormat format : kFormats) {
    if (name == KvFormatName(format)) return format;
  }
  return std::nullopt;
}

}  // namespace lift
