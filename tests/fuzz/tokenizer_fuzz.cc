// tokenizer.json and the product's own form of a tokenizer; whatever is accepted must then work.
#include "kernels/base/check.h"
#include "server/tokenizer/huggingface_spec.h"
#include "server/tokenizer/tokenizer.h"
#include "server/tokenizer/tokenizer_spec.h"
#include "tests/fuzz/fuzz_target.h"

namespace {

void Use(const lift::TokenizerSpec& spec) {
  const auto back = lift::TokenizerSpec::FromJson(spec.ToJson());
  LIFT_CHECK(back.ok());
  LIFT_CHECK(back->ToJson() == spec.ToJson());
  const auto tokenizer = lift::Tokenizer::Create(spec);
  if (!tokenizer.ok()) return;
  const auto ids =
      (*tokenizer)->Encode("Don't  stop 123 caf\xC3\xA9\xF0\x9F\x98\x80<|im_end|>\n\tx");
  if (!ids.ok()) return;
  LIFT_CHECK((*tokenizer)->Decode(*ids, false).ok());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text = lift::InputText(data, size);
  if (const auto spec = lift::TokenizerSpec::FromJson(text); spec.ok()) Use(*spec);
  lift::HuggingFaceTokenizerFiles files;
  files.tokenizer = text;
  if (const auto spec = lift::ParseHuggingFaceTokenizer(files); spec.ok()) Use(*spec);
  files.tokenizer = R"({"model":{"type":"BPE","vocab":{"a":0},"merges":[]}})";
  files.tokenizer_config = files.generation_config = text;
  (void)lift::ParseHuggingFaceTokenizer(files);
  return 0;
}
