// One variant's weights as plain float tensors under the names and in the row order of a Hugging
// Face folder.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "server/model/weights.h"

namespace lift {

// Rows of a matrix, or of a vector cut into rows.
struct RowSource {
  const Matrix* matrix = nullptr;
  std::span<const float> values;  // if there is no matrix: [rows * cols]
};

struct ExportTensor {
  std::string name;  // as Hugging Face calls it
  std::vector<int64_t> shape;
  int64_t rows = 0, cols = 0;    // rows * cols = product of shape
  std::vector<RowSource> parts;  // of equal rows; fused as [heads][parts][rows of a head]
  int64_t heads = 1;
  float offset = 0;  // added to every value
  bool unpair =
      false;  // rows of each head come as neighbouring pairs (2i, 2i+1) and leave as halves
};

// A tensor by its canonical name, which it keeps.
absl::StatusOr<ExportTensor> CanonicalTensor(const Weights& weights, const std::string& name);

// Every tensor of the model under the folder's names, in the order of the graph. Borrows `weights`.
absl::StatusOr<std::vector<ExportTensor>> ExportTensors(const Weights& weights);

// Decodes rows of one variant. Not thread-safe.
class VariantReader {
 public:
  VariantReader(const Weights& weights, int variant, Backend& backend);
  // out: [tensor.cols].
  void Row(const ExportTensor& tensor, int64_t row, std::span<float> out) const;
  // out: [matrix.cols], in the model's own basis.
  void MatrixRow(const Matrix& matrix, int64_t row, std::span<float> out) const;

 private:
  int variant_;
  bool full_;
  Backend& backend_;
};

}  // namespace lift
