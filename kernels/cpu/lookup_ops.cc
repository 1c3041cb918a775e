// Stages times a few columns by tables of sums.
#include <algorithm>

#include "kernels/base/check.h"
#include "kernels/cpu/cpu_backend_impl.h"

namespace lift::cpu {
namespace {

// Making the tables of a column costs about as much as they save on this many rows.
constexpr int64_t kWorthRows = 256;

}  // namespace

const int16_t* CpuBackend::Lookup::Table(const int8_t* column) const {
  const auto found = std::find(columns.begin(), columns.end(), column);
  if (found == columns.end()) return nullptr;
  return tables.data() + (found - columns.begin()) * words * entries;
}

int CpuBackend::WorthColumns(const LiftCode& code) const {
  if (code.stored > CpuTuning::kMostStored || code.derived > CpuTuning::kMostDerived) return 0;
  return k_.lookups.takes(code) ? tuning_.at({code.stored, code.derived}) : 0;
}

void CpuBackend::PlanLookups(std::span<const LiftedProduct> products,
                             const CpuLiftedActivations& u) {
  const SignLookups& kernel = k_.lookups;
  const auto entries = kernel.bytes / static_cast<int64_t>(sizeof(int16_t));
  lookups_.resize(std::max(lookups_.size(), u.slots.size()));
  for (Lookup& lookup : lookups_) {
    lookup.columns.clear();
    lookup.rows = 0;
    lookup.entries = entries;
  }
  const auto most_columns = static_cast<size_t>(tuning_.Largest());
  if (most_columns == 0) return;
  std::vector<int64_t> tokens;
  for (int64_t t = 0; t < u.tokens && tokens.size() <= most_columns; ++t) {
    if (u.variants[static_cast<size_t>(t)] < kPrefillRow) tokens.push_back(t);
  }
  if (tokens.size() > most_columns) return;
  for (const LiftedProduct& product : products) {
    const LiftedMatrix& w = *product.w;
    for (size_t j = 0; j < w.stages.size(); ++j) {
      const LiftCode& code = *w.stages[j].code;
      const int worth = WorthColumns(code);
      if (worth == 0) continue;
      const CpuLiftedActivations::Slot& slot = u.slots.at(static_cast<size_t>(w.stages[j].slot));
      Lookup& lookup = lookups_[static_cast<size_t>(w.stages[j].slot)];
      lookup.worth = static_cast<size_t>(worth);
      lookup.words = u.padded / kTileColumns * code.streams();
      int64_t most = 0;
      for (const int64_t t : tokens) {
        const int64_t rows = w.rows_of(u.variants[static_cast<size_t>(t)])[j];
        most = std::max(most, rows);
        const int8_t* column = slot.column(t, 0);
        const auto& known = lookup.columns;
        if (rows == 0 || std::find(known.begin(), known.end(), column) != known.end()) continue;
        for (int part = 0; part <= (slot.wide[t] != 0 ? 1 : 0); ++part) {
          lookup.columns.push_back(slot.column(t, part));
        }
      }
      lookup.rows += most;
    }
  }
  int64_t words = 0;
  for (Lookup& lookup : lookups_) {
    if (lookup.columns.size() > lookup.worth || lookup.rows < kWorthRows) lookup.columns.clear();
    const int64_t all = static_cast<int64_t>(lookup.columns.size()) * lookup.words;
    lookup.tables.Reserve(static_cast<size_t>(all * entries));
    words += all;
  }
  // One loop over the words of all columns.
  constexpr int64_t kWordCost = 128;
  For(words, kWordCost, [&](int64_t begin, int64_t end, int) {
    int64_t first = 0;
    for (Lookup& lookup : lookups_) {
      for (size_t c = 0; c < lookup.columns.size(); ++c, first += lookup.words) {
        const int64_t from = std::max<int64_t>(begin - first, 0),
                      to = std::min(end - first, lookup.words);
        if (from >= to) continue;
        kernel.make(
            lookup.columns[c] + from * kTileColumns, to - from,
            lookup.tables.data() + (static_cast<int64_t>(c) * lookup.words + from) * entries);
      }
    }
  });
}

// Rows [row, row_end), at most SignLookups::rows; all of them belong to `segment`.
void CpuBackend::LookUpSegment(const LiftedMatrix::Stage& s, const ParityTables& parity,
                               const Segment& segment, int64_t padded, int64_t pitch, int64_t row,
                               int64_t row_end, float* y, int thread) {
  SignLookup look;
  look.pairs = static_cast<int>((row_end - row + kTilePair - 1) / kTilePair);
  look.blocks = padded / kTileColumns;
  look.code = s.code;
  look.parity = &parity;
  look.tables = segment.tables.data();
  look.acc = Scratch<int32_t>(thread);
  for (int i = 0; i < 2 * look.pairs; ++i) {
    // A tile that is not there: any other, its sums are not used.
    const int64_t tile = row + i * kTileRows;
    look.planes[i] = TilePlanes(s, padded, tile < row_end ? tile : row);
  }
  for (size_t first = 0, last = 0; first < segment.readers.size(); first = last) {
    look.num_columns = 0;
    for (; last < segment.readers.size(); ++last) {
      const int more = segment.readers[last].wide ? 2 : 1;
      if (look.num_columns + more > k_.lookups.columns) break;
      look.num_columns += more;
    }
    k_.lookups.sum(look);
    look.tables += look.num_columns;
    const int32_t* sums = look.acc;
    for (; first < last; ++first) {
      const Reader& reader = segment.readers[first];
      k_.combine({sums, reader.wide ? sums + kLookupRows : nullptr, reader.sums[0], reader.sums[1],
                  reader.coefficient, row_end - row, y + reader.token * pitch + row});
      sums += reader.wide ? 2 * kLookupRows : kLookupRows;
    }
  }
}

}  // namespace lift::cpu
