// Dense layers: panels of 64 rows x 256 columns are decoded to float, transposed, and used for all
// tokens.
#include <algorithm>
#include <cstring>

#include "kernels/base/check.h"
#include "kernels/cpu/cpu_backend_impl.h"

namespace lift::cpu {
namespace {

constexpr size_t kPanelBytes = sizeof(float) * kPanelRows * kPanelColumns;
constexpr int64_t kMinSplitTokens = 48;  // decoding a panel again pays off from here on

bool IsPlainFloat(const DenseMatrixView& w) {
  return w.type == DType::kF32 && reinterpret_cast<uintptr_t>(w.data) % alignof(float) == 0;
}

}  // namespace

void CpuBackend::DensePanelGroup(const DenseMatrixView& w, const float* x, int64_t first_token,
                                 int64_t tokens, int64_t row, float* y, int thread) {
  const int64_t rows = std::min<int64_t>(kPanelRows, w.rows - row);
  float* panel = Scratch<float>(thread);
  float* decoded = panel + kPanelBytes / sizeof(float);
  for (int64_t c = 0; c < w.cols; c += kPanelColumns) {
    const int64_t cols = std::min<int64_t>(kPanelColumns, w.cols - c);
    if (IsPlainFloat(w)) {
      const float* values = reinterpret_cast<const float*>(w.row(row)) + c;
      k_.pack_panel(values, w.cols, rows, cols, panel);
    } else {
      const size_t skip = RowBytes(w.type, c);
      for (int64_t r = 0; r < rows; ++r) {
        Dequantize(w.type, w.row(row + r) + skip,
                   {decoded + r * kPanelColumns, static_cast<size_t>(cols)});
      }
      k_.pack_panel(decoded, kPanelColumns, rows, cols, panel);
    }
    k_.panel_matmul({panel, rows, cols, x + first_token * w.cols + c, w.cols, tokens,
                     y + first_token * w.rows + row, w.rows, c == 0});
  }
}

void CpuBackend::DenseMatmul(const DenseMatrixView& w, const float* x, int64_t tokens, float* y) {
  LIFT_CHECK(w.rows > 0 && w.cols > 0 && tokens >= 0 && w.data != nullptr);
  ReserveScratch(2 * kPanelBytes);
  const int64_t groups = (w.rows + kPanelRows - 1) / kPanelRows;
  const int64_t wanted = (4 * pool_.threads() + groups - 1) / groups;
  const int64_t splits = std::clamp<int64_t>(tokens / kMinSplitTokens, 1, wanted);
  const int64_t split_tokens = (tokens + splits - 1) / splits;
  const auto body = [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i / groups * split_tokens;
      const int64_t count = std::min(split_tokens, tokens - first);
      if (count > 0) {
        DensePanelGroup(w, x, first, count, i % groups * kPanelRows, y, thread);
      }
    }
  };
  const int64_t items = groups * splits;
  pool_.ParallelFor(items, std::max<int64_t>(1, items / (16 * pool_.threads())), body);
}

void CpuBackend::DenseRow(const DenseMatrixView& w, int64_t row, float* out) {
  LIFT_CHECK(row >= 0 && row < w.rows);
  Dequantize(w.type, w.row(row), {out, static_cast<size_t>(w.cols)});
}

}  // namespace lift::cpu
