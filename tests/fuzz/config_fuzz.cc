// config.json and its neighbours, and the product's own form of a config. Zero bytes separate the
// files.
#include <algorithm>

#include "kernels/base/check.h"
#include "server/model/checkpoint/hf_config.h"
#include "server/model/model_config.h"
#include "tests/fuzz/fuzz_target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text = lift::InputText(data, size);
  (void)lift::ModelConfig::FromJson(text);
  lift::HuggingFaceTexts texts;
  texts.source = "fuzz";
  std::string* const files[] = {&texts.config, &texts.generation_config, &texts.tokenizer_config,
                                &texts.tokenizer};
  size_t begin = 0;
  for (std::string* file : files) {
    const size_t end = std::min(text.find('\0', begin), text.size());
    *file = text.substr(begin, end - begin);
    begin = std::min(end + 1, text.size());
  }
  const auto config = lift::ConfigFromHuggingFace(texts);
  if (!config.ok()) return 0;
  const auto back = lift::ModelConfig::FromJson(config->ToJson());
  LIFT_CHECK(back.ok());
  LIFT_CHECK(back->ToJson() == config->ToJson());
  return 0;
}
