#include "server/model/checkpoint/checkpoint.h"

#include <array>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "server/model/checkpoint/open_checkpoint.h"

namespace lift {
namespace {

namespace fs = std::filesystem;

bool IsFolderWithConfig(const std::string& path) {
  std::error_code ignored;
  return fs::is_regular_file(fs::path(path) / "config.json", ignored);
}

bool HasGgufMagic(const std::string& path) {
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) return false;
  std::array<char, 4> magic{};
  std::ifstream file(path, std::ios::binary);
  return file.read(magic.data(), magic.size()) &&
         std::string_view(magic.data(), magic.size()) == "GGUF";
}

}  // namespace

bool LooksLikeCheckpoint(const std::string& path) {
  return IsFolderWithConfig(path) || HasGgufMagic(path);
}

std::string LastPathPart(const std::string& path) {
  std::error_code failed;
  const fs::path absolute = fs::absolute(path, failed).lexically_normal();
  return absolute.has_filename() ? absolute.filename().string()
                                 : absolute.parent_path().filename().string();
}

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& path) {
  std::error_code failed;
  const fs::file_status status = fs::status(path, failed);
  if (!fs::exists(status)) return absl::NotFoundError(absl::StrCat("there is no model at ", path));
  if (fs::is_directory(status)) {
    if (!IsFolderWithConfig(path)) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, " has no config.json; give a Hugging Face model folder or a GGUF file"));
    }
    return OpenHuggingFaceCheckpoint(path);
  }
  return OpenGgufCheckpoint(path);
}

}  // namespace lift
