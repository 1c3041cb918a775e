// GGUF: the container, the hyperparameters in it, its tensors and its tokenizer.
#include "kernels/base/check.h"
#include "server/model/checkpoint/gguf.h"
#include "server/model/checkpoint/gguf_config.h"
#include "server/model/checkpoint/tensor_spec.h"
#include "server/tokenizer/gguf_spec.h"
#include "server/tokenizer/tokenizer.h"
#include "tests/fuzz/fuzz_target.h"

namespace {

void ReadAllValues(const lift::GgufFile& file) {
  for (const std::string_view key : file.keys()) {
    (void)file.GetString(key);
    (void)file.GetInt(key);
    (void)file.GetFloat(key);
    (void)file.GetBool(key);
    (void)file.GetStrings(key);
    (void)file.GetInts(key);
    (void)file.GetFloats(key);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = lift::GgufFile::Parse(lift::InputBytes(data, size), "fuzz");
  if (!file.ok()) return 0;
  ReadAllValues(**file);
  for (const lift::GgufTensor& tensor : (*file)->tensors()) lift::Touch(tensor.bytes);
  if (const auto spec = lift::ReadGgufTokenizer(**file); spec.ok())
    (void)lift::Tokenizer::Create(*spec);
  const auto config = lift::ConfigFromGguf(**file);
  if (!config.ok()) return 0;
  LIFT_CHECK(lift::ModelConfig::FromJson(config->ToJson()).ok());
  const auto stored = lift::CanonicalTensors(**file, *config);
  if (!stored.ok()) return 0;
  const auto bound =
      lift::BindTensors("fuzz", *config, stored->by_name,
                        [](const std::string& name) { return name == "rope_freqs.weight"; });
  if (!bound.ok()) return 0;
  std::vector<float> row;
  for (const auto& [name, view] : *bound) {
    row.resize(static_cast<size_t>(view.cols));
    lift::Dequantize(view.type, view.row(view.rows - 1), row);
  }
  return 0;
}
