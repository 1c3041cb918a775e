// Invoices as text, JSON, CSV and FOCUS columns.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/billing/invoice.h"
#include "server/client/billing.h"

namespace lift::client {
namespace {

constexpr int64_t kHour = 3600, kDay = 86400;

// What an invoice says besides its lines.
struct Head {
  std::string tenant, currency, price;
  int64_t begin = 0, end = 0;
  int64_t step = 0;  // length of a line's period; 0 = the whole
};

ByteMicros Micros(const api::ByteTime& time) {
  return ByteMicros{time.byte_seconds()} * 1000000 + time.micros();
}

// Byte-seconds with six decimals.
std::string Exact(ByteMicros value) {
  return absl::StrFormat("%d.%06d", static_cast<uint64_t>(value / 1000000),
                         static_cast<uint64_t>(value % 1000000));
}

std::string Hours(ByteMicros value) { return absl::StrFormat("%.9f", GibHours(value)); }

int64_t LineEnd(const Head& head, const InvoiceLine& line) {
  return head.step == 0 ? head.end : std::min(head.end, line.period + head.step);
}

std::string AsText(const Head& head, const Invoice& invoice) {
  std::string text =
      absl::StrFormat("Invoice: %s\nPeriod:  %s to %s\nPrice:   %s %s per GiB-hour\n\n",
                      head.tenant.empty() ? "all tenants and idle memory" : head.tenant,
                      TimeText(head.begin), TimeText(head.end), head.price, head.currency);
  const bool tenants = head.tenant.empty(), periods = head.step > 0;
  size_t variant_width = 7, tenant_width = 6;
  for (const InvoiceLine& line : invoice.lines) {
    variant_width = std::max(variant_width, line.variant.size());
    tenant_width = std::max(tenant_width, line.tenant.size());
  }
  const auto row = [&](const std::string& period, const std::string& tenant,
                       const std::string& variant, const std::string& lambda,
                       const std::string& tier, const std::string& kind, const std::string& bytes,
                       const std::string& hours, const std::string& price,
                       const std::string& amount) {
    if (periods) absl::StrAppendFormat(&text, "%-20s  ", period);
    if (tenants) absl::StrAppendFormat(&text, "%-*s  ", tenant_width, tenant);
    absl::StrAppendFormat(&text, "%-*s  %6s  %-10s  %-7s  %24s  %16s  %12s  %14s\n", variant_width,
                          variant, lambda, tier, kind, bytes, hours, price, amount);
  };
  row("from", "tenant", "variant", "lambda", "tier", "memory", "byte-seconds", "GiB-hours", "price",
      "amount");
  for (const InvoiceLine& line : invoice.lines) {
    row(TimeText(line.period), line.tenant, line.variant.empty() ? "-" : line.variant,
        absl::StrFormat("%.3f", line.lambda), line.tier, line.kind, Exact(line.byte_us),
        Hours(line.byte_us), PriceText(line.unit_price), PriceText(line.amount));
  }
  row("", "", "total", "", "", "", Exact(invoice.byte_us), Hours(invoice.byte_us), "",
      PriceText(invoice.amount));
  absl::StrAppendFormat(&text, "\nTo pay: %s %s\n", PriceText(invoice.amount), head.currency);
  return text;
}

std::string AsJson(const Head& head, const Invoice& invoice) {
  using nlohmann::json;
  json out{{"tenant", head.tenant},
           {"begin", TimeText(head.begin)},
           {"end", TimeText(head.end)},
           {"currency", head.currency},
           {"price_per_gib_hour", head.price},
           {"byte_seconds", Exact(invoice.byte_us)},
           {"gib_hours", GibHours(invoice.byte_us)},
           {"amount", PriceText(invoice.amount)},
           {"lines", json::array()}};
  for (const InvoiceLine& line : invoice.lines) {
    out["lines"].push_back({{"begin", TimeText(line.period)},
                            {"end", TimeText(LineEnd(head, line))},
                            {"tenant", line.tenant},
                            {"variant", line.variant},
                            {"lambda", line.lambda},
                            {"tier", line.tier},
                            {"kind", line.kind},
                            {"byte_seconds", Exact(line.byte_us)},
                            {"gib_hours", GibHours(line.byte_us)},
                            {"unit_price", PriceText(line.unit_price)},
                            {"amount", PriceText(line.amount)}});
  }
  return out.dump() + "\n";
}

std::string AsCsv(const Head& head, const Invoice& invoice) {
  std::string text =
      "begin,end,tenant,variant,lambda,tier,kind,byte_seconds,gib_hours,unit_price,amount,"
      "currency\n";
  for (const InvoiceLine& line : invoice.lines) {
    absl::StrAppend(&text, TimeText(line.period), ",", TimeText(LineEnd(head, line)), ",",
                    CsvField(line.tenant), ",", CsvField(line.variant), ",", line.lambda, ",",
                    line.tier, ",", line.kind, ",", Exact(line.byte_us), ",", Hours(line.byte_us),
                    ",", PriceText(line.unit_price), ",", PriceText(line.amount), ",",
                    CsvField(head.currency), "\n");
  }
  return text;
}

// The columns of FOCUS 1.0 that a usage charge has.
std::string AsFocus(const Head& head, const Invoice& invoice) {
  std::string text =
      "BillingPeriodStart,BillingPeriodEnd,ChargePeriodStart,ChargePeriodEnd,ChargeCategory,"
      "ChargeFrequency,ChargeDescription,ServiceCategory,ServiceName,ProviderName,PublisherName,"
      "InvoiceIssuerName,SubAccountId,ResourceId,SkuId,PricingCategory,ConsumedQuantity,"
      "ConsumedUnit,PricingQuantity,PricingUnit,ListUnitPrice,ContractedUnitPrice,ListCost,"
      "ContractedCost,BilledCost,EffectiveCost,BillingCurrency\n";
  for (const InvoiceLine& line : invoice.lines) {
    const std::string amount = PriceText(line.amount), price = PriceText(line.unit_price);
    absl::StrAppend(&text, TimeText(head.begin), ",", TimeText(head.end), ",",
                    TimeText(line.period), ",", TimeText(LineEnd(head, line)),
                    ",Usage,Usage-Based,Memory x time of ", line.kind,
                    ",AI and Machine Learning,LiftServe,LiftServe,LiftServe,LiftServe,",
                    CsvField(line.tenant), ",", CsvField(line.variant), ",");
    absl::StrAppend(&text, line.tier, "/", line.kind, ",Standard,", Exact(line.byte_us),
                    ",Byte-Seconds,", Hours(line.byte_us), ",GiB-Hours,", price, ",", price, ",",
                    amount, ",", amount, ",", amount, ",");
    absl::StrAppend(&text, amount, ",", CsvField(head.currency), "\n");
  }
  return text;
}

}  // namespace

absl::StatusOr<std::string> BillText(const ClientOptions& o, const Period& period,
                                     const api::GetUsageResponse& usage) {
  LIFT_ASSIGN_OR_RETURN(const int64_t price, ParsePrice(o.price));
  LIFT_ASSIGN_OR_RETURN(const std::vector<PriceTier> tiers, ParsePriceTiers(o.tiers));
  const Head head{.tenant = o.usage_tenant,
                  .currency = o.currency,
                  .price = PriceText(price),
                  .begin = period.begin,
                  .end = period.end,
                  .step = o.by == "hour"  ? kHour
                          : o.by == "day" ? kDay
                                          : 0};
  std::vector<LedgerSum> sums;
  for (const api::UsageEntry& entry : usage.entries()) {
    LedgerSum sum;
    sum.period = entry.has_period_start() ? entry.period_start().seconds() : period.begin;
    sum.tenant = entry.tenant();
    sum.variant = entry.variant();
    sum.lambda = entry.lambda();
    sum.weight_byte_us = Micros(entry.weight());
    sum.kv_byte_us = Micros(entry.kv());
    sums.push_back(std::move(sum));
  }
  LIFT_ASSIGN_OR_RETURN(const Invoice invoice, MakeInvoice(sums, tiers, price));
  const std::string format = o.json ? "json" : o.format;
  if (format == "json") return AsJson(head, invoice);
  if (format == "csv") return AsCsv(head, invoice);
  if (format == "focus") return AsFocus(head, invoice);
  return AsText(head, invoice);
}

}  // namespace lift::client
