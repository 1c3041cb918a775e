// Chat templates: compiled and rendered.
#include "server/tokenizer/chat_template.h"
#include "tests/fuzz/fuzz_target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto compiled = lift::ChatTemplate::Compile(lift::InputText(data, size));
  if (!compiled.ok()) return 0;
  lift::ChatTemplate::Options options;
  options.bos_token = "<s>";
  options.eos_token = "</s>";
  options.unix_time = 1700000000;
  (void)(*compiled)->Render({{"system", "Be brief."},
                             {"user", " Hi {{ x }} "},
                             {"assistant", "caf\xC3\xA9"},
                             {"user", ""}},
                            options);
  (void)(*compiled)->Render({}, options);
  return 0;
}
