// Causal attention of a few query rows against one key/value head: online softmax over chunks of
// kKeyChunk keys counted from position 0, so a row's arithmetic never depends on its neighbours, on
// chunking or on threads.

struct AttendScratch {
  float* q;        // [rows * group][head_dim]
  float* scores;   // [rows * group][kKeyChunk]
  float* acc;      // [rows * group][padded_dim]
  float* maximum;  // [rows * group]
  float* total;    // [rows * group]
  float* keys;     // [head_dim][kKeyChunk]
  float* values;   // [kKeyChunk][padded_dim], used when head_dim is no multiple of 16
};

inline AttendScratch SplitScratch(float* p, int64_t head_dim, int64_t padded_dim, int64_t rows) {
  const int64_t row_vector = (rows + kLanes - 1) / kLanes * kLanes;
  AttendScratch s;
  s.keys = p;
  s.values = s.keys + head_dim * kKeyChunk;
  s.scores = s.values + kKeyChunk * padded_dim;
  s.acc = s.scores + rows * kKeyChunk;
  s.maximum = s.acc + rows * padded_dim;
  s.total = s.maximum + row_vector;
  s.q = s.total + row_vector;
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

inline void GemmRows(int64_t rows, const float* panel, int64_t panel_stride, int64_t vectors,
                     const float* x, int64_t x_stride, int64_t cols, float* y, int64_t y_stride,
                     bool first) {
  for (int64_t r = 0; r < rows; r += kGemmTokens) {
    const int64_t n = rows - r < kGemmTokens ? rows - r : kGemmTokens;
    GemmUpTo6<Rounding::kNative>(n, panel, panel_stride, vectors, x + r * x_stride, x_stride, cols,
                                 y + r * y_stride, y_stride, first);
  }
}

// The first key that a query at `position` sees.
inline int64_t FirstKey(const AttentionShape& shape, int64_t position) {
  return shape.window == 0 || position < shape.window ? 0 : position + 1 - shape.window;
}

// One chunk of keys [start, start + keys) for all rows.
inline void AttendChunk(const AttendItem& a, const AttendScratch& s, int64_t padded_dim,
                        int64_t start, int64_t keys) {
  const AttentionShape& shape = *a.shape;
  const int64_t dim = shape.head_dim, group = shape.heads / shape.kv_heads;
  const int64_t rows = (a.row_end - a.row_begin) * group;
  const int64_t half = shape.kv_heads * shape.block_tokens * dim;
  const auto key_at = [&](int64_t position) {
    const int64_t block = a.sequence->blocks.data()[position / shape.block_tokens];
    return a.cache + 2 * half * block + a.kv_head * shape.block_tokens * dim +
           position % shape.block_tokens * dim;
  };
  const auto run_at = [&](int64_t j) {  // keys from start + j that share one cache block
    const int64_t left = shape.block_tokens - (start + j) % shape.block_tokens;
    return keys - j < left ? keys - j : left;
  };
  for (int64_t j = 0; j < keys; j += run_at(j)) {
    TransposeInto(key_at(start + j), dim, run_at(j), dim, s.keys + j, kKeyChunk);
  }
  GemmRows(rows, s.keys, kKeyChunk, (keys + kLanes - 1) / kLanes, s.q, dim, dim, s.scores,
           kKeyChunk, true);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t last = a.sequence->position + a.row_begin + r / group;
    const int64_t valid = last + 1 - start < keys ? last + 1 - start : keys;
    const int64_t low = FirstKey(shape, last) - start;
    SoftmaxStep(s.scores + r * kKeyChunk, low < 0 ? 0 : low, valid, shape.scale, s.maximum[r],
                s.total[r], s.acc + r * padded_dim, padded_dim);
  }
  for (int64_t j = 0; j < keys; j += run_at(j)) {
    const float* values = key_at(start + j) + half;
    const int64_t run = run_at(j);
    if (padded_dim != dim) {
      for (int64_t i = 0; i < run; ++i) {
        for (int64_t d = 0; d < dim; ++d) s.values[i * padded_dim + d] = values[i * dim + d];
      }
      values = s.values;
    }
    GemmRows(rows, values, padded_dim, padded_dim / kLanes, s.scores + j, kKeyChunk, run, s.acc,
             padded_dim, false);
  }
}

void Attend(const AttendItem& a) {
  const AttentionShape& shape = *a.shape;
  const int64_t dim = shape.head_dim, group = shape.heads / shape.kv_heads;
  const int64_t padded_dim = (dim + kLanes - 1) / kLanes * kLanes;
  const int64_t rows = (a.row_end - a.row_begin) * group;
  const AttendScratch s = SplitScratch(a.scratch, dim, padded_dim, rows);
  const auto offset = [&](int64_t r) {  // of row r in q and out
    const int64_t token = a.sequence->first_row + a.row_begin + r / group;
    return (token * shape.heads + a.kv_head * group + r % group) * dim;
  };
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t d = 0; d < dim; ++d) s.q[r * dim + d] = a.q[offset(r) + d];
    for (int64_t d = 0; d < padded_dim; ++d) s.acc[r * padded_dim + d] = 0.0f;
    s.maximum[r] = -__builtin_inff();
    s.total[r] = 0.0f;
  }
  if (padded_dim != dim) {
    for (int64_t i = 0; i < kKeyChunk * padded_dim; ++i) s.values[i] = 0.0f;
  }
  const int64_t all_keys = a.sequence->position + a.row_end;
  const int64_t first_key = FirstKey(shape, a.sequence->position + a.row_begin);
  for (int64_t start = first_key / kKeyChunk * kKeyChunk; start < all_keys; start += kKeyChunk) {
    AttendChunk(a, s, padded_dim, start,
                all_keys - start < kKeyChunk ? all_keys - start : kKeyChunk);
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t d = 0; d < dim; d += kLanes) {
      StoreN(a.out + offset(r) + d, Div(Load(s.acc + r * padded_dim + d), Splat(s.total[r])),
             dim - d);
    }
  }
}
