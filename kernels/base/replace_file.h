// Small files that are replaced whole.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

namespace lift {

// Writes `text` to a new file beside `path`, with `mode` (less the umask), and renames it: a reader
// sees the old file or the new one, also after a crash. False if it cannot; the old one stays then.
[[nodiscard]] bool ReplaceFile(const std::string& path, std::string_view text, mode_t mode);

}  // namespace lift
