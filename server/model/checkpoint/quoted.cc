#include "server/model/checkpoint/quoted.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace lift {

std::string Quoted(std::string_view text) {
  constexpr size_t kLongest = 80;
  const bool cut = text.size() > kLongest;
  if (cut) text = text.substr(0, kLongest);
  return absl::StrCat("\"", absl::CHexEscape(absl::string_view(text.data(), text.size())),
                      cut ? "..." : "", "\"");
}

}  // namespace lift
