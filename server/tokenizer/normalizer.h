// Unicode normalization forms.
#pragma once

#include <string>
#include <string_view>

#include "kernels/base/status.h"

namespace lift {

enum class NormalForm { kNone, kNfc, kNfd, kNfkc, kNfkd };

// "" | "nfc" | "nfd" | "nfkc" | "nfkd"; UNIMPLEMENTED names anything else.
absl::StatusOr<NormalForm> NormalFormFromName(std::string_view name);

// `text` must be valid UTF-8. Linear in its length up to sorting, also for long runs of combining
// marks.
std::string Normalize(std::string_view text, NormalForm form);

}  // namespace lift
