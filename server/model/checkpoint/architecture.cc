#include "server/model/checkpoint/architecture.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/model/checkpoint/families/families.h"
#include "server/model/checkpoint/quoted.h"

namespace lift {
namespace {

// Matches `text` against `pattern`; numbers[] get what each "#" stood for.
bool Match(std::string_view pattern, std::string_view text, std::vector<std::string>& numbers) {
  numbers.clear();
  size_t t = 0;
  for (const char c : pattern) {
    if (c != '#') {
      if (t == text.size() || text[t++] != c) return false;
      continue;
    }
    const size_t begin = t;
    while (t < text.size() && std::isdigit(static_cast<unsigned char>(text[t]))) ++t;
    if (t == begin) return false;
    numbers.emplace_back(text.substr(begin, t - begin));
  }
  return t == text.size();
}

std::string Fill(std::string_view pattern, const std::vector<std::string>& numbers) {
  std::string out;
  size_t next = 0;
  for (const char c : pattern) {
    if (c == '#' && next < numbers.size()) {
      out += numbers[next++];
    } else {
      out += c;
    }
  }
  return out;
}

// By the first rule whose side `from` fits all but the last component.
std::string Rename(std::span<const NameRule> rules, std::string_view name,
                   std::string_view NameRule::*from, std::string_view NameRule::*to) {
  const size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return std::string(name);
  std::vector<std::string> numbers;
  for (const NameRule& rule : rules) {
    if (Match(rule.*from, name.substr(0, dot), numbers))
      return Fill(rule.*to, numbers) + std::string(name.substr(dot));
  }
  return std::string(name);
}

absl::Status DoesNotSplit(const std::string& name, const StoredTensor& tensor,
                          const std::string& wanted) {
  return absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(name), " has shape [",
                                                 absl::StrJoin(tensor.shape, ", "),
                                                 "], which does not split into ", wanted));
}

// Takes `name` out; an absent or unreadable one is left for BindTensors to name.
std::optional<StoredTensor> Take(StoredTensors& tensors, const std::string& name) {
  const auto at = tensors.by_name.find(name);
  if (at == tensors.by_name.end() || !at->second.type || at->second.shape.empty())
    return std::nullopt;
  StoredTensor taken = at->second;
  tensors.by_name.erase(at);
  return taken;
}

StoredTensor Part(const StoredTensor& whole, std::vector<int64_t> shape,
                  std::span<const std::byte> bytes) {
  StoredTensor part = whole;
  part.shape = std::move(shape);
  part.bytes = bytes;
  return part;
}

}  // namespace

// An architecture is added here and nowhere else outside its own file.
std::span<const Architecture> Architectures() {
  static const std::array kAll = {families::Llama(), families::Mistral(), families::Mixtral(),
                                  families::Qwen2(), families::Qwen3(),   families::GptNeoX(),
                                  families::Mamba(), families::Mamba2(),  families::Starcoder2(),
                                  families::Gemma3()};
  return kAll;
}

const Architecture* FindHuggingFace(std::string_view model_type) {
  for (const Architecture& a : Architectures()) {
    if (a.name == model_type) return &a;
  }
  return nullptr;
}

const Architecture* FindGguf(std::string_view name, bool experts) {
  if (name.empty()) return nullptr;
  for (const Architecture& a : Architectures()) {
    if (a.gguf == name && (a.name == "mixtral") == experts) return &a;
  }
  return nullptr;
}

std::string SupportedNames(bool gguf) {
  std::vector<std::string> names;
  for (const Architecture& a : Architectures()) {
    const std::string name(gguf ? a.gguf : a.name);
    if (!name.empty() && std::find(names.begin(), names.end(), name) == names.end())
      names.push_back(name);
  }
  const std::string last = names.back();
  names.pop_back();
  return absl::StrCat(absl::StrJoin(names, ", "), " and ", last);
}

std::string CanonicalName(std::span<const NameRule> rules, std::string_view name) {
  return Rename(rules, name, &NameRule::stored, &NameRule::canonical);
}

std::string StoredName(std::span<const NameRule> rules, std::string_view canonical) {
  return Rename(rules, canonical, &NameRule::canonical, &NameRule::stored);
}

absl::Status SplitRows(StoredTensors& tensors, const std::string& name,
                       const std::vector<RowPart>& parts) {
  const std::optional<StoredTensor> whole = Take(tensors, name);
  if (!whole) return absl::OkStatus();
  int64_t rows = 0;
  for (const RowPart& part : parts) rows += part.rows;
  if (whole->shape[0] != rows || rows <= 0)
    return DoesNotSplit(name, *whole, absl::StrCat(rows, " rows"));
  const size_t row_bytes = whole->bytes.size() / static_cast<size_t>(rows);
  size_t at = 0;
  for (const RowPart& part : parts) {
    std::vector<int64_t> shape = whole->shape;
    shape[0] = part.rows;
    const size_t bytes = row_bytes * static_cast<size_t>(part.rows);
    tensors.by_name[part.name] = Part(*whole, std::move(shape), whole->bytes.subspan(at, bytes));
    at += bytes;
  }
  return absl::OkStatus();
}

absl::Status SplitHeads(StoredTensors& tensors, const std::string& name,
                        const std::vector<std::string>& parts, int64_t heads) {
  const std::optional<StoredTensor> whole = Take(tensors, name);
  if (!whole) return absl::OkStatus();
  const auto count = static_cast<int64_t>(parts.size());
  const int64_t rows = whole->shape[0];
  if (heads <= 0 || rows <= 0 || rows % (heads * count) != 0)
    return DoesNotSplit(name, *whole, absl::StrCat(heads, " heads of ", count, " parts"));
  const size_t row_bytes = whole->bytes.size() / static_cast<size_t>(rows);
  const size_t head_bytes = row_bytes * static_cast<size_t>(rows / (heads * count));
  for (int64_t p = 0; p < count; ++p) {
    std::vector<std::byte>& copy = tensors.copies.emplace_back();
    copy.resize(head_bytes * static_cast<size_t>(heads));
    for (int64_t h = 0; h < heads; ++h) {
      std::memcpy(copy.data() + head_bytes * static_cast<size_t>(h),
                  whole->bytes.data() + head_bytes * static_cast<size_t>(h * count + p),
                  head_bytes);
    }
    std::vector<int64_t> shape = whole->shape;
    shape[0] = rows / count;
    tensors.by_name[parts[static_cast<size_t>(p)]] = Part(*whole, std::move(shape), copy);
  }
  return absl::OkStatus();
}

absl::Status SplitExperts(StoredTensors& tensors, const std::string& name, int64_t experts,
                          const std::string& prefix, const std::string& suffix) {
  const std::optional<StoredTensor> whole = Take(tensors, name);
  if (!whole) return absl::OkStatus();
  if (whole->shape.size() != 3 || whole->shape[0] != experts || experts <= 0)
    return DoesNotSplit(name, *whole, absl::StrCat(experts, " experts"));
  const size_t bytes = whole->bytes.size() / static_cast<size_t>(experts);
  for (int64_t e = 0; e < experts; ++e) {
    tensors.by_name[absl::StrCat(prefix, e, suffix)] =
        Part(*whole, {whole->shape[1], whole->shape[2]},
             whole->bytes.subspan(bytes * static_cast<size_t>(e), bytes));
  }
  return absl::OkStatus();
}

bool IsGain(std::string_view name) { return name.ends_with("norm.weight"); }

void AddToGains(StoredTensors& tensors, float offset) {
  for (auto& [name, tensor] : tensors.by_name) {
    if (!IsGain(name) || !tensor.type || tensor.shape.size() != 1) continue;
    std::vector<float> values(static_cast<size_t>(tensor.shape[0]));
    Dequantize(*tensor.type, tensor.bytes.data(), values);
    for (float& value : values) value += offset;
    std::vector<std::byte>& copy = tensors.copies.emplace_back();
    const auto bytes = std::as_bytes(std::span(values));
    copy.assign(bytes.begin(), bytes.end());
    tensor.bytes = copy;
    tensor.type = DType::kF32;
  }
}

}  // namespace lift
