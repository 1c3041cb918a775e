// Any bytes as a prompt, and any ids as an answer, through a real tokenizer.
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

#include "kernels/base/check.h"
#include "server/tokenizer/huggingface_spec.h"
#include "server/tokenizer/tokenizer.h"
#include "tests/fuzz/fuzz_target.h"

namespace {

const lift::Tokenizer& TinyTokenizer() {
  static const std::shared_ptr<const lift::Tokenizer> tokenizer = [] {
    const auto spec = lift::LoadHuggingFaceTokenizer(LIFT_TEST_DATA "/tiny/tiny-bias");
    LIFT_CHECK(spec.ok());
    return lift::Tokenizer::Create(*spec).value();
  }();
  return *tokenizer;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const lift::Tokenizer& tokenizer = TinyTokenizer();
  const std::string text = lift::InputText(data, size);
  for (const bool parse_special : {false, true}) {
    const auto ids = tokenizer.Encode(text, {.add_special = false, .parse_special = parse_special});
    if (!ids.ok()) break;
    const auto back = tokenizer.DecodeBytes(*ids, false);
    LIFT_CHECK(back.ok());
    LIFT_CHECK(*back == text);  // byte-level: nothing is lost
  }
  // Two bytes an id: a stream of pieces must add up to the whole, whatever the ids are.
  lift::StreamDecoder stream(tokenizer, false);
  std::vector<int32_t> ids;
  std::string pieces;
  for (size_t i = 0; i + 1 < size; i += 2) {
    ids.push_back((data[i] | data[i + 1] << 8) % static_cast<int32_t>(tokenizer.vocab_size()));
    pieces += stream.Push(ids.back());
  }
  pieces += stream.Flush();
  const auto whole = tokenizer.Decode(ids, false);
  LIFT_CHECK(whole.ok());
  LIFT_CHECK(*whole == pieces);
  return 0;
}
