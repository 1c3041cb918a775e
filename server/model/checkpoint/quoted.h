// Names out of untrusted files, made fit for a message.
#pragma once

#include <string>
#include <string_view>

namespace lift {

// In double quotes, with control characters and invalid UTF-8 escaped, cut after 80 bytes.
std::string Quoted(std::string_view text);

}  // namespace lift
