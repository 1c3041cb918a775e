// UTF-8 as Unicode wants it: strict validation, and U+FFFD for each maximal invalid subpart (as
// Python's errors="replace" and Rust's from_utf8_lossy do).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace lift {

// Outcome of reading one sequence at the start of a non-empty text.
struct Utf8Step {
  enum Kind { kValid, kInvalid, kIncomplete } kind;
  size_t
      length;  // bytes consumed; for kInvalid the maximal subpart, for kIncomplete all that is left
  char32_t code_point;  // kValid only
};
Utf8Step ReadUtf8(std::string_view text);

// Byte offset of the first invalid or incomplete sequence, npos if `text` is valid.
size_t FindInvalidUtf8(std::string_view text);

void AppendUtf8(char32_t code_point, std::string& out);

// Appends `bytes` to `out`, invalid subparts as U+FFFD. An incomplete sequence at the end is left
// alone unless `final`; returns how many bytes were consumed.
size_t AppendLossyUtf8(std::string_view bytes, bool final, std::string& out);

// The byte-level alphabet of GPT-2: every byte has a printable code point below 512 that stands for
// it in a vocabulary.
char32_t ByteToAlphabet(uint8_t byte);
int AlphabetToByte(char32_t code_point);  // -1 if no byte maps to it

std::string ToByteAlphabet(std::string_view bytes);
// Bytes of a vocabulary entry; an entry with a character outside the alphabet stands for its own
// UTF-8.
std::string FromByteAlphabet(std::string_view token);

}  // namespace lift
