#include "server/billing/invoice.h"

#include <algorithm>
#include <cctype>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace lift {
namespace {

constexpr int64_t kBillion = 1000000000;
constexpr ByteMicros kGibHour = ByteMicros{1} << 30;  // bytes; times the two below
constexpr ByteMicros kMicrosAnHour = ByteMicros{3600} * 1000000;

absl::Status BadTiers(absl::string_view part) {
  return absl::InvalidArgumentError(
      absl::StrCat("price tiers: '", part,
                   "' is not NAME=MAX_LAMBDA:FACTOR with rising lambdas up to 1, e.g. "
                   "economy=0.5:0.8,premium=1:1.25"));
}

// round(byte_us * price / (GiB-hour)) without leaving 128 bits: whole GiB-hours apart from the
// rest.
ByteMicros Amount(ByteMicros byte_us, int64_t price) {
  const ByteMicros unit = kGibHour * kMicrosAnHour;  // < 2^62
  const auto p = static_cast<ByteMicros>(price);
  const ByteMicros whole = byte_us / unit, rest = byte_us % unit;
  return whole * p + (rest * p + unit / 2) / unit;
}

}  // namespace

absl::StatusOr<int64_t> ParsePrice(absl::string_view text) {
  const size_t dot = text.find('.');
  const absl::string_view whole = text.substr(0, dot);
  const absl::string_view part = dot == absl::string_view::npos ? "" : text.substr(dot + 1);
  const auto digits = [](absl::string_view s) {
    return std::all_of(s.begin(), s.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
  };
  if (whole.empty() || whole.size() > 6 || part.size() > 9 || !digits(whole) || !digits(part) ||
      (dot != absl::string_view::npos && part.empty())) {
    return absl::InvalidArgumentError(absl::StrCat(
        "price '", text,
        "' is not a decimal number with at most 6 digits before and 9 after the point"));
  }
  const std::string padded = absl::StrCat(whole, part, std::string(9 - part.size(), '0'));
  int64_t value = 0;
  if (!absl::SimpleAtoi(padded, &value)) return absl::InvalidArgumentError("price out of range");
  return value;
}

std::string PriceText(int64_t billionths) {
  std::string text = absl::StrFormat("%d.%09d", billionths / kBillion, billionths % kBillion);
  while (text.ends_with('0') && text[text.size() - 3] != '.') text.pop_back();
  return text;
}

absl::StatusOr<std::vector<PriceTier>> ParsePriceTiers(absl::string_view text) {
  if (text.empty()) return std::vector<PriceTier>{{"standard", 1, 1000000}};
  std::vector<PriceTier> tiers;
  double last = -1;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    const size_t equals = part.find('='), colon = part.find(':');
    if (equals == absl::string_view::npos || colon == absl::string_view::npos || equals == 0 ||
        colon < equals) {
      return BadTiers(part);
    }
    PriceTier tier{.name = std::string(part.substr(0, equals))};
    const bool name_ok = std::all_of(tier.name.begin(), tier.name.end(), [](unsigned char c) {
      return std::isalnum(c) != 0 || c == '_' || c == '-';
    });
    const auto factor = ParsePrice(part.substr(colon + 1));
    if (!name_ok ||
        !absl::SimpleAtod(part.substr(equals + 1, colon - equals - 1), &tier.max_lambda) ||
        !(tier.max_lambda >= 0 && tier.max_lambda > last && tier.max_lambda <= 1) || !factor.ok() ||
        *factor > 1000 * kBillion) {
      return BadTiers(part);
    }
    tier.factor_millionths = *factor / 1000;
    last = tier.max_lambda;
    tiers.push_back(std::move(tier));
  }
  if (last != 1) return BadTiers(text);
  return tiers;
}

absl::StatusOr<Invoice> MakeInvoice(std::span<const LedgerSum> sums,
                                    std::span<const PriceTier> tiers, int64_t price_billionths) {
  Invoice invoice;
  ByteMicros total = 0;  // billionths
  for (const LedgerSum& sum : sums) {
    const auto tier = std::find_if(tiers.begin(), tiers.end() - 1,
                                   [&](const PriceTier& t) { return sum.lambda <= t.max_lambda; });
    const auto unit_price =
        static_cast<int64_t>((static_cast<ByteMicros>(price_billionths) *
                                  static_cast<ByteMicros>(tier->factor_millionths) +
                              500000) /
                             1000000);
    for (const bool state : {false, true}) {
      const ByteMicros byte_us = state ? sum.kv_byte_us : sum.weight_byte_us;
      if (byte_us == 0) continue;
      const ByteMicros amount = Amount(byte_us, unit_price);
      total += amount;
      if (total > INT64_MAX) {
        return absl::OutOfRangeError("the invoice is over 9.2 * 10^9; bill a shorter period");
      }
      invoice.lines.push_back({sum.period, sum.tenant, sum.variant, tier->name,
                               state ? "state" : "weights", sum.lambda, byte_us, unit_price,
                               static_cast<int64_t>(amount)});
      invoice.byte_us += byte_us;
    }
  }
  invoice.amount = static_cast<int64_t>(total);
  return invoice;
}

}  // namespace lift
