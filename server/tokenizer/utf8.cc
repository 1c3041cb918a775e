#include "server/tokenizer/utf8.h"

#include <array>

namespace lift {
namespace {

// Number of continuation bytes and the allowed range of the first of them (Unicode table 3-7); -1 =
// not a lead byte.
struct Lead {
  int more;
  uint8_t low, high;
};

Lead LeadOf(uint8_t b) {
  if (b < 0x80) return {0, 0, 0};
  if (b < 0xC2) return {-1, 0, 0};
  if (b < 0xE0) return {1, 0x80, 0xBF};
  if (b == 0xE0) return {2, 0xA0, 0xBF};
  if (b == 0xED) return {2, 0x80, 0x9F};
  if (b < 0xF0) return {2, 0x80, 0xBF};
  if (b == 0xF0) return {3, 0x90, 0xBF};
  if (b < 0xF4) return {3, 0x80, 0xBF};
  if (b == 0xF4) return {3, 0x80, 0x8F};
  return {-1, 0, 0};
}

struct Alphabet {
  std::array<char32_t, 256> to_char;
  std::array<int16_t, 512> to_byte;
  Alphabet() {
    to_byte.fill(-1);
    char32_t next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      to_char[b] = printable ? static_cast<char32_t>(b) : next++;
      to_byte[to_char[b]] = static_cast<int16_t>(b);
    }
  }
};

const Alphabet& TheAlphabet() {
  static const Alphabet alphabet;
  return alphabet;
}

}  // namespace

Utf8Step ReadUtf8(std::string_view text) {
  const uint8_t first = static_cast<uint8_t>(text[0]);
  const Lead lead = LeadOf(first);
  if (lead.more < 0) return {Utf8Step::kInvalid, 1, 0};
  if (lead.more == 0) return {Utf8Step::kValid, 1, first};
  char32_t code_point = first & (0x3F >> lead.more);
  for (int i = 1; i <= lead.more; ++i) {
    if (static_cast<size_t>(i) == text.size()) return {Utf8Step::kIncomplete, text.size(), 0};
    const uint8_t b = static_cast<uint8_t>(text[i]);
    const uint8_t low = i == 1 ? lead.low : 0x80, high = i == 1 ? lead.high : 0xBF;
    if (b < low || b > high) return {Utf8Step::kInvalid, static_cast<size_t>(i), 0};
    code_point = (code_point << 6) | (b & 0x3F);
  }
  return {Utf8Step::kValid, static_cast<size_t>(lead.more) + 1, code_point};
}

size_t FindInvalidUtf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const Utf8Step step = ReadUtf8(text.substr(at));
    if (step.kind != Utf8Step::kValid) return at;
    at += step.length;
  }
  return std::string_view::npos;
}

void AppendUtf8(char32_t c, std::string& out) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | (c >> 6));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | (c >> 12));
    out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (c >> 18));
    out += static_cast<char>(0x80 | ((c >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

size_t AppendLossyUtf8(std::string_view bytes, bool final, std::string& out) {
  size_t at = 0;
  while (at < bytes.size()) {
    const Utf8Step step = ReadUtf8(bytes.substr(at));
    if (step.kind == Utf8Step::kIncomplete && !final) return at;
    if (step.kind == Utf8Step::kValid) {
      out.append(bytes, at, step.length);
    } else {
      out += "\xEF\xBF\xBD";
    }
    at += step.length;
  }
  return at;
}

char32_t ByteToAlphabet(uint8_t byte) { return TheAlphabet().to_char[byte]; }

int AlphabetToByte(char32_t code_point) {
  return code_point < 512 ? TheAlphabet().to_byte[code_point] : -1;
}

std::string ToByteAlphabet(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const char b : bytes) AppendUtf8(ByteToAlphabet(static_cast<uint8_t>(b)), out);
  return out;
}

std::string FromByteAlphabet(std::string_view token) {
  std::string out;
  for (size_t at = 0; at < token.size();) {
    const Utf8Step step = ReadUtf8(token.substr(at));
    const int byte = step.kind == Utf8Step::kValid ? AlphabetToByte(step.code_point) : -1;
    if (byte < 0) return std::string(token);
    out += static_cast<char>(byte);
    at += step.length;
  }
  return out;
}

}  // namespace lift
