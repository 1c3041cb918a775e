// The status page: one HTML document with everything in it, which reads /metrics once a second.
#pragma once

#include <string_view>

namespace lift {

// The bytes of status_page.html.
std::string_view StatusPage();

}  // namespace lift
