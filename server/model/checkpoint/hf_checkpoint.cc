#include <algorithm>
#include <filesystem>
#include <map>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/mapped_file.h"
#include "kernels/base/sha256.h"
#include "server/model/checkpoint/architecture.h"
#include "server/model/checkpoint/hf_config.h"
#include "server/model/checkpoint/json_fields.h"
#include "server/model/checkpoint/open_checkpoint.h"
#include "server/model/checkpoint/quoted.h"
#include "server/model/checkpoint/safetensors.h"
#include "server/model/checkpoint/tensor_spec.h"

namespace lift {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxSmallJson = 16 << 20;
constexpr size_t kMaxTokenizerJson = 256 << 20;

bool Exists(const std::string& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

absl::StatusOr<std::string> ReadIfThere(const std::string& path, size_t max_bytes) {
  return Exists(path) ? ReadTextFile(path, max_bytes) : absl::StatusOr<std::string>("");
}

absl::StatusOr<ModelConfig> ReadConfig(const std::string& folder) {
  HuggingFaceTexts texts;
  texts.source = folder;
  LIFT_ASSIGN_OR_RETURN(texts.config, ReadTextFile(folder + "/config.json", kMaxSmallJson));
  LIFT_ASSIGN_OR_RETURN(texts.generation_config,
                        ReadIfThere(folder + "/generation_config.json", kMaxSmallJson));
  LIFT_ASSIGN_OR_RETURN(texts.tokenizer_config,
                        ReadIfThere(folder + "/tokenizer_config.json", kMaxSmallJson));
  LIFT_ASSIGN_OR_RETURN(texts.tokenizer,
                        ReadIfThere(folder + "/tokenizer.json", kMaxTokenizerJson));
  LIFT_ASSIGN_OR_RETURN(ModelConfig config, ConfigFromHuggingFace(texts));
  config.name = LastPathPart(folder);
  return config;
}

// Which shard holds each tensor. Shard names come from a file: they must not lead out of the
// folder.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& path) {
  LIFT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxTokenizerJson));
  LIFT_ASSIGN_OR_RETURN(const nlohmann::json index, ParseJsonObject(text, path));
  LIFT_ASSIGN_OR_RETURN(const JsonFields map, JsonFields(index, path).Object("weight_map"));
  std::map<std::string, std::string> shards;
  for (const auto& [tensor, shard] : index.at("weight_map").items()) {
    if (!shard.is_string()) return map.Wrong(Quoted(tensor).c_str(), "a file name");
    const std::string name = shard.get<std::string>();
    if (!absl::EndsWith(name, ".safetensors") ||
        name.find_first_of(std::string("/\\\0", 3)) != std::string::npos) {
      return map.Wrong(Quoted(tensor).c_str(),
                       "the name of a .safetensors file in the same folder");
    }
    shards[tensor] = name;
  }
  return shards;
}

absl::Status NoWeights(const std::string& folder) {
  if (Exists(folder + "/pytorch_model.bin") || Exists(folder + "/pytorch_model.bin.index.json")) {
    return absl::UnimplementedError(
        folder + ": pytorch_model.bin is not supported; convert the weights to safetensors");
  }
  return absl::NotFoundError(
      folder + ": neither model.safetensors nor model.safetensors.index.json is there");
}

class HuggingFaceCheckpoint final : public Checkpoint {
 public:
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& folder) {
    std::unique_ptr<HuggingFaceCheckpoint> checkpoint(new HuggingFaceCheckpoint());
    checkpoint->folder_ = folder;
    LIFT_ASSIGN_OR_RETURN(checkpoint->config_, ReadConfig(folder));
    LIFT_RETURN_IF_ERROR(checkpoint->OpenShards());
    if (checkpoint->architecture().gains_less_one) AddToGains(checkpoint->stored_, 1);
    if (const Architecture& a = checkpoint->architecture(); a.split) {
      if (const absl::Status split =
              a.split(checkpoint->config_, /*gguf=*/false, checkpoint->stored_);
          !split.ok())
        return absl::Status(split.code(), absl::StrCat(folder, ": ", split.message()));
    }
    const bool tied = checkpoint->config_.tie_embeddings;
    const auto ignored = [tied](const std::string& name) {
      // Old exports store the rotation's frequencies; a tied head may be stored once more.
      return absl::EndsWith(name, ".rotary_emb.inv_freq") ||
             absl::EndsWith(name, ".attention.bias") ||  // GPT-NeoX: its causal mask
             absl::EndsWith(name, ".attention.masked_bias") || (tied && name == "lm_head.weight");
    };
    LIFT_ASSIGN_OR_RETURN(checkpoint->tensors_, BindTensors(folder, checkpoint->config_,
                                                            checkpoint->stored_.by_name, ignored));
    checkpoint->stored_.by_name.clear();
    return checkpoint;
  }

  const ModelConfig& config() const override { return config_; }
  std::optional<DenseMatrixView> Find(const std::string& name) const override {
    return FindIn(tensors_, name);
  }
  std::vector<std::string> names() const override { return NamesOf(tensors_); }
  int64_t tensor_bytes() const override { return BytesOf(tensors_); }
  std::optional<std::string> folder() const override { return folder_; }
  std::string source_sha256() const override {
    Sha256 sha;
    for (const auto& [name, shard] : shards_) HashMapped(shard->file_bytes(), sha);
    return sha.HexDigest();
  }
  void LeaveResidentSet() const override {
    for (const auto& [name, shard] : shards_) lift::LeaveResidentSet(shard->file_bytes());
  }

 private:
  HuggingFaceCheckpoint() = default;

  absl::Status OpenShards() {
    if (Exists(folder_ + "/model.safetensors.index.json")) {
      LIFT_ASSIGN_OR_RETURN(const auto index, ReadIndex(folder_ + "/model.safetensors.index.json"));
      for (const auto& [tensor, shard] : index) LIFT_RETURN_IF_ERROR(AddTensor(tensor, shard));
      return absl::OkStatus();
    }
    const std::string single = "model.safetensors";
    if (!Exists(folder_ + "/" + single)) return NoWeights(folder_);
    LIFT_RETURN_IF_ERROR(OpenShard(single));
    for (const auto& [name, tensor] : shards_[single]->tensors()) Store(name, tensor);
    return absl::OkStatus();
  }

  absl::Status OpenShard(const std::string& shard) {
    if (shards_.contains(shard)) return absl::OkStatus();
    LIFT_ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file,
                          SafetensorsFile::Open(folder_ + "/" + shard));
    shards_[shard] = std::move(file);
    return absl::OkStatus();
  }

  absl::Status AddTensor(const std::string& tensor, const std::string& shard) {
    LIFT_RETURN_IF_ERROR(OpenShard(shard));
    const auto& tensors = shards_[shard]->tensors();
    const auto found = tensors.find(tensor);
    if (found == tensors.end()) {
      return absl::InvalidArgumentError(absl::StrCat(folder_, ": the index says that ", shard,
                                                     " holds tensor ", Quoted(tensor),
                                                     ", but it does not"));
    }
    Store(tensor, found->second);
    return absl::OkStatus();
  }

  void Store(const std::string& name, const SafetensorsTensor& tensor) {
    stored_.by_name[CanonicalName(architecture().hf_names, name)] = {tensor.dtype, tensor.type,
                                                                     tensor.shape, tensor.bytes};
  }
  const Architecture& architecture() const { return *FindHuggingFace(config_.architecture); }

  std::string folder_;
  ModelConfig config_;
  std::map<std::string, std::unique_ptr<SafetensorsFile>>
      shards_;            // by file name, which is the order of the digest
  StoredTensors stored_;  // by_name while opening, copies as long as this lives
  BoundTensors tensors_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenHuggingFaceCheckpoint(const std::string& folder) {
  return HuggingFaceCheckpoint::Open(folder);
}

}  // namespace lift
