// Causal attention of a few query rows against one key/value head. Keys are taken in spans of
// kKeySpan counted from position 0: an online softmax over chunks of kKeyChunk inside a span, and
// the spans' sums folded in order. So a row's arithmetic never depends on its neighbours, on
// chunking, on threads or on which thread ran a span.

// Sums of some rows over some keys.
struct AttendSums {
  float* acc;      // [rows][padded_dim]
  float* maximum;  // [rows]
  float* total;    // [rows]
};

struct AttendScratch {
  int64_t rows, dim, padded_dim;
  float* q;       // [rows][dim]
  float* scores;  // [rows][kKeyChunk]
  float* keys;    // [dim][kKeyChunk], used when blocks are no multiple of kLanes
  float* values;  // [kKeyChunk][padded_dim], used when dim is none
  float* scales;  // [2][kKeyChunk] of keys and values
  AttendSums span, whole;
};

inline int64_t RoundUpLanes(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

inline AttendSums SumsAt(float* p, int64_t rows, int64_t padded_dim) {
  const int64_t row_vector = RoundUpLanes(rows);
  return {p, p + rows * padded_dim, p + rows * padded_dim + row_vector};
}

inline AttendScratch SplitScratch(const AttendItem& a) {
  AttendScratch s;
  s.rows = (a.row_end - a.row_begin) * (a.shape->heads / a.shape->kv_heads);
  s.dim = a.shape->head_dim;
  s.padded_dim = RoundUpLanes(s.dim);
  const int64_t sums = s.rows * s.padded_dim + 2 * RoundUpLanes(s.rows);
  s.keys = a.scratch;
  s.values = s.keys + s.dim * kKeyChunk;
  s.scales = s.values + kKeyChunk * s.padded_dim;
  s.scores = s.scales + 2 * kKeyChunk;
  s.span = SumsAt(s.scores + s.rows * kKeyChunk, s.rows, s.padded_dim);
  s.whole = SumsAt(s.span.acc + sums, s.rows, s.padded_dim);
  s.q = s.whole.acc + sums;
  return s;
}

// Turns the scores of one row into weights and folds the change of the running maximum into acc.
// Keys [first, valid) of the chunk count; if there are none, nothing changes.
inline void SoftmaxStep(float* scores, int64_t first, int64_t valid, float scale, float& maximum,
                        float& total, float* acc, int64_t padded_dim) {
  if (first >= valid) {
    for (int64_t j = 0; j < kKeyChunk; ++j) scores[j] = 0.0f;
    return;
  }
  for (int64_t j = 0; j < first; ++j) scores[j] = -__builtin_inff();
  for (int64_t j = valid; j < kKeyChunk; ++j) scores[j] = -__builtin_inff();
  V top = Splat(maximum);
  for (int j = 0; j < kKeyChunk; j += kLanes) {
    const V s = Mul(Load(scores + j), Splat(scale));
    Store(scores + j, s);
    top = Max(s, top);
  }
  const float new_maximum = ReduceMax(top);
  float change[kLanes];
  Store(change, Exp(Splat(maximum - new_maximum)));
  V sum = Splat(0.0f);
  for (int j = 0; j < kKeyChunk; j += kLanes) {
    const V w = Exp(Sub(Load(scores + j), Splat(new_maximum)));
    Store(scores + j, w);
    sum = Add(sum, w);
  }
  total = total * change[0] + ReduceAdd(sum);
  maximum = new_maximum;
  for (int64_t d = 0; d < padded_dim; d += kLanes) {
    Store(acc + d, Mul(Load(acc + d), Splat(change[0])));
  }
}

// scores[r][16 g + lane] = chain over d of keys[g][d * stride + lane] * q[r][d].
template <int kGroups, int kRows, typename Cell>
inline void ScoreTile(const Cell* const* keys, int64_t stride, const float* q, int64_t dim,
                      float* scores) {
  V acc[kRows][kGroups];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int g = 0; g < kGroups; ++g) acc[r][g] = Splat(0.0f);
  }
  for (int64_t d = 0; d < dim; ++d) {
    V k[kGroups];
#pragma GCC unroll 4
    for (int g = 0; g < kGroups; ++g) k[g] = LoadCells(keys[g] + d * stride);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const V b = Splat(q[r * dim + d]);
#pragma GCC unroll 4
      for (int g = 0; g < kGroups; ++g) acc[r][g] = Fma(k[g], b, acc[r][g]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int g = 0; g < kGroups; ++g) Store(scores + r * kKeyChunk + g * kLanes, acc[r][g]);
  }
}

template <int kRows, typename Cell>
void ScoreGroups(const Cell* const* keys, int64_t groups, int64_t stride, const float* q,
                 int64_t dim, float* scores) {
  constexpr int kGroups = VectorsFor(kRows);
  int64_t g = 0;
  for (; g + kGroups <= groups; g += kGroups) {
    ScoreTile<kGroups, kRows>(keys + g, stride, q, dim, scores + g * kLanes);
  }
  for (; g < groups; ++g) ScoreTile<1, kRows>(keys + g, stride, q, dim, scores + g * kLanes);
}

// All rows against `groups` groups of kLanes keys.
template <typename Cell>
inline void ScoreRows(const Cell* const* keys, int64_t groups, int64_t stride,
                      const AttendScratch& s) {
  using Rows = void (*)(const Cell* const*, int64_t, int64_t, const float*, int64_t, float*);
  static constexpr Rows kRows[kGemmTokens] = {ScoreGroups<1, Cell>, ScoreGroups<2, Cell>,
                                              ScoreGroups<3, Cell>, ScoreGroups<4, Cell>,
                                              ScoreGroups<5, Cell>, ScoreGroups<6, Cell>};
  for (int64_t r = 0; r < s.rows; r += kGemmTokens) {
    const int64_t n = s.rows - r < kGemmTokens ? s.rows - r : kGemmTokens;
    kRows[n - 1](keys, groups, stride, s.q + r * s.dim, s.dim, s.scores + r * kKeyChunk);
  }
}

template <typename Cell>
inline void ScoreChunk(const KvCells<Cell>& cells, const AttendScratch& s, int64_t start,
                       int64_t keys) {
  const int64_t groups = (keys + kLanes - 1) / kLanes;
  if (cells.block_tokens % kLanes == 0) {
    const Cell* at[kKeyChunk / kLanes];
    for (int64_t g = 0; g < groups; ++g) at[g] = cells.key(start + g * kLanes);
    return ScoreRows(at, groups, cells.block_tokens, s);
  }
  for (int64_t j = 0; j < keys; ++j) {
    const Cell* key = cells.key(start + j);
    for (int64_t d = 0; d < s.dim; ++d) {
      s.keys[d * kKeyChunk + j] = CellToFloat(key[d * cells.block_tokens]);
    }
  }
  const float* at[kKeyChunk / kLanes];
  for (int64_t g = 0; g < groups; ++g) at[g] = s.keys + g * kLanes;
  ScoreRows(at, groups, kKeyChunk, s);
}

template <typename Cell>
inline void AddValues(const Cell* values, int64_t first, int64_t count, const AttendScratch& s) {
  for (int64_t r = 0; r < s.rows; r += kGemmTokens) {
    const int64_t n = s.rows - r < kGemmTokens ? s.rows - r : kGemmTokens;
    GemmUpTo6(n, values, s.padded_dim, s.padded_dim / kLanes, s.scores + r * kKeyChunk + first,
              kKeyChunk, count, s.span.acc + r * s.padded_dim, s.padded_dim, false);
  }
}

template <typename Cell>
inline void AddChunk(const KvCells<Cell>& cells, const AttendScratch& s, int64_t start,
                     int64_t keys) {
  int64_t run = 0;
  for (int64_t j = 0; j < keys; j += run) {
    run = cells.run(start + j, keys - j);
    const Cell* values = cells.value(start + j);
    if (s.padded_dim == s.dim) {
      AddValues(values, j, run, s);
      continue;
    }
    for (int64_t i = 0; i < run; ++i) {
      for (int64_t d = 0; d < s.dim; ++d) {
        s.values[i * s.padded_dim + d] = CellToFloat(values[i * s.dim + d]);
      }
    }
    AddValues(s.values, j, run, s);
  }
}

// The first key that a query at `position` sees.
inline int64_t FirstKey(const AttentionShape& shape, int64_t position) {
  return shape.window == 0 || position < shape.window ? 0 : position + 1 - shape.window;
}

inline void ScaleScores(const float* scales, const AttendScratch& s) {
  for (int64_t r = 0; r < s.rows; ++r) {
    float* scores = s.scores + r * kKeyChunk;
    for (int j = 0; j < kKeyChunk; j += kLanes) {
      Store(scores + j, Mul(Load(scores + j), Load(scales + j)));
    }
  }
}

// Keys [start, start + keys) of one chunk for all rows.
template <typename Cell>
inline void AttendChunk(const AttendItem& a, const KvCells<Cell>& cells, const AttendScratch& s,
                        int64_t start, int64_t keys) {
  constexpr bool kScaled = sizeof(Cell) == 1;
  const AttentionShape& shape = *a.shape;
  const int64_t group = shape.heads / shape.kv_heads;
  ScoreChunk(cells, s, start, keys);
  if (kScaled) {
    for (int64_t j = 0; j < kKeyChunk; ++j) {
      s.scales[j] = j < keys ? cells.scale(start + j, 0) : 0.0f;
      s.scales[kKeyChunk + j] = j < keys ? cells.scale(start + j, 1) : 0.0f;
    }
    ScaleScores(s.scales, s);
  }
  for (int64_t r = 0; r < s.rows; ++r) {
    const int64_t last = a.sequence->position + a.row_begin + r / group;
    const int64_t valid = last + 1 - start < keys ? last + 1 - start : keys;
    const int64_t low = FirstKey(shape, last) - start;
    SoftmaxStep(s.scores + r * kKeyChunk, low < 0 ? 0 : low, valid, shape.scale, s.span.maximum[r],
                s.span.total[r], s.span.acc + r * s.padded_dim, s.padded_dim);
  }
  if (kScaled) ScaleScores(s.scales + kKeyChunk, s);
  AddChunk(cells, s, start, keys);
}

inline void ClearSums(const AttendSums& sums, int64_t rows, int64_t padded_dim) {
  for (int64_t i = 0; i < rows * padded_dim; ++i) sums.acc[i] = 0.0f;
  for (int64_t r = 0; r < rows; ++r) sums.maximum[r] = -__builtin_inff();
  for (int64_t r = 0; r < rows; ++r) sums.total[r] = 0.0f;
}

// s.span = the rows' sums over one span of keys.
template <typename Cell>
void AttendSpan(const AttendItem& a, const AttendScratch& s, int64_t span) {
  const KvCells<Cell> cells(a);
  ClearSums(s.span, s.rows, s.padded_dim);
  const int64_t all_keys = a.sequence->position + a.row_end;
  const int64_t first_key = FirstKey(*a.shape, a.sequence->position + a.row_begin);
  const int64_t span_begin = span * kKeySpan, span_end = span_begin + kKeySpan;
  const int64_t begin = first_key > span_begin ? first_key : span_begin;
  const int64_t end = all_keys < span_end ? all_keys : span_end;
  for (int64_t start = begin / kKeyChunk * kKeyChunk; start < end; start += kKeyChunk) {
    AttendChunk(a, cells, s, start, end - start < kKeyChunk ? end - start : kKeyChunk);
  }
}

// whole += part, as a softmax adds. A part without keys changes nothing.
inline void FoldSums(const AttendScratch& s, const AttendSums& part) {
  for (int64_t r = 0; r < s.rows; ++r) {
    if (part.maximum[r] == -__builtin_inff()) continue;
    const float old = s.whole.maximum[r];
    const float top = old > part.maximum[r] ? old : part.maximum[r];
    float keep[kLanes], add[kLanes];
    Store(keep, Exp(Splat(old - top)));
    Store(add, Exp(Splat(part.maximum[r] - top)));
    s.whole.maximum[r] = top;
    s.whole.total[r] = s.whole.total[r] * keep[0] + part.total[r] * add[0];
    float* whole = s.whole.acc + r * s.padded_dim;
    const float* more = part.acc + r * s.padded_dim;
    for (int64_t d = 0; d < s.padded_dim; d += kLanes) {
      const V kept = Mul(Load(whole + d), Splat(keep[0]));
      Store(whole + d, Add(kept, Mul(Load(more + d), Splat(add[0]))));
    }
  }
}

// Offset of row r of the item in q and out.
inline int64_t RowOffset(const AttendItem& a, int64_t r) {
  const int64_t group = a.shape->heads / a.shape->kv_heads;
  const int64_t token = a.sequence->first_row + a.row_begin + r / group;
  return (token * a.shape->heads + a.kv_head * group + r % group) * a.shape->head_dim;
}

inline void FinishRows(const AttendItem& a, const AttendScratch& s) {
  for (int64_t r = 0; r < s.rows; ++r) {
    float* out = a.out + RowOffset(a, r);
    const float* acc = s.whole.acc + r * s.padded_dim;
    for (int64_t d = 0; d < s.dim; d += kLanes) {
      StoreN(out + d, Div(Load(acc + d), Splat(s.whole.total[r])), s.dim - d);
    }
    if (a.shape->format == KvFormat::kInt8) RotateHeadBack(out, s.dim);
  }
}

template <typename Cell>
void AttendOn(const AttendItem& a) {
  AttendScratch s = SplitScratch(a);
  for (int64_t r = 0; r < s.rows; ++r) {
    float* q = s.q + r * s.dim;
    for (int64_t d = 0; d < s.dim; ++d) q[d] = a.q[RowOffset(a, r) + d];
    if (a.shape->format == KvFormat::kInt8) RotateHead(q, s.dim);
  }
  for (int64_t i = 0; s.padded_dim != s.dim && i < kKeyChunk * s.padded_dim; ++i) {
    s.values[i] = 0.0f;
  }
  if (a.partials != nullptr) {
    s.span = SumsAt(a.partials, s.rows, s.padded_dim);
    return AttendSpan<Cell>(a, s, a.span);
  }
  ClearSums(s.whole, s.rows, s.padded_dim);
  for (int64_t span = a.first_span(); span < a.end_span(); ++span) {
    AttendSpan<Cell>(a, s, span);
    FoldSums(s, s.span);
  }
  FinishRows(a, s);
}

void Attend(const AttendItem& a) {
  switch (a.shape->format) {
    case KvFormat::kF32:
      return AttendOn<float>(a);
    case KvFormat::kF16:
      return AttendOn<Half>(a);
    case KvFormat::kBF16:
      return AttendOn<Brain>(a);
    case KvFormat::kInt8:
      return AttendOn<int8_t>(a);
  }
}

void AttendMerge(const AttendItem& a) {
  const AttendScratch s = SplitScratch(a);
  ClearSums(s.whole, s.rows, s.padded_dim);
  const int64_t sums = s.rows * s.padded_dim + 2 * RoundUpLanes(s.rows);
  float* part = a.partials;
  for (int64_t span = a.first_span(); span < a.end_span(); ++span, part += sums) {
    FoldSums(s, SumsAt(part, s.rows, s.padded_dim));
  }
  FinishRows(a, s);
}
