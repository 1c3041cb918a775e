// tokenizer.model; whatever is accepted must survive its own JSON and work on awkward text.
#include "kernels/base/check.h"
#include "server/tokenizer/sentencepiece_file.h"
#include "server/tokenizer/tokenizer.h"
#include "tests/fuzz/fuzz_target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto spec = lift::ParseSentencePieceModel(lift::InputText(data, size));
  if (!spec.ok()) return 0;
  const auto back = lift::TokenizerSpec::FromJson(spec->ToJson());
  LIFT_CHECK(back.ok());
  LIFT_CHECK(back->ToJson() == spec->ToJson());
  const auto tokenizer = lift::Tokenizer::Create(*spec);
  if (!tokenizer.ok()) return 0;
  const auto ids =
      (*tokenizer)->Encode(" Don't  stop 123 caf\xC3\xA9\xF0\x9F\x98\x80 <sep>qqqq\n\tABC ");
  LIFT_CHECK(ids.ok());
  LIFT_CHECK((*tokenizer)->Decode(*ids, false).ok());
  return 0;
}
