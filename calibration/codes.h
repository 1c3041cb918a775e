// The lifting codes this product ships: tables found by search (calibration/README.md), looked up
// by name.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/status.h"
#include "kernels/format/lifted_file.h"

namespace lift {

// Names: "<stored>" is a plain code, "<stored>+<derived>p" has derived parity streams. NOT_FOUND
// names what exists.
absl::StatusOr<LiftCode> FindCode(std::string_view name);
std::vector<std::string> CodeNames();

// The default code for a stage of `bits` stored bits (1 to 4).
LiftCode DefaultCode(int bits);

// The signs of column t of a circular row, stored and derived, a bit each in stream order. bits
// [n]: stored bits of a column in the low `stored` bits. t in (-n, n).
uint32_t ColumnSigns(const LiftCode& code, const uint8_t* bits, int64_t n, int64_t t);

// Unit-variance reconstruction of one circular row: bits [n] (stored bits of a column in the low
// `stored` bits) -> out [n].
void ReconstructRow(const LiftCode& code, const uint8_t* bits, int64_t n, float* out);

}  // namespace lift
