// The register-blocked product that dense layers and attention share.

// y[t][v * 16 + lane] = chain over c of panel[c][v * 16 + lane] * x[t][c], kVectors x kTokens
// accumulators in registers.
template <int kVectors, int kTokens, typename Cell>
inline void GemmTile(const Cell* panel, int64_t panel_stride, const float* x, int64_t x_stride,
                     int64_t cols, float* y, int64_t y_stride, bool first) {
  V acc[kTokens][kVectors];
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      acc[t][v] = first ? Splat(0.0f) : Load(y + t * y_stride + v * kLanes);
    }
  }
  for (int64_t c = 0; c < cols; ++c) {
    V w[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) w[v] = LoadCells(panel + c * panel_stride + v * kLanes);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const V b = Splat(x[t * x_stride + c]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        acc[t][v] = Fma(w[v], b, acc[t][v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) Store(y + t * y_stride + v * kLanes, acc[t][v]);
  }
}

// kTokens tokens against `vectors` vectors of rows.
template <int kTokens, typename Cell>
void GemmTokens(const Cell* panel, int64_t panel_stride, int64_t vectors, const float* x,
                int64_t x_stride, int64_t cols, float* y, int64_t y_stride, bool first) {
  constexpr int kVectors = VectorsFor(kTokens);
  int64_t v = 0;
  for (; v + kVectors <= vectors; v += kVectors) {
    GemmTile<kVectors, kTokens>(panel + v * kLanes, panel_stride, x, x_stride, cols, y + v * kLanes,
                                y_stride, first);
  }
  for (; v < vectors; ++v) {
    GemmTile<1, kTokens>(panel + v * kLanes, panel_stride, x, x_stride, cols, y + v * kLanes,
                         y_stride, first);
  }
}

constexpr int kGemmTokens = 6;

// tokens <= kGemmTokens.
template <typename Cell>
inline void GemmUpTo6(int64_t tokens, const Cell* panel, int64_t panel_stride, int64_t vectors,
                      const float* x, int64_t x_stride, int64_t cols, float* y, int64_t y_stride,
                      bool first) {
  using Tile = void (*)(const Cell*, int64_t, int64_t, const float*, int64_t, int64_t, float*,
                        int64_t, bool);
  static constexpr Tile kTiles[kGemmTokens] = {GemmTokens<1, Cell>, GemmTokens<2, Cell>,
                                               GemmTokens<3, Cell>, GemmTokens<4, Cell>,
                                               GemmTokens<5, Cell>, GemmTokens<6, Cell>};
  kTiles[tokens - 1](panel, panel_stride, vectors, x, x_stride, cols, y, y_stride, first);
}

// dst[c * dst_stride + r] = src[r * src_stride + c].
void TransposeInto(const float* src, int64_t src_stride, int64_t rows, int64_t cols, float* dst,
                   int64_t dst_stride) {
  const int64_t full_rows = rows / 16 * 16, full_cols = cols / 16 * 16;
  for (int64_t r = 0; r < full_rows; r += 16) {
    for (int64_t c = 0; c < full_cols; c += 16) {
      Transpose16(src + r * src_stride + c, src_stride, dst + c * dst_stride + r, dst_stride);
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = r < full_rows ? full_cols : 0; c < cols; ++c) {
      dst[c * dst_stride + r] = src[r * src_stride + c];
    }
  }
}

void PackPanel(const float* src, int64_t stride, int64_t rows, int64_t cols, float* panel) {
  TransposeInto(src, stride, rows, cols, panel, kPanelRows);
  for (int64_t c = 0; rows < kPanelRows && c < cols; ++c) {
    for (int64_t r = rows; r < kPanelRows; ++r) panel[c * kPanelRows + r] = 0.0f;
  }
}

void PanelMatmulKernel(const PanelMatmul& a) {
  alignas(64) float edge[kGemmTokens * kPanelRows];
  const int64_t vectors = (a.rows + kLanes - 1) / kLanes;
  for (int64_t t = 0; t < a.tokens; t += kGemmTokens) {
    const int64_t n = a.tokens - t < kGemmTokens ? a.tokens - t : kGemmTokens;
    float* y = a.y + t * a.y_stride;
    const float* x = a.x + t * a.x_stride;
    if (a.rows % kLanes == 0) {
      GemmUpTo6(n, a.panel, kPanelRows, vectors, x, a.x_stride, a.cols, y, a.y_stride, a.first);
      continue;
    }
    for (int64_t i = 0; i < n && !a.first; ++i) {
      for (int64_t r = 0; r < a.rows; ++r) edge[i * kPanelRows + r] = y[i * a.y_stride + r];
      for (int64_t r = a.rows; r < kPanelRows; ++r) edge[i * kPanelRows + r] = 0.0f;
    }
    GemmUpTo6(n, a.panel, kPanelRows, vectors, x, a.x_stride, a.cols, edge, kPanelRows, a.first);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t r = 0; r < a.rows; ++r) y[i * a.y_stride + r] = edge[i * kPanelRows + r];
    }
  }
}
