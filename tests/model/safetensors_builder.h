// Writes small safetensors files in memory, right or deliberately wrong.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

namespace lift {

// `claimed` overrides the header length that the file states.
inline std::string Safetensors(std::string_view header, std::string_view data,
                               uint64_t claimed = 0) {
  const uint64_t length = claimed == 0 ? header.size() : claimed;
  std::string file(sizeof(length), '\0');
  std::memcpy(file.data(), &length, sizeof(length));
  return file.append(header).append(data);
}

inline std::span<const std::byte> ByteSpan(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace lift
