// CHECK for programmer errors: alive in every build. Wrong input never reaches a CHECK; it becomes
// an absl::Status.
#pragma once

#include <cstdio>
#include <cstdlib>

#define LIFT_CHECK(condition)                                                            \
  do {                                                                                   \
    if (!(condition)) [[unlikely]] {                                                     \
      std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (0)
