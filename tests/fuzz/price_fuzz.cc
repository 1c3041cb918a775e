// What a bill is made with: a price, a line break and price tiers. What is accepted makes an
// invoice of small and of absurd sums.
#include <algorithm>

#include "kernels/base/check.h"
#include "server/billing/invoice.h"
#include "tests/fuzz/fuzz_target.h"

namespace lift {
namespace {

constexpr int64_t kMostUnitPrice = 1000000000000000000;  // a million times the highest factor

bool Refused(const absl::Status& status) {
  return status.code() == absl::StatusCode::kInvalidArgument;
}

std::vector<LedgerSum> Sums(int shift) {
  std::vector<LedgerSum> sums;
  for (int i = 0; i <= 20; ++i) {
    sums.push_back({0, "t", "v", i / 20.0, ByteMicros{12345678901234567u} << shift, ByteMicros{1}});
  }
  return sums;
}

void MakeBill(int64_t price, const std::vector<PriceTier>& tiers, int shift) {
  const std::vector<LedgerSum> sums = Sums(shift);
  const auto invoice = MakeInvoice(sums, tiers, price);
  if (!invoice.ok()) {
    LIFT_CHECK(invoice.status().code() == absl::StatusCode::kOutOfRange);
    return;
  }
  ByteMicros billed = 0, held = 0;
  int64_t amount = 0;
  for (const LedgerSum& sum : sums) held += sum.weight_byte_us + sum.kv_byte_us;
  for (const InvoiceLine& line : invoice->lines) {
    LIFT_CHECK(line.unit_price >= 0 && line.unit_price <= kMostUnitPrice && line.amount >= 0);
    billed += line.byte_us;
    amount += line.amount;
  }
  LIFT_CHECK(billed == held && billed == invoice->byte_us && amount == invoice->amount);
}

void UsePrices(const std::string& text) {
  const size_t end = std::min(text.find('\n'), text.size());
  const auto price = ParsePrice(text.substr(0, end));
  const auto tiers = ParsePriceTiers(text.substr(std::min(end + 1, text.size())));
  LIFT_CHECK(price.ok() || Refused(price.status()));
  LIFT_CHECK(tiers.ok() || Refused(tiers.status()));
  if (price.ok()) {
    const auto back = ParsePrice(PriceText(*price));
    LIFT_CHECK(back.ok() && *back == *price);
  }
  if (!tiers.ok()) return;
  LIFT_CHECK(!tiers->empty() && tiers->back().max_lambda == 1);
  double last = -1;
  for (const PriceTier& tier : *tiers) {
    LIFT_CHECK(tier.max_lambda > last && tier.max_lambda >= 0 && tier.factor_millionths >= 0);
    last = tier.max_lambda;
  }
  for (const int shift : {0, 40, 70}) MakeBill(price.value_or(1), *tiers, shift);
}

}  // namespace
}  // namespace lift

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  lift::UsePrices(lift::InputText(data, size));
  return 0;
}
