// safetensors: header, extents and bytes.
#include "server/model/checkpoint/safetensors.h"
#include "tests/fuzz/fuzz_target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = lift::SafetensorsFile::Parse(lift::InputBytes(data, size), "fuzz");
  if (!file.ok()) return 0;
  for (const auto& [name, tensor] : (*file)->tensors()) lift::Touch(tensor.bytes);
  return 0;
}
