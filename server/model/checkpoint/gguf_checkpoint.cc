#include <utility>

#include "kernels/base/mapped_file.h"
#include "kernels/base/sha256.h"
#include "server/model/checkpoint/gguf.h"
#include "server/model/checkpoint/gguf_config.h"
#include "server/model/checkpoint/open_checkpoint.h"
#include "server/model/checkpoint/tensor_spec.h"

namespace lift {
namespace {

class GgufCheckpoint final : public Checkpoint {
 public:
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& path) {
    std::unique_ptr<GgufCheckpoint> checkpoint(new GgufCheckpoint());
    LIFT_ASSIGN_OR_RETURN(checkpoint->file_, GgufFile::Open(path));
    LIFT_ASSIGN_OR_RETURN(checkpoint->config_, ConfigFromGguf(*checkpoint->file_));
    if (checkpoint->config_.name.empty()) checkpoint->config_.name = LastPathPart(path);
    // The factors are read into the config; nothing else may be left over.
    const auto ignored = [](const std::string& name) { return name == "rope_freqs.weight"; };
    LIFT_ASSIGN_OR_RETURN(checkpoint->stored_,
                          CanonicalTensors(*checkpoint->file_, checkpoint->config_));
    LIFT_ASSIGN_OR_RETURN(checkpoint->tensors_, BindTensors(path, checkpoint->config_,
                                                            checkpoint->stored_.by_name, ignored));
    checkpoint->stored_.by_name.clear();
    return checkpoint;
  }

  const ModelConfig& config() const override { return config_; }
  std::optional<DenseMatrixView> Find(const std::string& name) const override {
    return FindIn(tensors_, name);
  }
  std::vector<std::string> names() const override { return NamesOf(tensors_); }
  std::string source_sha256() const override {
    Sha256 sha;
    HashMapped(file_->file_bytes(), sha);
    return sha.HexDigest();
  }
  void LeaveResidentSet() const override { lift::LeaveResidentSet(file_->file_bytes()); }
  int64_t tensor_bytes() const override { return BytesOf(tensors_); }
  const GgufFile* gguf() const override { return file_.get(); }

 private:
  GgufCheckpoint() = default;
  std::unique_ptr<GgufFile> file_;
  ModelConfig config_;
  StoredTensors stored_;  // by_name while opening, copies as long as this lives
  BoundTensors tensors_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenGgufCheckpoint(const std::string& path) {
  return GgufCheckpoint::Open(path);
}

}  // namespace lift
