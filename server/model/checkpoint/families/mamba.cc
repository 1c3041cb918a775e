// Mamba-1 and Mamba-2. Canonical names are Hugging Face's with model.layers for backbone.layers.
#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "server/model/checkpoint/families/families.h"

namespace lift::families {
namespace {

constexpr NameRule kHfNames[] = {
    {"backbone.embeddings", "model.embed_tokens"},
    {"backbone.norm_f", "model.norm"},
    {"backbone.layers.#.norm", "model.layers.#.input_layernorm"},
    {"backbone.layers.#.mixer.in_proj", "model.layers.#.mixer.in_proj"},
    {"backbone.layers.#.mixer.x_proj", "model.layers.#.mixer.x_proj"},
    {"backbone.layers.#.mixer.dt_proj", "model.layers.#.mixer.dt_proj"},
    {"backbone.layers.#.mixer.out_proj", "model.layers.#.mixer.out_proj"},
    {"backbone.layers.#.mixer.conv1d", "model.layers.#.mixer.conv1d"},
    {"backbone.layers.#.mixer.norm", "model.layers.#.mixer.norm"},
    {"backbone.layers.#.mixer", "model.layers.#.mixer"},  // A_log, D, dt_bias
};

constexpr NameRule kGgufNames[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
    {"blk.#.attn_norm", "model.layers.#.input_layernorm"},
    {"blk.#.ssm_in", "model.layers.#.mixer.in_proj"},
    {"blk.#.ssm_x", "model.layers.#.mixer.x_proj"},
    {"blk.#.ssm_dt", "model.layers.#.mixer.dt_proj"},
    {"blk.#.ssm_out", "model.layers.#.mixer.out_proj"},
    {"blk.#.ssm_conv1d", "model.layers.#.mixer.conv1d"},
    {"blk.#.ssm_norm", "model.layers.#.mixer.norm"},
    {"blk.#", "model.layers.#.mixer"},  // ssm_a, ssm_d
};

absl::Status ReadHfShared(const JsonFields& fields, ModelConfig& config) {
  SsmConfig& ssm = config.ssm;
  LIFT_ASSIGN_OR_RETURN(const double expand, fields.Number("expand", 2));
  if (!(expand > 0 && expand <= 64)) return fields.Wrong("expand", "a number up to 64");
  ssm.inner = static_cast<int64_t>(expand * static_cast<double>(config.hidden_size));
  LIFT_ASSIGN_OR_RETURN(ssm.conv_kernel, fields.Int("conv_kernel", 4));
  LIFT_ASSIGN_OR_RETURN(ssm.conv_bias, fields.Bool("use_conv_bias", true));
  LIFT_ASSIGN_OR_RETURN(ssm.bias, fields.Bool("use_bias", false));
  return absl::OkStatus();
}

absl::Status ReadHf1(const JsonFields& fields, ModelConfig& config) {
  SsmConfig& ssm = config.ssm;
  ssm.kind = SsmKind::kMamba1;
  LIFT_RETURN_IF_ERROR(ReadHfShared(fields, config));
  LIFT_ASSIGN_OR_RETURN(ssm.state, fields.Int("state_size", 16));
  LIFT_ASSIGN_OR_RETURN(config.tie_embeddings, fields.Bool("tie_word_embeddings", true));
  ssm.heads = ssm.inner, ssm.head_dim = 1;
  ssm.dt_rank = (config.hidden_size + 15) / 16;
  if (fields.Has("time_step_rank") && fields.at("time_step_rank") != "auto") {
    LIFT_ASSIGN_OR_RETURN(ssm.dt_rank, fields.Int("time_step_rank"));
  }
  return absl::OkStatus();
}

// No upper limit is written as Infinity (see ConfigFromHuggingFace) or as {"__float__":
// "Infinity"}.
absl::Status ReadTimeStepLimit(const JsonFields& fields, SsmConfig& ssm) {
  if (!fields.Has("time_step_limit")) return absl::OkStatus();
  const nlohmann::json& limit = fields.at("time_step_limit");
  if (!limit.is_array() || limit.size() != 2 || !limit[0].is_number())
    return fields.Wrong("time_step_limit", "two numbers");
  constexpr double kMost = std::numeric_limits<float>::max();
  const double high = limit[1].is_number() ? limit[1].get<double>() : kMost;
  ssm.dt_min = static_cast<float>(std::clamp(limit[0].get<double>(), -kMost, kMost));
  ssm.dt_max = static_cast<float>(std::clamp(high, -kMost, kMost));
  return absl::OkStatus();
}

absl::Status ReadHf2(const JsonFields& fields, ModelConfig& config) {
  SsmConfig& ssm = config.ssm;
  ssm.kind = SsmKind::kMamba2;
  LIFT_RETURN_IF_ERROR(ReadHfShared(fields, config));
  LIFT_ASSIGN_OR_RETURN(ssm.state, fields.Int("state_size", 128));
  LIFT_ASSIGN_OR_RETURN(ssm.heads, fields.Int("num_heads", 128));
  LIFT_ASSIGN_OR_RETURN(ssm.head_dim, fields.Int("head_dim", 64));
  LIFT_ASSIGN_OR_RETURN(ssm.groups, fields.Int("n_groups", 8));
  return ReadTimeStepLimit(fields, ssm);
}

void WriteHfShared(const ModelConfig& config, nlohmann::json& fields) {
  const SsmConfig& ssm = config.ssm;
  for (const char* key : {"num_attention_heads", "num_key_value_heads", "head_dim", "rope_theta",
                          "rope_scaling", "sliding_window", "rms_norm_eps"})
    fields.erase(key);
  fields["intermediate_size"] = ssm.inner;
  fields["expand"] = static_cast<double>(ssm.inner) / static_cast<double>(config.hidden_size);
  if (ssm.inner % config.hidden_size == 0) fields["expand"] = ssm.inner / config.hidden_size;
  fields["layer_norm_epsilon"] = config.rms_norm_eps;
  fields["state_size"] = ssm.state;
  fields["conv_kernel"] = ssm.conv_kernel;
  fields["use_conv_bias"] = ssm.conv_bias;
  fields["use_bias"] = ssm.bias;
}

void WriteHf1(const ModelConfig& config, nlohmann::json& fields) {
  WriteHfShared(config, fields);
  fields["time_step_rank"] = config.ssm.dt_rank;
}

void WriteHf2(const ModelConfig& config, nlohmann::json& fields) {
  const SsmConfig& ssm = config.ssm;
  WriteHfShared(config, fields);
  fields["num_heads"] = ssm.heads;
  fields["head_dim"] = ssm.head_dim;
  fields["n_groups"] = ssm.groups;
  if (ssm.dt_min > 0 || ssm.dt_max < std::numeric_limits<float>::max())
    fields["time_step_limit"] = {ssm.dt_min, ssm.dt_max};
}

absl::Status ReadGgufShared(const GgufFile& file, ModelConfig& config) {
  SsmConfig& ssm = config.ssm;
  const std::string prefix = config.architecture + ".ssm.";
  const std::pair<const char*, int64_t*> sizes[] = {{"inner_size", &ssm.inner},
                                                    {"state_size", &ssm.state},
                                                    {"conv_kernel", &ssm.conv_kernel},
                                                    {"time_step_rank", &ssm.dt_rank}};
  for (const auto& [key, size] : sizes) {
    LIFT_ASSIGN_OR_RETURN(*size, file.GetInt(prefix + key, 0));
    if (*size < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.name(), ": ", prefix, key, " is missing or not positive"));
    }
  }
  ssm.conv_bias = file.FindTensor("blk.0.ssm_conv1d.bias") != nullptr;
  ssm.bias = file.FindTensor("blk.0.ssm_in.bias") != nullptr;
  return absl::OkStatus();
}

absl::Status ReadGguf1(const GgufFile& file, ModelConfig& config) {
  config.ssm.kind = SsmKind::kMamba1;
  LIFT_RETURN_IF_ERROR(ReadGgufShared(file, config));
  config.ssm.heads = config.ssm.inner, config.ssm.head_dim = 1;
  LIFT_ASSIGN_OR_RETURN(const bool normed, file.GetBool("mamba.ssm.dt_b_c_rms", false));
  if (normed) {
    return absl::UnimplementedError(
        absl::StrCat(file.name(), ": mamba.ssm.dt_b_c_rms is not supported; use a plain Mamba"));
  }
  return absl::OkStatus();
}

absl::Status ReadGguf2(const GgufFile& file, ModelConfig& config) {
  SsmConfig& ssm = config.ssm;
  ssm.kind = SsmKind::kMamba2;
  LIFT_RETURN_IF_ERROR(ReadGgufShared(file, config));
  LIFT_ASSIGN_OR_RETURN(ssm.groups, file.GetInt("mamba2.ssm.group_count", 1));
  ssm.heads = ssm.dt_rank;  // as the converter calls it
  ssm.head_dim = ssm.inner / ssm.heads;
  ssm.dt_rank = 0;
  return absl::OkStatus();
}

// Renames a tensor and gives it the shape that the graph asks for, if it has as many elements.
void Restate(StoredTensors& tensors, const std::string& from, const std::string& to,
             std::vector<int64_t> shape) {
  auto node = tensors.by_name.extract(from);
  if (node.empty()) return;
  int64_t have = 1, want = 1;
  for (const int64_t n : node.mapped().shape) have *= n;
  for (const int64_t n : shape) want *= n;
  if (have == want) node.mapped().shape = std::move(shape);
  node.key() = to;
  tensors.by_name.insert(std::move(node));
}

// GGUF files hold A itself.
absl::Status TakeLogarithm(StoredTensors& tensors, const std::string& name) {
  const auto at = tensors.by_name.find(name);
  if (at == tensors.by_name.end() || at->second.type != DType::kF32) return absl::OkStatus();
  std::vector<float> values(at->second.bytes.size() / sizeof(float));
  Dequantize(DType::kF32, at->second.bytes.data(), values);
  for (float& value : values) {
    if (!(value < 0))
      return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " is not negative"));
    value = static_cast<float>(std::log(-static_cast<double>(value)));
  }
  std::vector<std::byte>& copy = tensors.copies.emplace_back();
  const auto bytes = std::as_bytes(std::span(values));
  copy.assign(bytes.begin(), bytes.end());
  at->second.bytes = copy;
  return absl::OkStatus();
}

absl::Status Split(const ModelConfig& config, bool gguf, StoredTensors& tensors) {
  if (!gguf) return absl::OkStatus();
  const SsmConfig& ssm = config.ssm;
  const bool first = ssm.kind == SsmKind::kMamba1;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const std::string mixer = absl::StrCat("model.layers.", layer, ".mixer.");
    Restate(tensors, mixer + "conv1d.weight", mixer + "conv1d.weight",
            {ssm.conv_channels(), 1, ssm.conv_kernel});
    Restate(tensors, mixer + "ssm_a", mixer + "A_log",
            first ? std::vector<int64_t>{ssm.inner, ssm.state} : std::vector<int64_t>{ssm.heads});
    Restate(tensors, mixer + "ssm_d", mixer + "D", {ssm.heads});
    LIFT_RETURN_IF_ERROR(TakeLogarithm(tensors, mixer + "A_log"));
    if (first) continue;
    Restate(tensors, mixer + "norm.weight", mixer + "norm.weight", {ssm.inner});
    Restate(tensors, mixer + "dt_proj.bias", mixer + "dt_bias", {ssm.heads});
  }
  return absl::OkStatus();
}

}  // namespace

Architecture Mamba() {
  Architecture a{"mamba", "MambaForCausalLM", "mamba", kHfNames, kGgufNames};
  a.recurrent = true;
  a.read_hf = ReadHf1;
  a.write_hf = WriteHf1;
  a.read_gguf = ReadGguf1;
  a.split = Split;
  return a;
}

Architecture Mamba2() {
  Architecture a{"mamba2", "Mamba2ForCausalLM", "mamba2", kHfNames, kGgufNames};
  a.recurrent = true;
  a.read_hf = ReadHf2;
  a.write_hf = WriteHf2;
  a.read_gguf = ReadGguf2;
  a.split = Split;
  return a;
}

}  // namespace lift::families
