#include "server/model/model_config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "server/model/checkpoint/architecture.h"
#include "server/model/checkpoint/json_fields.h"
#include "server/model/checkpoint/quoted.h"

namespace lift {
namespace {

using nlohmann::json;

constexpr const char* kScalingNames[] = {"none", "linear", "llama3"};
constexpr const char* kNormNames[] = {"rms", "layer"};
constexpr const char* kSsmNames[] = {"none", "mamba", "mamba2"};
constexpr const char* kActivationNames[] = {"silu", "gelu", "gelu_tanh"};

constexpr int64_t kMaxDim = int64_t{1} << 20;

absl::Status InRange(const char* field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("model config: ", field, " is ", value, "; ", low,
                                                 " to ", high, " is supported"));
}

absl::Status InRange(const char* field, double value, double low, double high) {
  if (value >= low && value <= high) return absl::OkStatus();  // false for NaN
  return absl::InvalidArgumentError(absl::StrCat("model config: ", field, " is ", value, "; ", low,
                                                 " to ", high, " is supported"));
}

absl::Status ValidateRope(const RopeConfig& rope, int64_t head_dim, bool partial) {
  LIFT_RETURN_IF_ERROR(InRange("rope.theta", rope.theta, 1.0, 1e15));
  if (rope.dimension != head_dim && !partial) {
    return absl::UnimplementedError(absl::StrCat("model config: rope.dimension is ", rope.dimension,
                                                 " of a head of ", head_dim,
                                                 "; this architecture rotates whole heads"));
  }
  LIFT_RETURN_IF_ERROR(InRange("rope.dimension", rope.dimension, 2, head_dim));
  if (rope.dimension % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("model config: rope.dimension ", rope.dimension,
                                                   " is odd; rotation needs pairs"));
  }
  LIFT_RETURN_IF_ERROR(InRange("rope.factor", rope.factor, 1e-6, 1e6));
  if (rope.scaling == RopeConfig::Scaling::kLlama3) {
    LIFT_RETURN_IF_ERROR(InRange("rope.low_freq_factor", rope.low_freq_factor, 1e-6, 1e6));
    LIFT_RETURN_IF_ERROR(InRange("rope.high_freq_factor", rope.high_freq_factor, 1e-6, 1e6));
    LIFT_RETURN_IF_ERROR(
        InRange("rope.original_context", rope.original_context, 1, int64_t{1} << 24));
    if (rope.low_freq_factor >= rope.high_freq_factor) {
      return absl::InvalidArgumentError(
          "model config: rope.low_freq_factor must be below rope.high_freq_factor");
    }
  }
  if (rope.frequency_factors.empty()) return absl::OkStatus();
  if (static_cast<int64_t>(rope.frequency_factors.size()) != rope.dimension / 2) {
    return absl::InvalidArgumentError(absl::StrCat("model config: rope.frequency_factors has ",
                                                   rope.frequency_factors.size(), " values; ",
                                                   rope.dimension / 2, " are expected"));
  }
  for (const float factor : rope.frequency_factors) {
    LIFT_RETURN_IF_ERROR(InRange("rope.frequency_factors", static_cast<double>(factor), 1e-6, 1e6));
  }
  return absl::OkStatus();
}

absl::Status ValidateTokens(const ModelConfig& config) {
  LIFT_RETURN_IF_ERROR(InRange("bos_token_id", config.bos_token_id, -1, config.vocab_size - 1));
  if (config.eos_token_ids.size() > 1024) {
    return absl::InvalidArgumentError("model config: eos_token_ids has more than 1024 ids");
  }
  for (const int64_t id : config.eos_token_ids) {
    LIFT_RETURN_IF_ERROR(InRange("eos_token_ids", id, 0, config.vocab_size - 1));
  }
  if (config.add_bos && config.bos_token_id < 0) {
    return absl::InvalidArgumentError("model config: add_bos is set but there is no bos_token_id");
  }
  return absl::OkStatus();
}

json RopeToJson(const RopeConfig& rope) {
  return {
      {"theta", rope.theta},
      {"scaling", kScalingNames[static_cast<int>(rope.scaling)]},
      {"factor", rope.factor},
      {"low_freq_factor", rope.low_freq_factor},
      {"high_freq_factor", rope.high_freq_factor},
      {"original_context", rope.original_context},
      {"dimension", rope.dimension},
      {"interleaved", rope.interleaved},
      {"frequency_factors", rope.frequency_factors},
  };
}

absl::StatusOr<RopeConfig> RopeFromJson(const JsonFields& fields) {
  RopeConfig rope;
  LIFT_ASSIGN_OR_RETURN(rope.theta, fields.Number("theta"));
  std::string scaling;
  LIFT_ASSIGN_OR_RETURN(scaling, fields.String("scaling"));
  int index = 0;
  while (index < 3 && scaling != kScalingNames[index]) ++index;
  if (index == 3) return fields.Wrong("scaling", "none, linear or llama3");
  rope.scaling = static_cast<RopeConfig::Scaling>(index);
  LIFT_ASSIGN_OR_RETURN(rope.factor, fields.Number("factor"));
  LIFT_ASSIGN_OR_RETURN(rope.low_freq_factor, fields.Number("low_freq_factor"));
  LIFT_ASSIGN_OR_RETURN(rope.high_freq_factor, fields.Number("high_freq_factor"));
  LIFT_ASSIGN_OR_RETURN(rope.original_context, fields.Int("original_context"));
  LIFT_ASSIGN_OR_RETURN(rope.dimension, fields.Int("dimension"));
  LIFT_ASSIGN_OR_RETURN(rope.interleaved, fields.Bool("interleaved"));
  if (!fields.Has("frequency_factors") || !fields.at("frequency_factors").is_array()) {
    return fields.Wrong("frequency_factors", "a list of numbers");
  }
  for (const json& factor : fields.at("frequency_factors")) {
    if (!factor.is_number()) return fields.Wrong("frequency_factors", "a list of numbers");
    rope.frequency_factors.push_back(factor.get<float>());
  }
  return rope;
}

json SsmToJson(const SsmConfig& ssm) {
  return {{"kind", kSsmNames[static_cast<int>(ssm.kind)]},
          {"inner", ssm.inner},
          {"state", ssm.state},
          {"conv_kernel", ssm.conv_kernel},
          {"dt_rank", ssm.dt_rank},
          {"heads", ssm.heads},
          {"head_dim", ssm.head_dim},
          {"groups", ssm.groups},
          {"conv_bias", ssm.conv_bias},
          {"bias", ssm.bias},
          {"dt_min", ssm.dt_min},
          {"dt_max", ssm.dt_max}};
}

// Fields of the families beyond Llama: written where they differ from Llama's, so that a file that
// needs none of them is one that older versions read.
json FamilyToJson(const ModelConfig& config) {
  const ModelConfig llama;
  json out = json::object();
  const auto put = [&](const char* key, const auto& value, const auto& usual) {
    if (value != usual) out[key] = value;
  };
  put("norm", std::string(kNormNames[static_cast<int>(config.norm)]), "rms");
  put("activation", std::string(kActivationNames[static_cast<int>(config.activation)]), "silu");
  put("gated_mlp", config.gated_mlp, llama.gated_mlp);
  put("parallel_residual", config.parallel_residual, llama.parallel_residual);
  put("qk_norm", config.qk_norm, llama.qk_norm);
  put("output_norms", config.output_norms, llama.output_norms);
  put("sliding_window", config.sliding_window, llama.sliding_window);
  put("full_layers", config.full_layers, llama.full_layers);
  put("local_rope_theta", config.local_rope_theta, llama.local_rope_theta);
  put("attention_scalar", config.attention_scalar, llama.attention_scalar);
  put("embedding_scale", config.embedding_scale, llama.embedding_scale);
  put("num_experts", config.num_experts, llama.num_experts);
  put("experts_per_token", config.experts_per_token, llama.experts_per_token);
  if (config.recurrent()) out["ssm"] = SsmToJson(config.ssm);
  return out;
}
constexpr const char* kFamilyFields[] = {"norm",
                                         "activation",
                                         "gated_mlp",
                                         "parallel_residual",
                                         "qk_norm",
                                         "output_norms",
                                         "sliding_window",
                                         "full_layers",
                                         "local_rope_theta",
                                         "attention_scalar",
                                         "embedding_scale",
                                         "num_experts",
                                         "experts_per_token",
                                         "ssm"};

template <typename Enum, size_t N>
absl::Status ReadName(const JsonFields& fields, const char* key, const char* const (&names)[N],
                      Enum& out) {
  LIFT_ASSIGN_OR_RETURN(const std::string name,
                        fields.String(key, names[static_cast<size_t>(out)]));
  for (size_t i = 0; i < N; ++i) {
    if (name == names[i]) {
      out = static_cast<Enum>(i);
      return absl::OkStatus();
    }
  }
  return fields.Wrong(key, "a kind that this version knows");
}

// A field we do not know may change what the others mean, so a file of a newer version is refused.
absl::Status RefuseUnknown(const json& value, const json& known, const std::string& source) {
  for (const auto& [key, field] : value.items()) {
    if (!known.contains(key)) {
      return absl::InvalidArgumentError(absl::StrCat(
          source, ": field ", Quoted(key), " is unknown; the file may be of a newer version"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<SsmConfig> SsmFromJson(const JsonFields& fields) {
  SsmConfig ssm;
  LIFT_RETURN_IF_ERROR(ReadName(fields, "kind", kSsmNames, ssm.kind));
  LIFT_ASSIGN_OR_RETURN(ssm.inner, fields.Int("inner"));
  LIFT_ASSIGN_OR_RETURN(ssm.state, fields.Int("state"));
  LIFT_ASSIGN_OR_RETURN(ssm.conv_kernel, fields.Int("conv_kernel"));
  LIFT_ASSIGN_OR_RETURN(ssm.dt_rank, fields.Int("dt_rank"));
  LIFT_ASSIGN_OR_RETURN(ssm.heads, fields.Int("heads"));
  LIFT_ASSIGN_OR_RETURN(ssm.head_dim, fields.Int("head_dim"));
  LIFT_ASSIGN_OR_RETURN(ssm.groups, fields.Int("groups"));
  LIFT_ASSIGN_OR_RETURN(ssm.conv_bias, fields.Bool("conv_bias"));
  LIFT_ASSIGN_OR_RETURN(ssm.bias, fields.Bool("bias"));
  LIFT_ASSIGN_OR_RETURN(const double low, fields.Number("dt_min"));
  LIFT_ASSIGN_OR_RETURN(const double high, fields.Number("dt_max"));
  ssm.dt_min = static_cast<float>(low), ssm.dt_max = static_cast<float>(high);
  return ssm;
}

absl::Status FamilyFromJson(const JsonFields& fields, ModelConfig& config) {
  LIFT_RETURN_IF_ERROR(ReadName(fields, "norm", kNormNames, config.norm));
  LIFT_RETURN_IF_ERROR(ReadName(fields, "activation", kActivationNames, config.activation));
  LIFT_ASSIGN_OR_RETURN(config.gated_mlp, fields.Bool("gated_mlp", true));
  LIFT_ASSIGN_OR_RETURN(config.parallel_residual, fields.Bool("parallel_residual", false));
  LIFT_ASSIGN_OR_RETURN(config.qk_norm, fields.Bool("qk_norm", false));
  LIFT_ASSIGN_OR_RETURN(config.output_norms, fields.Bool("output_norms", false));
  LIFT_ASSIGN_OR_RETURN(config.sliding_window, fields.Int("sliding_window", 0));
  LIFT_ASSIGN_OR_RETURN(config.full_layers, fields.IntOrInts("full_layers"));
  LIFT_ASSIGN_OR_RETURN(config.local_rope_theta, fields.Number("local_rope_theta", 0));
  LIFT_ASSIGN_OR_RETURN(config.attention_scalar, fields.Number("attention_scalar", 0));
  LIFT_ASSIGN_OR_RETURN(const double scale, fields.Number("embedding_scale", 1));
  config.embedding_scale = static_cast<float>(scale);
  LIFT_ASSIGN_OR_RETURN(config.num_experts, fields.Int("num_experts", 0));
  LIFT_ASSIGN_OR_RETURN(config.experts_per_token, fields.Int("experts_per_token", 0));
  if (fields.Has("ssm")) {
    LIFT_ASSIGN_OR_RETURN(const JsonFields ssm, fields.Object("ssm"));
    LIFT_RETURN_IF_ERROR(RefuseUnknown(fields.at("ssm"), SsmToJson({}), ssm.source()));
    LIFT_ASSIGN_OR_RETURN(config.ssm, SsmFromJson(ssm));
  }
  return absl::OkStatus();
}

absl::Status ValidateWindows(const ModelConfig& config) {
  LIFT_RETURN_IF_ERROR(InRange("sliding_window", config.sliding_window, 0, int64_t{1} << 24));
  const std::vector<int64_t>& full = config.full_layers;
  for (size_t i = 0; i < full.size(); ++i) {
    LIFT_RETURN_IF_ERROR(
        InRange("full_layers", full[i], i == 0 ? 0 : full[i - 1] + 1, config.num_layers - 1));
  }
  if (config.local_rope_theta != 0)
    LIFT_RETURN_IF_ERROR(InRange("local_rope_theta", config.local_rope_theta, 1.0, 1e15));
  if (config.sliding_window == 0 && (!full.empty() || config.local_rope_theta != 0)) {
    return absl::InvalidArgumentError(
        "model config: full_layers and local_rope_theta need a sliding_window");
  }
  return absl::OkStatus();
}

absl::Status ValidateFamily(const ModelConfig& config) {
  LIFT_RETURN_IF_ERROR(ValidateWindows(config));
  if (!config.gated_mlp && config.activation == Activation::kSilu)
    return absl::UnimplementedError("model config: a SiLU MLP without gate is not supported");
  if (config.output_norms && config.parallel_residual) {
    return absl::UnimplementedError(
        "model config: output_norms with a parallel_residual is not supported");
  }
  if (config.attention_scalar != 0)
    LIFT_RETURN_IF_ERROR(InRange("attention_scalar", config.attention_scalar, 1e-6, 1e9));
  LIFT_RETURN_IF_ERROR(
      InRange("embedding_scale", static_cast<double>(config.embedding_scale), 1e-6, 1e6));
  LIFT_RETURN_IF_ERROR(InRange("num_experts", config.num_experts, 0, 1024));
  if (config.num_experts > 0) {
    LIFT_RETURN_IF_ERROR(
        InRange("experts_per_token", config.experts_per_token, 1, config.num_experts));
    if (config.mlp_bias) {
      return absl::UnimplementedError("model config: experts with biases are not supported");
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateSsm(const SsmConfig& ssm) {
  LIFT_RETURN_IF_ERROR(InRange("ssm.inner", ssm.inner, 1, kMaxDim));
  LIFT_RETURN_IF_ERROR(InRange("ssm.state", ssm.state, 1, 4096));
  LIFT_RETURN_IF_ERROR(InRange("ssm.conv_kernel", ssm.conv_kernel, 1, 64));
  LIFT_RETURN_IF_ERROR(InRange("ssm.heads", ssm.heads, 1, ssm.inner));
  LIFT_RETURN_IF_ERROR(InRange("ssm.head_dim", ssm.head_dim, 1, ssm.inner));
  LIFT_RETURN_IF_ERROR(InRange("ssm.groups", ssm.groups, 1, ssm.heads));
  LIFT_RETURN_IF_ERROR(InRange("ssm.conv_channels", ssm.conv_channels(), 1, kMaxDim));
  if (ssm.heads * ssm.head_dim != ssm.inner || ssm.heads % ssm.groups != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("model config: ", ssm.heads, " heads of ", ssm.head_dim, " in ", ssm.groups,
                     " groups do not make up ", ssm.inner, " channels (ssm.inner)"));
  }
  if (ssm.kind == SsmKind::kMamba1) {
    LIFT_RETURN_IF_ERROR(InRange("ssm.dt_rank", ssm.dt_rank, 1, kMaxDim));
    LIFT_RETURN_IF_ERROR(InRange("ssm.head_dim", ssm.head_dim, 1, 1));
    LIFT_RETURN_IF_ERROR(InRange("ssm.groups", ssm.groups, 1, 1));
  }
  LIFT_RETURN_IF_ERROR(InRange("ssm.dt_min", static_cast<double>(ssm.dt_min), 0.0, 1e30));
  return InRange("ssm.dt_max", static_cast<double>(ssm.dt_max), static_cast<double>(ssm.dt_min),
                 3.5e38);
}

absl::Status ValidateAttention(const ModelConfig& config, const Architecture& architecture) {
  LIFT_RETURN_IF_ERROR(InRange("intermediate_size", config.intermediate_size, 1, kMaxDim));
  LIFT_RETURN_IF_ERROR(InRange("num_heads", config.num_heads, 1, 4096));
  LIFT_RETURN_IF_ERROR(InRange("num_kv_heads", config.num_kv_heads, 1, config.num_heads));
  LIFT_RETURN_IF_ERROR(InRange("head_dim", config.head_dim, 2, 4096));
  LIFT_RETURN_IF_ERROR(
      InRange("num_heads * head_dim", config.num_heads * config.head_dim, 1, kMaxDim));
  if (config.num_heads % config.num_kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("model config: num_heads ", config.num_heads,
                                                   " is not a multiple of num_kv_heads ",
                                                   config.num_kv_heads));
  }
  if (config.head_dim % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("model config: head_dim ", config.head_dim, " is odd; rotation needs pairs"));
  }
  LIFT_RETURN_IF_ERROR(ValidateFamily(config));
  return ValidateRope(config.rope, config.head_dim, architecture.partial_rotary);
}

json ToJsonValue(const ModelConfig& config) {
  json value = {
      {"architecture", config.architecture},
      {"name", config.name},
      {"vocab_size", config.vocab_size},
      {"hidden_size", config.hidden_size},
      {"intermediate_size", config.intermediate_size},
      {"num_layers", config.num_layers},
      {"num_heads", config.num_heads},
      {"num_kv_heads", config.num_kv_heads},
      {"head_dim", config.head_dim},
      {"max_context", config.max_context},
      {"rms_norm_eps", config.rms_norm_eps},
      {"rope", RopeToJson(config.rope)},
      {"tie_embeddings", config.tie_embeddings},
      {"attention_bias", config.attention_bias},
      {"output_bias", config.output_bias},
      {"mlp_bias", config.mlp_bias},
      {"bos_token_id", config.bos_token_id},
      {"eos_token_ids", config.eos_token_ids},
      {"add_bos", config.add_bos},
  };
  value.update(FamilyToJson(config));
  return value;
}

}  // namespace

int64_t ModelConfig::window(int64_t layer) const {
  return std::binary_search(full_layers.begin(), full_layers.end(), layer) ? 0 : sliding_window;
}

RopeConfig ModelConfig::local_rope() const {
  RopeConfig local;
  if (local_rope_theta == 0) return local;
  local.theta = local_rope_theta;
  local.dimension = rope.dimension;
  local.interleaved = rope.interleaved;
  return local;
}

double ModelConfig::score_scale() const {
  return 1.0 / std::sqrt(attention_scalar > 0 ? attention_scalar : static_cast<double>(head_dim));
}

std::string ModelConfig::ToJson() const {
  // A GGUF may name its model in any bytes: invalid UTF-8 becomes U+FFFD.
  return ToJsonValue(*this).dump(-1, ' ', false, json::error_handler_t::replace);
}

absl::StatusOr<ModelConfig> ModelConfig::FromJson(const std::string& text) {
  const std::string source = "model config";
  LIFT_ASSIGN_OR_RETURN(const json value, ParseJsonObject(text, source));
  json known = ToJsonValue(ModelConfig());
  for (const char* key : kFamilyFields) known[key] = nullptr;
  LIFT_RETURN_IF_ERROR(RefuseUnknown(value, known, source));
  const JsonFields fields(value, source);
  ModelConfig config;
  LIFT_ASSIGN_OR_RETURN(config.architecture, fields.String("architecture"));
  LIFT_ASSIGN_OR_RETURN(config.name, fields.String("name"));
  LIFT_ASSIGN_OR_RETURN(config.vocab_size, fields.Int("vocab_size"));
  LIFT_ASSIGN_OR_RETURN(config.hidden_size, fields.Int("hidden_size"));
  LIFT_ASSIGN_OR_RETURN(config.intermediate_size, fields.Int("intermediate_size"));
  LIFT_ASSIGN_OR_RETURN(config.num_layers, fields.Int("num_layers"));
  LIFT_ASSIGN_OR_RETURN(config.num_heads, fields.Int("num_heads"));
  LIFT_ASSIGN_OR_RETURN(config.num_kv_heads, fields.Int("num_kv_heads"));
  LIFT_ASSIGN_OR_RETURN(config.head_dim, fields.Int("head_dim"));
  LIFT_ASSIGN_OR_RETURN(config.max_context, fields.Int("max_context"));
  LIFT_ASSIGN_OR_RETURN(const double eps, fields.Number("rms_norm_eps"));
  config.rms_norm_eps = static_cast<float>(eps);
  LIFT_ASSIGN_OR_RETURN(const JsonFields rope, fields.Object("rope"));
  LIFT_RETURN_IF_ERROR(RefuseUnknown(value.at("rope"), known.at("rope"), rope.source()));
  LIFT_ASSIGN_OR_RETURN(config.rope, RopeFromJson(rope));
  LIFT_ASSIGN_OR_RETURN(config.tie_embeddings, fields.Bool("tie_embeddings"));
  LIFT_ASSIGN_OR_RETURN(config.attention_bias, fields.Bool("attention_bias"));
  LIFT_ASSIGN_OR_RETURN(config.output_bias, fields.Bool("output_bias"));
  LIFT_ASSIGN_OR_RETURN(config.mlp_bias, fields.Bool("mlp_bias"));
  LIFT_RETURN_IF_ERROR(FamilyFromJson(fields, config));
  LIFT_ASSIGN_OR_RETURN(config.bos_token_id, fields.Int("bos_token_id"));
  if (!fields.Has("eos_token_ids")) return fields.Wrong("eos_token_ids", "a list of integers");
  LIFT_ASSIGN_OR_RETURN(config.eos_token_ids, fields.IntOrInts("eos_token_ids"));
  LIFT_ASSIGN_OR_RETURN(config.add_bos, fields.Bool("add_bos"));
  LIFT_RETURN_IF_ERROR(config.Validate());
  return config;
}

absl::Status ModelConfig::Validate() const {
  const Architecture* known = FindHuggingFace(architecture);
  if (known == nullptr) {
    return absl::UnimplementedError(
        absl::StrCat("model config: architecture ", Quoted(architecture),
                     " is not supported; supported are ", SupportedNames(/*gguf=*/false)));
  }
  LIFT_RETURN_IF_ERROR(InRange("vocab_size", vocab_size, 1, int64_t{1} << 24));
  LIFT_RETURN_IF_ERROR(InRange("hidden_size", hidden_size, 1, kMaxDim));
  LIFT_RETURN_IF_ERROR(InRange("num_layers", num_layers, 1, 1024));
  LIFT_RETURN_IF_ERROR(InRange("max_context", max_context, 1, int64_t{1} << 24));
  LIFT_RETURN_IF_ERROR(InRange("rms_norm_eps", static_cast<double>(rms_norm_eps), 1e-12, 0.1));
  if (recurrent() != known->recurrent) {
    return absl::InvalidArgumentError(absl::StrCat("model config: architecture ",
                                                   Quoted(architecture),
                                                   recurrent() ? " has no ssm" : " needs ssm"));
  }
  if (recurrent()) {
    LIFT_RETURN_IF_ERROR(ValidateSsm(ssm));
    return ValidateTokens(*this);
  }
  LIFT_RETURN_IF_ERROR(ValidateAttention(*this, *known));
  return ValidateTokens(*this);
}

}  // namespace lift
