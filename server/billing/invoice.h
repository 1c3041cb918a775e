// From byte-seconds to money: lines that add up.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "kernels/base/status.h"
#include "server/billing/ledger_sum.h"

namespace lift {

// A price by precision: variants with lambda up to `max_lambda` cost the base price times `factor`.
struct PriceTier {
  std::string name;
  double max_lambda = 1;
  int64_t factor_millionths = 1000000;
};

// "economy=0.5:0.8,premium=1:1.25" (NAME=MAX_LAMBDA:FACTOR, ascending, the last up to 1). Empty:
// one tier, "standard". INVALID_ARGUMENT names the part that is wrong.
absl::StatusOr<std::vector<PriceTier>> ParsePriceTiers(absl::string_view text);

// A decimal amount of money below a million with at most 9 decimals, in billionths.
// INVALID_ARGUMENT.
absl::StatusOr<int64_t> ParsePrice(absl::string_view text);
// Billionths as "1.25"; at least two decimals.
std::string PriceText(int64_t billionths);

struct InvoiceLine {
  int64_t period = 0;
  std::string tenant, variant, tier, kind;  // kind: "weights" or "state"
  double lambda = 0;
  ByteMicros byte_us = 0;
  int64_t unit_price = 0;  // billionths per GiB-hour
  int64_t amount = 0;      // billionths, rounded half up from the exact product
};

struct Invoice {
  std::vector<InvoiceLine> lines;
  ByteMicros byte_us = 0;  // sum of the lines', exactly
  int64_t amount = 0;      // sum of the lines', exactly
};

// Two lines for each sum, without those that are zero. `tiers` and the price are what the two
// functions above return. Pure. OUT_OF_RANGE if a sum of money leaves 64 bits (9.2 * 10^9).
absl::StatusOr<Invoice> MakeInvoice(std::span<const LedgerSum> sums,
                                    std::span<const PriceTier> tiers, int64_t price_billionths);

inline double GibHours(ByteMicros byte_us) {
  return static_cast<double>(byte_us) / 1e6 / 1073741824.0 / 3600;
}

}  // namespace lift
