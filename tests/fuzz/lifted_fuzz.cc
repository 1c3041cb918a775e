// The lifted file. Checksums would hide everything behind them, so each input is read as it is and
// once more with its checksums made right.
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/format/layout.h"
#include "kernels/format/lifted_file.h"
#include "tests/fuzz/fuzz_target.h"

namespace {

namespace format = lift::format;

void Read(std::span<const std::byte> bytes, bool verify) {
  const auto file = lift::LiftedFile::FromBytes(bytes, {.verify_planes = verify});
  if (!file.ok()) return;
  lift::Touch((*file)->planes());
  for (const lift::LiftedVector& vector : (*file)->vectors())
    lift::Touch(std::as_bytes(vector.values));
  for (const lift::LiftedTensor& tensor : (*file)->tensors()) {
    lift::Touch(std::as_bytes(tensor.row_scale));
    if (tensor.source) lift::Touch({tensor.source->data, tensor.source->bytes()});
  }
  for (const lift::LiftedVariant& variant : (*file)->variants()) {
    for (size_t t = 0; t < (*file)->tensors().size(); ++t)
      (void)(*file)->StageRows(static_cast<int>(t), variant.plane_bytes);
    (void)(*file)->VerifyPlanes(variant.plane_bytes);
  }
}

void PutCrc(std::vector<std::byte>& bytes, size_t at, size_t begin, size_t count) {
  const uint32_t crc = format::Crc32(std::span(bytes).subspan(begin, count));
  std::memcpy(&bytes[at], &crc, sizeof(crc));
}

// Checksums of the sections that lie inside the file, of the section table and of the header.
void Reseal(std::vector<std::byte>& bytes) {
  if (bytes.size() < format::kHeaderBytes) return;
  uint32_t count = 0;
  std::memcpy(&count, &bytes[32], sizeof(count));
  count = std::min(count, format::kSectionKinds);
  const size_t table = count * format::kSectionEntryBytes;
  if (bytes.size() < format::kHeaderBytes + table) return;
  for (uint32_t i = 0; i < count; ++i) {
    const size_t entry = format::kHeaderBytes + i * format::kSectionEntryBytes;
    uint64_t offset = 0, length = 0;
    std::memcpy(&offset, &bytes[entry + 8], sizeof(offset));
    std::memcpy(&length, &bytes[entry + 16], sizeof(length));
    if (offset > bytes.size() || length > bytes.size() - offset) continue;
    PutCrc(bytes, entry + 4, static_cast<size_t>(offset), static_cast<size_t>(length));
  }
  PutCrc(bytes, 36, format::kHeaderBytes, table);
  PutCrc(bytes, 60, 0, 60);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> input = lift::InputBytes(data, size);
  Read(input, true);
  std::vector<std::byte> sealed(input.begin(), input.end());
  Reseal(sealed);
  Read(sealed, true);
  Read(sealed, false);
  return 0;
}
