// Constraints: parsed, compiled for a small vocabulary, and answered.
#include "tests/fuzz/constraint_target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  lift::CompileAndAnswer(lift::ConstraintSource::Regex(lift::InputText(data, size)));
  return 0;
}
