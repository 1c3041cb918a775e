#include "calibration/export/safetensors_export.h"

#include <nlohmann/json.hpp>

#include "calibration/export/output_file.h"
#include "calibration/export/variant_tensors.h"
#include "server/model/checkpoint/hf_config_writer.h"

namespace lift {
namespace {

using nlohmann::json;

// u64 header length, header padded with spaces to 8 bytes, data.
std::string Header(const std::vector<ExportTensor>& tensors) {
  json header = {{"__metadata__", {{"format", "pt"}}}};
  int64_t at = 0;
  for (const ExportTensor& tensor : tensors) {
    const int64_t bytes = tensor.rows * tensor.cols * static_cast<int64_t>(sizeof(float));
    header[tensor.name] = {
        {"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {at, at + bytes}}};
    at += bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string out(8, '\0');
  for (size_t i = 0; i < 8; ++i) out[i] = static_cast<char>(text.size() >> (8 * i) & 255);
  return out + text;
}

}  // namespace

absl::Status ExportSafetensors(const Weights& weights, int variant, Backend& backend,
                               const std::string& folder) {
  LIFT_ASSIGN_OR_RETURN(const json config, HuggingFaceConfigJson(weights.config()));
  LIFT_ASSIGN_OR_RETURN(const std::vector<ExportTensor> tensors, ExportTensors(weights));
  LIFT_RETURN_IF_ERROR(MakeExportFolder(folder, "config.json"));
  OutputFile file(folder + "/model.safetensors");
  file.Write(Header(tensors));
  const VariantReader reader(weights, variant, backend);
  std::vector<float> row;
  for (const ExportTensor& tensor : tensors) {
    row.resize(static_cast<size_t>(tensor.cols));
    for (int64_t r = 0; r < tensor.rows; ++r) {
      reader.Row(tensor, r, row);
      file.Write(row);
    }
  }
  LIFT_RETURN_IF_ERROR(file.Finish());
  OutputFile description(folder + "/config.json");
  description.Write(config.dump(2) + "\n");
  return description.Finish();
}

}  // namespace lift
