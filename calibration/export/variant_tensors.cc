#include "calibration/export/variant_tensors.h"

#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "server/model/checkpoint/architecture.h"
#include "server/model/checkpoint/tensor_spec.h"

namespace lift {
namespace {

absl::StatusOr<RowSource> Source(const Weights& weights, const TensorSpec& spec) {
  RowSource source;
  if (source.values = weights.GetVector(spec.name); !source.values.empty()) return source;
  LIFT_ASSIGN_OR_RETURN(source.matrix, weights.GetMatrix(spec.name));
  return source;
}

int64_t Count(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t n : shape) count *= n;
  return count;
}

ExportTensor Plain(const TensorSpec& spec, RowSource source) {
  ExportTensor tensor{spec.name, spec.shape, 0, 0, {source}};
  tensor.rows = source.matrix || spec.shape.size() > 1 ? spec.shape[0] : 1;
  tensor.cols = Count(spec.shape) / tensor.rows;
  return tensor;
}

// Joins what `fused` names; a bias is fused element by element.
ExportTensor Join(const FusedTensor& fused, const std::vector<const TensorSpec*>& specs,
                  std::vector<RowSource> parts) {
  ExportTensor tensor;
  tensor.name = fused.name;
  tensor.shape = specs[0]->shape;
  tensor.shape[0] *= static_cast<int64_t>(specs.size());
  tensor.rows = tensor.shape[0];
  tensor.cols = Count(tensor.shape) / tensor.rows;
  tensor.parts = std::move(parts);
  tensor.heads = fused.heads;
  return tensor;
}

// GGUF's llama files reorder the rows of q and k for rotation of neighbours.
void Unpair(const ModelConfig& config, ExportTensor& tensor) {
  if (!config.rope.interleaved) return;
  const bool q = tensor.name.find(".q_proj.") != std::string::npos,
             k = tensor.name.find(".k_proj.") != std::string::npos;
  if (!q && !k) return;
  tensor.unpair = true;
  tensor.heads = q ? config.num_heads : config.num_kv_heads;
  if (tensor.shape.size() == 1) tensor.rows = tensor.shape[0], tensor.cols = 1;
}

}  // namespace

absl::StatusOr<ExportTensor> CanonicalTensor(const Weights& weights, const std::string& name) {
  for (const TensorSpec& spec : ModelTensors(weights.config())) {
    if (spec.name != name) continue;
    LIFT_ASSIGN_OR_RETURN(const RowSource source, Source(weights, spec));
    ExportTensor tensor = Plain(spec, source);
    Unpair(weights.config(), tensor);
    return tensor;
  }
  return absl::InternalError(absl::StrCat("the model has no tensor '", name, "'"));
}

absl::StatusOr<std::vector<ExportTensor>> ExportTensors(const Weights& weights) {
  const ModelConfig& config = weights.config();
  const Architecture* architecture = FindHuggingFace(config.architecture);
  LIFT_CHECK(architecture != nullptr);
  const std::vector<TensorSpec> specs = ModelTensors(config);
  std::map<std::string, const TensorSpec*> by_name;
  for (const TensorSpec& spec : specs) by_name[spec.name] = &spec;

  std::vector<ExportTensor> tensors;
  std::set<std::string> joined;
  if (architecture->fused) {
    for (const FusedTensor& fused : architecture->fused(config)) {
      std::vector<const TensorSpec*> of;
      std::vector<RowSource> parts;
      for (const std::string& part : fused.parts) {
        of.push_back(by_name.at(part));
        LIFT_ASSIGN_OR_RETURN(parts.emplace_back(), Source(weights, *of.back()));
        joined.insert(part);
      }
      tensors.push_back(Join(fused, of, std::move(parts)));
    }
  }
  for (const TensorSpec& spec : specs) {
    if (joined.contains(spec.name)) continue;
    LIFT_ASSIGN_OR_RETURN(const RowSource source, Source(weights, spec));
    tensors.push_back(Plain(spec, source));
    Unpair(config, tensors.back());
    if (architecture->gains_less_one && IsGain(spec.name)) tensors.back().offset = -1;
  }
  for (ExportTensor& tensor : tensors)
    tensor.name = StoredName(architecture->hf_names, tensor.name);
  return tensors;
}

VariantReader::VariantReader(const Weights& weights, int variant, Backend& backend)
    : variant_(variant),
      full_(weights.variants()[static_cast<size_t>(variant)].full),
      backend_(backend) {}

void VariantReader::MatrixRow(const Matrix& matrix, int64_t row, std::span<float> out) const {
  LIFT_CHECK(out.size() == static_cast<size_t>(matrix.cols));
  if (full_ || matrix.lifted.empty()) {
    Dequantize(matrix.dense->type, matrix.dense->row(row), out);
    return;
  }
  const auto [strip, strip_row] = matrix.StripOf(row);
  backend_.LiftedRow(*strip, strip_row, variant_, out.data());
}

void VariantReader::Row(const ExportTensor& tensor, int64_t row, std::span<float> out) const {
  const auto parts = static_cast<int64_t>(tensor.parts.size());
  const int64_t head_rows = tensor.rows / (tensor.heads * parts);
  const int64_t head = row / (head_rows * parts), within = row % head_rows;
  const RowSource& part = tensor.parts[static_cast<size_t>(row / head_rows % parts)];
  int64_t at = head * head_rows + within;
  if (tensor.unpair) {
    const int64_t half = head_rows / 2;
    at = head * head_rows + 2 * (within % half) + within / half;
  }
  if (part.matrix) return MatrixRow(*part.matrix, at, out);
  std::copy_n(part.values.begin() + at * tensor.cols, tensor.cols, out.begin());
  for (float& value : out) value += tensor.offset;
}

}  // namespace lift
