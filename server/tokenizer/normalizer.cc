#include "server/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "server/tokenizer/utf8.h"

namespace lift {
namespace {

utf8proc_propval_t CombiningClass(utf8proc_int32_t c) {
  return utf8proc_get_property(c)->combining_class;
}

// Full decomposition of each character, then canonical order within each run of combining marks.
// utf8proc's own ordering is quadratic on such runs, hence the stable sort here.
std::vector<utf8proc_int32_t> Decompose(std::string_view text, bool compatibility) {
  const int options = UTF8PROC_DECOMPOSE | (compatibility ? UTF8PROC_COMPAT : 0);
  std::vector<utf8proc_int32_t> out;
  out.reserve(text.size());
  utf8proc_int32_t buffer[64];
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = ReadUtf8(text.substr(at));
    at += step.length;
    int boundary = 0;
    const utf8proc_ssize_t n =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(step.code_point), buffer, 64,
                                static_cast<utf8proc_option_t>(options), &boundary);
    LIFT_CHECK(n >= 0 && n <= 64);  // the longest decomposition in Unicode has 18 characters
    out.insert(out.end(), buffer, buffer + n);
  }
  for (size_t i = 0; i < out.size(); ++i) {
    if (CombiningClass(out[i]) == 0) continue;
    size_t end = i;
    while (end < out.size() && CombiningClass(out[end]) != 0) ++end;
    std::stable_sort(out.begin() + i, out.begin() + end,
                     [](auto a, auto b) { return CombiningClass(a) < CombiningClass(b); });
    i = end;
  }
  return out;
}

}  // namespace

absl::StatusOr<NormalForm> NormalFormFromName(std::string_view name) {
  if (name.empty()) return NormalForm::kNone;
  if (name == "nfc") return NormalForm::kNfc;
  if (name == "nfd") return NormalForm::kNfd;
  if (name == "nfkc") return NormalForm::kNfkc;
  if (name == "nfkd") return NormalForm::kNfkd;
  return absl::UnimplementedError(
      absl::StrCat("Tokenizer normalizer \"", std::string(name),
                   "\" is not supported; supported are NFC, NFD, NFKC and NFKD"));
}

std::string Normalize(std::string_view text, NormalForm form) {
  const bool ascii =
      std::all_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) < 0x80; });
  if (form == NormalForm::kNone || ascii) return std::string(text);
  std::vector<utf8proc_int32_t> chars =
      Decompose(text, form == NormalForm::kNfkc || form == NormalForm::kNfkd);
  if (form == NormalForm::kNfc || form == NormalForm::kNfkc) {
    const auto options = static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    const utf8proc_ssize_t n = utf8proc_normalize_utf32(
        chars.data(), static_cast<utf8proc_ssize_t>(chars.size()), options);
    LIFT_CHECK(n >= 0 && static_cast<size_t>(n) <= chars.size());
    chars.resize(static_cast<size_t>(n));
  }
  std::string out;
  out.reserve(text.size());
  for (const utf8proc_int32_t c : chars) AppendUtf8(static_cast<char32_t>(c), out);
  return out;
}

}  // namespace lift
