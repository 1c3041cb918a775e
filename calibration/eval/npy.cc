#include "calibration/eval/npy.h"

#include "absl/strings/str_cat.h"

namespace lift {

absl::StatusOr<NpyWriter> NpyWriter::Create(const std::string& path, int64_t rows, int64_t cols) {
  NpyWriter writer(path, rows * cols);
  if (!writer.out_) return absl::InvalidArgumentError(absl::StrCat("cannot create '", path, "'"));
  std::string header =
      absl::StrCat("{'descr': '<f4', 'fortran_order': False, 'shape': (", rows, ", ", cols, "), }");
  header.resize((10 + header.size() + 64) / 64 * 64 - 10, ' ');
  header.back() = '\n';
  const auto size = static_cast<uint16_t>(header.size());
  const char prefix[] = {'\x93',
                         'N',
                         'U',
                         'M',
                         'P',
                         'Y',
                         1,
                         0,
                         static_cast<char>(size & 255),
                         static_cast<char>(size >> 8)};
  writer.out_.write(prefix, sizeof(prefix));
  writer.out_ << header;
  return writer;
}

absl::Status NpyWriter::Append(std::span<const float> values) {
  left_ -= static_cast<int64_t>(values.size());
  out_.write(reinterpret_cast<const char*>(values.data()),
             static_cast<std::streamsize>(values.size_bytes()));
  return out_ ? absl::OkStatus() : absl::InternalError(absl::StrCat("cannot write '", path_, "'"));
}

absl::Status NpyWriter::Close() {
  out_.close();
  if (out_ && left_ == 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("cannot write all of '", path_, "'"));
}

}  // namespace lift
