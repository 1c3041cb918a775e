#include "calibration/export/output_file.h"

#include <filesystem>

#include "absl/strings/str_cat.h"

namespace lift {

namespace fs = std::filesystem;

absl::Status MakeExportFolder(const std::string& folder, const std::string& file) {
  std::error_code failed;
  fs::create_directories(folder, failed);
  if (failed || !fs::is_directory(folder)) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot make the folder '", folder, "': ", failed.message()));
  }
  if (fs::exists(fs::path(folder) / file)) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", folder, "' already holds ", file, "; give another folder"));
  }
  return absl::OkStatus();
}

absl::Status OutputFile::Finish() {
  out_.close();
  std::error_code failed;
  if (out_) fs::rename(path_ + ".tmp", path_, failed);
  if (!out_ || failed) return absl::InternalError(absl::StrCat("cannot write '", path_, "'"));
  finished_ = true;
  return absl::OkStatus();
}

OutputFile::~OutputFile() {
  std::error_code ignored;
  if (!finished_) fs::remove(path_ + ".tmp", ignored);
}

}  // namespace lift
