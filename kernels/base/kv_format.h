// How keys and values are kept in the attention state.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace lift {

// kF32 keeps them as computed. kF16 and kBF16 round them. kInt8 rotates each head's key or value
// and keeps bytes and one f32 scale.
enum class KvFormat { kF32, kF16, kBF16, kInt8 };

// What the programs use unless --kv-cache says otherwise.
inline constexpr KvFormat kDefaultKvFormat = KvFormat::kF16;

// "f32", "f16", "bf16", "int8": the values of --kv-cache.
std::string_view KvFormatName(KvFormat format);
std::optional<KvFormat> ParseKvFormat(std::string_view name);
// Their names, for messages: "f32, f16, bf16 or int8".
inline constexpr char kKvFormatChoices[] = "f32, f16, bf16 or int8";

// Bytes of one head's key (or value) of one position, scale included.
constexpr int64_t KvHeadBytes(KvFormat format, int64_t head_dim) {
  switch (format) {
    case KvFormat::kF32:
      return 4 * head_dim;
    case KvFormat::kF16:
    case KvFormat::kBF16:
      return 2 * head_dim;
    case KvFormat::kInt8:
      break;
  }
  return head_dim + 4;
}

}  // namespace lift
