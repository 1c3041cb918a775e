#include "server/model/checkpoint/tensor_spec.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/model/checkpoint/quoted.h"
#include "server/model/model_layout.h"

namespace lift {
namespace {

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::StatusOr<DenseMatrixView> Bind(const std::string& source, const TensorSpec& spec,
                                     const StoredTensor& tensor) {
  if (tensor.shape != spec.shape) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": tensor ", spec.name, " has shape ", ShapeText(tensor.shape),
                     ", but the config asks for ", ShapeText(spec.shape),
                     "; weights and config do not belong together"));
  }
  if (!tensor.type) {
    return absl::UnimplementedError(
        absl::StrCat(source, ": tensor ", spec.name, " has element type ", tensor.type_name,
                     ", which is not supported for weights; use F32, F16 or BF16"));
  }
  DenseMatrixView view;
  view.type = *tensor.type;
  view.rows = spec.shape.size() == 1 ? 1 : spec.shape[0];
  view.cols = spec.shape.back();
  view.data = tensor.bytes.data();
  return view;
}

}  // namespace

std::vector<TensorSpec> ModelTensors(const ModelConfig& config) {
  std::vector<TensorSpec> specs;
  for (const layout::MatrixSpec& m : layout::Matrices(config))
    specs.push_back({m.name, {m.rows, m.cols}});
  for (const layout::VectorSpec& v : layout::Vectors(config)) {
    specs.push_back({v.name, {v.size}});
    if (v.rows > 1) specs.back().shape = {v.rows, v.size / v.rows};
    if (!v.shape.empty()) specs.back().shape = v.shape;
  }
  return specs;
}

std::optional<DenseMatrixView> FindIn(const BoundTensors& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) return std::nullopt;
  return found->second;
}

std::vector<std::string> NamesOf(const BoundTensors& tensors) {
  std::vector<std::string> names;
  names.reserve(tensors.size());
  for (const auto& [name, view] : tensors) names.push_back(name);
  return names;
}

int64_t BytesOf(const BoundTensors& tensors) {
  int64_t bytes = 0;
  for (const auto& [name, view] : tensors) bytes += static_cast<int64_t>(view.bytes());
  return bytes;
}

absl::StatusOr<BoundTensors> BindTensors(const std::string& source, const ModelConfig& config,
                                         const std::map<std::string, StoredTensor>& stored,
                                         const std::function<bool(const std::string&)>& ignored) {
  BoundTensors bound;
  for (const TensorSpec& spec : ModelTensors(config)) {
    const auto found = stored.find(spec.name);
    if (found == stored.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(source, ": tensor ", spec.name, " of shape ", ShapeText(spec.shape),
                       " is missing; the download may be incomplete"));
    }
    LIFT_ASSIGN_OR_RETURN(bound[spec.name], Bind(source, spec, found->second));
  }
  for (const auto& [name, tensor] : stored) {
    if (bound.contains(name) || ignored(name)) continue;
    return absl::UnimplementedError(
        absl::StrCat(source, ": tensor ", Quoted(name), " is not part of a ", config.architecture,
                     " model as the config describes it, so ignoring it would change the results"));
  }
  return bound;
}

}  // namespace lift
