// Writes small GGUF files in memory, right or deliberately wrong.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "server/model/checkpoint/gguf.h"

namespace lift {

class GgufBuilder {
 public:
  // Raw pieces, for values that the typed calls cannot make.
  template <typename T>
  static void Append(std::string& out, T value) {
    static_assert(std::is_trivially_copyable_v<T>);
    out.append(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  static void AppendString(std::string& out, std::string_view text) {
    Append<uint64_t>(out, text.size());
    out.append(text);
  }

  GgufBuilder& Raw(std::string_view key, uint32_t type, std::string_view payload) {
    AppendString(values_, key);
    Append(values_, type);
    values_.append(payload);
    ++value_count;
    return *this;
  }
  template <typename T>
  GgufBuilder& Value(std::string_view key, GgufType type, T value) {
    std::string payload;
    Append(payload, value);
    return Raw(key, static_cast<uint32_t>(type), payload);
  }
  GgufBuilder& U32(std::string_view key, uint32_t value) {
    return Value(key, GgufType::kUint32, value);
  }
  GgufBuilder& F32(std::string_view key, float value) {
    return Value(key, GgufType::kFloat32, value);
  }
  GgufBuilder& Text(std::string_view key, std::string_view value) {
    std::string payload;
    AppendString(payload, value);
    return Raw(key, static_cast<uint32_t>(GgufType::kString), payload);
  }
  // An array with any claimed count over the given element bytes.
  GgufBuilder& Array(std::string_view key, GgufType element, uint64_t count,
                     std::string_view elements) {
    std::string payload;
    Append(payload, static_cast<uint32_t>(element));
    Append(payload, count);
    payload.append(elements);
    return Raw(key, static_cast<uint32_t>(GgufType::kArray), payload);
  }
  GgufBuilder& Strings(std::string_view key, const std::vector<std::string>& texts) {
    std::string elements;
    for (const std::string& text : texts) AppendString(elements, text);
    return Array(key, GgufType::kString, texts.size(), elements);
  }

  // type: the number in the file; 0 is F32. Only describes; the data come from Build's `data`.
  GgufBuilder& Tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                      uint64_t offset) {
    AppendString(tensors_, name);
    Append<uint32_t>(tensors_, static_cast<uint32_t>(dims.size()));
    for (const uint64_t dim : dims) Append(tensors_, dim);
    Append(tensors_, type);
    Append(tensors_, offset);
    ++tensor_count;
    return *this;
  }

  std::string Build(std::string_view data = {}) const {
    std::string out;
    Append(out, magic);
    Append(out, version);
    Append(out, tensor_count);
    Append(out, value_count);
    out += values_ + tensors_;
    if (tensor_count > 0) out.resize((out.size() + 31) / 32 * 32);
    return out.append(data);
  }

  uint32_t magic = 0x46554747, version = 3;
  uint64_t tensor_count = 0, value_count = 0;  // may be overwritten with lies

 private:
  std::string values_, tensors_;
};

inline std::span<const std::byte> AsBytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace lift
