#include "server/model/checkpoint/gguf_config.h"

#include <algorithm>
#include <array>
#include <set>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/model/checkpoint/architecture.h"
#include "server/model/checkpoint/quoted.h"

namespace lift {
namespace {

constexpr char kRopeFactors[] = "rope_freqs.weight";

absl::Status Unsupported(const GgufFile& file, const std::string& what,
                         const std::string& instead) {
  return absl::UnimplementedError(
      absl::StrCat(file.name(), ": ", what, " is not supported; ", instead));
}

// The keys of one architecture, e.g. "llama.block_count".
class Keys {
 public:
  Keys(const GgufFile& file, std::string architecture)
      : file_(file), prefix_(std::move(architecture) + ".") {}
  std::string operator()(const char* key) const { return prefix_ + key; }
  absl::StatusOr<int64_t> Int(const char* key) const {
    return Required(file_.GetInt((*this)(key)));
  }
  absl::StatusOr<int64_t> Int(const char* key, int64_t absent) const {
    return file_.GetInt((*this)(key), absent);
  }
  absl::StatusOr<double> Number(const char* key, double absent) const {
    return file_.GetFloat((*this)(key), absent);
  }

 private:
  // A file without a required key is wrong input, not a missing file.
  template <typename T>
  static absl::StatusOr<T> Required(absl::StatusOr<T> value) {
    if (absl::IsNotFound(value.status()))
      return absl::InvalidArgumentError(value.status().message());
    return value;
  }
  const GgufFile& file_;
  std::string prefix_;
};

absl::Status RefuseKinds(const GgufFile& file, const Keys& keys, const Architecture& architecture) {
  LIFT_ASSIGN_OR_RETURN(const std::string_view type, file.GetString("general.type", "model"));
  if (type != "model") {
    return Unsupported(file, absl::StrCat("general.type ", Quoted(type)),
                       "a whole model is expected");
  }
  LIFT_ASSIGN_OR_RETURN(const int64_t splits, file.GetInt("split.count", 0));
  if (splits > 1)
    return Unsupported(file, "a model split over several GGUF files", "merge them into one file");
  LIFT_ASSIGN_OR_RETURN(const int64_t window, keys.Int("attention.sliding_window", 0));
  if (window > 0 && !architecture.layer_windows)
    return Unsupported(file, "attention.sliding_window", "use a model with full attention");
  return absl::OkStatus();
}

// A number, or an array of equal numbers (one a layer).
absl::StatusOr<int64_t> UniformInt(const GgufFile& file, const std::string& key, int64_t absent) {
  const absl::StatusOr<std::vector<int64_t>> list = file.GetInts(key);
  if (!list.ok()) return file.GetInt(key, absent);
  if (list->empty() ||
      std::any_of(list->begin(), list->end(), [&](int64_t n) { return n != list->front(); })) {
    return Unsupported(file, absl::StrCat(key, " that differs between layers"),
                       "all layers must be alike");
  }
  return list->front();
}

absl::Status ReadHeads(const GgufFile& file, const Keys& keys, ModelConfig& config) {
  LIFT_ASSIGN_OR_RETURN(config.intermediate_size, UniformInt(file, keys("feed_forward_length"), 0));
  LIFT_ASSIGN_OR_RETURN(config.num_heads, UniformInt(file, keys("attention.head_count"), 0));
  LIFT_ASSIGN_OR_RETURN(config.num_kv_heads,
                        UniformInt(file, keys("attention.head_count_kv"), config.num_heads));
  if (config.num_heads < 1) {
    return absl::InvalidArgumentError(absl::StrCat(file.name(), ": ", keys("attention.head_count"),
                                                   " is missing or not positive"));
  }
  LIFT_ASSIGN_OR_RETURN(config.head_dim,
                        keys.Int("attention.key_length", config.hidden_size / config.num_heads));
  LIFT_ASSIGN_OR_RETURN(const int64_t value_dim,
                        keys.Int("attention.value_length", config.head_dim));
  if (value_dim != config.head_dim) {
    return Unsupported(file, "attention.value_length other than attention.key_length",
                       "use a model where they are equal");
  }
  return absl::OkStatus();
}

absl::Status ReadSizes(const GgufFile& file, const Keys& keys, bool recurrent,
                       ModelConfig& config) {
  LIFT_ASSIGN_OR_RETURN(config.hidden_size, keys.Int("embedding_length"));
  LIFT_ASSIGN_OR_RETURN(config.num_layers, keys.Int("block_count"));
  LIFT_ASSIGN_OR_RETURN(config.max_context, keys.Int("context_length"));
  if (!recurrent) LIFT_RETURN_IF_ERROR(ReadHeads(file, keys, config));
  LIFT_ASSIGN_OR_RETURN(const double eps, keys.Number("attention.layer_norm_rms_epsilon", 0.0));
  config.rms_norm_eps = static_cast<float>(eps);
  // Not every converter writes vocab_size; the token list is what the rows stand for.
  int64_t tokens = 0;
  if (file.Has("tokenizer.ggml.tokens")) {
    LIFT_ASSIGN_OR_RETURN(const std::vector<std::string_view> list,
                          file.GetStrings("tokenizer.ggml.tokens"));
    tokens = static_cast<int64_t>(list.size());
  }
  LIFT_ASSIGN_OR_RETURN(config.vocab_size, keys.Int("vocab_size", tokens));
  if (tokens > config.vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat(file.name(), ": the tokenizer has ", tokens,
                                                   " tokens, but vocab_size is ",
                                                   config.vocab_size));
  }
  return absl::OkStatus();
}

absl::Status ReadRope(const GgufFile& file, const Keys& keys, std::string_view architecture,
                      ModelConfig& config) {
  RopeConfig& rope = config.rope;
  // The converter reorders q and k rows of llama for neighbouring pairs; qwen2 keeps halves.
  rope.interleaved = architecture == "llama";
  LIFT_ASSIGN_OR_RETURN(rope.theta, keys.Number("rope.freq_base", 10000.0));
  LIFT_ASSIGN_OR_RETURN(rope.dimension, keys.Int("rope.dimension_count", config.head_dim));
  LIFT_ASSIGN_OR_RETURN(const std::string_view type,
                        file.GetString(keys("rope.scaling.type"), "none"));
  LIFT_ASSIGN_OR_RETURN(rope.factor, keys.Number("rope.scaling.factor", 1.0));
  LIFT_ASSIGN_OR_RETURN(const double old_factor, keys.Number("rope.scale_linear", 1.0));
  if (type == "linear") {
    rope.scaling = RopeConfig::Scaling::kLinear;
  } else if (type == "none") {
    rope.factor = old_factor;
    if (old_factor != 1.0) rope.scaling = RopeConfig::Scaling::kLinear;
  } else {
    return Unsupported(file, absl::StrCat("rope.scaling.type = ", std::string(type)),
                       "supported are none and linear");
  }
  const GgufTensor* factors = file.FindTensor(kRopeFactors);
  if (factors == nullptr) return absl::OkStatus();
  if (factors->type != DType::kF32 || factors->dims.size() != 1 || factors->dims[0] > 4096) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.name(), ": tensor ", kRopeFactors, " must be a short F32 vector"));
  }
  rope.frequency_factors.resize(static_cast<size_t>(factors->dims[0]));
  Dequantize(DType::kF32, factors->bytes.data(), rope.frequency_factors);
  return absl::OkStatus();
}

// Ends of a turn that files name only by their text (llama.cpp looks for the same ones).
absl::Status AddEndTokens(const GgufFile& file, std::vector<int64_t>& ids) {
  if (!file.Has("tokenizer.ggml.tokens")) return absl::OkStatus();
  static const std::set<std::string_view> kEnds = {"<|eot_id|>", "<|eom_id|>",    "<|im_end|>",
                                                   "<|end|>",    "<|endoftext|>", "<end_of_turn>"};
  LIFT_ASSIGN_OR_RETURN(const std::vector<std::string_view> tokens,
                        file.GetStrings("tokenizer.ggml.tokens"));
  for (size_t i = 0; i < tokens.size(); ++i) {
    const int64_t id = static_cast<int64_t>(i);
    if (kEnds.contains(tokens[i]) && std::find(ids.begin(), ids.end(), id) == ids.end())
      ids.push_back(id);
  }
  return absl::OkStatus();
}

absl::Status ReadTokens(const GgufFile& file, ModelConfig& config) {
  LIFT_ASSIGN_OR_RETURN(config.bos_token_id, file.GetInt("tokenizer.ggml.bos_token_id", -1));
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id"}) {
    LIFT_ASSIGN_OR_RETURN(const int64_t id, file.GetInt(key, -1));
    std::vector<int64_t>& ids = config.eos_token_ids;
    if (id != -1 && std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  }
  LIFT_RETURN_IF_ERROR(AddEndTokens(file, config.eos_token_ids));
  if (config.bos_token_id < 0) return absl::OkStatus();
  // Files without the flag mean what llama.cpp assumes: Llama tokenizers put BOS in front.
  LIFT_ASSIGN_OR_RETURN(const std::string_view model, file.GetString("tokenizer.ggml.model", ""));
  LIFT_ASSIGN_OR_RETURN(const std::string_view pre, file.GetString("tokenizer.ggml.pre", ""));
  const bool llama_like =
      model == "llama" || pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3";
  LIFT_ASSIGN_OR_RETURN(config.add_bos, file.GetBool("tokenizer.ggml.add_bos_token", llama_like));
  return absl::OkStatus();
}

absl::StatusOr<const Architecture*> FindArchitecture(const GgufFile& file) {
  LIFT_ASSIGN_OR_RETURN(const std::string_view name, file.GetString("general.architecture", ""));
  LIFT_ASSIGN_OR_RETURN(const int64_t experts,
                        file.GetInt(absl::StrCat(std::string(name), ".expert_count"), 0));
  const Architecture* architecture = FindGguf(name, experts > 0);
  if (architecture != nullptr) return architecture;
  if (experts > 0 && FindGguf(name, false) != nullptr) {
    return Unsupported(file, absl::StrCat("a mixture of experts in a ", std::string(name)),
                       "use a dense model or Mixtral");
  }
  return Unsupported(file, absl::StrCat("general.architecture ", Quoted(name)),
                     "supported are " + SupportedNames(/*gguf=*/true));
}

}  // namespace

absl::StatusOr<ModelConfig> ConfigFromGguf(const GgufFile& file) {
  ModelConfig config;
  LIFT_ASSIGN_OR_RETURN(const Architecture* architecture, FindArchitecture(file));
  config.architecture = std::string(architecture->name);
  const Keys keys(file, std::string(architecture->gguf));
  LIFT_RETURN_IF_ERROR(RefuseKinds(file, keys, *architecture));
  LIFT_ASSIGN_OR_RETURN(const std::string_view name, file.GetString("general.name", ""));
  config.name = std::string(name.substr(0, 256));
  LIFT_RETURN_IF_ERROR(ReadSizes(file, keys, architecture->recurrent, config));
  if (!architecture->recurrent)
    LIFT_RETURN_IF_ERROR(ReadRope(file, keys, architecture->gguf, config));
  LIFT_RETURN_IF_ERROR(ReadTokens(file, config));
  config.tie_embeddings = file.FindTensor("output.weight") == nullptr;
  if (architecture->read_gguf) LIFT_RETURN_IF_ERROR(architecture->read_gguf(file, config));
  if (const absl::Status valid = config.Validate(); !valid.ok()) {
    return absl::Status(valid.code(), absl::StrCat(file.name(), ": ", valid.message()));
  }
  return config;
}

absl::StatusOr<StoredTensors> CanonicalTensors(const GgufFile& file, const ModelConfig& config) {
  LIFT_ASSIGN_OR_RETURN(const Architecture* architecture, FindArchitecture(file));
  StoredTensors tensors;
  for (const GgufTensor& tensor : file.tensors()) {
    StoredTensor stored;
    stored.type_name = std::string(DTypeName(tensor.type));
    stored.type = tensor.type;
    stored.shape.assign(tensor.dims.rbegin(), tensor.dims.rend());
    stored.bytes = tensor.bytes;
    tensors.by_name.emplace(CanonicalName(architecture->gguf_names, tensor.name),
                            std::move(stored));
  }
  if (architecture->split)
    LIFT_RETURN_IF_ERROR(architecture->split(config, /*gguf=*/true, tensors));
  return tensors;
}

}  // namespace lift
