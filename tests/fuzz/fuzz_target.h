// What every fuzz target shares.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

// The entry point that libFuzzer calls, and fuzz_driver.cc in its place where there is no
// libFuzzer.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace lift {

inline std::span<const std::byte> InputBytes(const uint8_t* data, size_t size) {
  return std::as_bytes(std::span(data, size));
}
inline std::string InputText(const uint8_t* data, size_t size) {
  return size == 0 ? std::string() : std::string(reinterpret_cast<const char*>(data), size);
}

// Reads every byte, so that a span past the end of its buffer is noticed.
inline unsigned Touch(std::span<const std::byte> bytes) {
  volatile unsigned sum = 0;
  for (const std::byte b : bytes) sum = sum + static_cast<unsigned>(b);
  return sum;
}

}  // namespace lift
