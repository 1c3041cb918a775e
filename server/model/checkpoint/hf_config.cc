#include "server/model/checkpoint/hf_config.h"

#include <algorithm>
#include <initializer_list>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/model/checkpoint/architecture.h"
#include "server/model/checkpoint/json_fields.h"
#include "server/model/checkpoint/quoted.h"

namespace lift {
namespace {

using nlohmann::json;

// transformers wrote infinite limits as the bare word Infinity, which is no JSON: a number that
// stands for it.
std::string WithoutInfinity(const std::string& text) {
  constexpr std::string_view kWord = "Infinity";
  std::string out;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '"' && (i == 0 || text[i - 1] != '\\')) quoted = !quoted;
    if (!quoted && std::string_view(text).substr(i, kWord.size()) == kWord) {
      out += "1e308";
      i += kWord.size() - 1;
    } else {
      out += text[i];
    }
  }
  return out;
}

absl::Status Unsupported(const JsonFields& fields, const std::string& what,
                         const std::string& instead) {
  return absl::UnimplementedError(
      absl::StrCat(fields.source(), ": ", what, " is not supported; ", instead));
}

absl::StatusOr<const Architecture*> FindArchitecture(const JsonFields& fields,
                                                     const std::string& type) {
  const Architecture* architecture = FindHuggingFace(type);
  if (architecture == nullptr) {
    return Unsupported(fields, absl::StrCat("model_type ", Quoted(type)),
                       "supported are " + SupportedNames(/*gguf=*/false));
  }
  if (!fields.Has("architectures")) return architecture;
  const json& names = fields.at("architectures");
  const std::string wanted(architecture->hf_class);
  if (!names.is_array()) return fields.Wrong("architectures", "a list");
  if (!names.empty() && std::find(names.begin(), names.end(), wanted) == names.end()) {
    return Unsupported(fields, absl::StrCat("architectures without ", wanted),
                       "only language models are");
  }
  return architecture;
}

absl::Status ReadActivation(const JsonFields& fields, const Architecture& architecture,
                            ModelConfig& config) {
  constexpr std::pair<const char*, Activation> kKnown[] = {
      {"silu", Activation::kSilu},          {"swish", Activation::kSilu},
      {"gelu", Activation::kGelu},          {"gelu_new", Activation::kGeluTanh},
      {"gelu_fast", Activation::kGeluTanh}, {"gelu_pytorch_tanh", Activation::kGeluTanh}};
  LIFT_ASSIGN_OR_RETURN(const std::string act,
                        fields.String("hidden_act", architecture.gelu ? "gelu" : "silu"));
  for (const auto& [name, kind] : kKnown) {
    if (act != name || (kind == Activation::kSilu) == architecture.gelu) continue;
    config.activation = kind;
    return absl::OkStatus();
  }
  return Unsupported(fields, absl::StrCat("hidden_act ", Quoted(act)),
                     architecture.gelu ? "supported are gelu, gelu_new and gelu_pytorch_tanh"
                                       : "supported is silu");
}

// All layers alike: full attention, or one window. The families where they differ read it
// themselves.
absl::Status ReadWindow(const JsonFields& fields, const Architecture& architecture,
                        ModelConfig& config) {
  if (architecture.layer_windows) return absl::OkStatus();
  LIFT_ASSIGN_OR_RETURN(const bool uses_window,
                        fields.Bool("use_sliding_window", fields.Has("sliding_window")));
  const bool window = uses_window && fields.Has("sliding_window");
  if (window && !architecture.sliding_window)
    return Unsupported(fields, "sliding_window", "use a model with full attention");
  if (window) {
    LIFT_ASSIGN_OR_RETURN(config.sliding_window, fields.Int("sliding_window"));
    if (config.sliding_window < 1) return fields.Wrong("sliding_window", "a positive integer");
  }
  if (!fields.Has("layer_types")) return absl::OkStatus();
  const json& types = fields.at("layer_types");
  const char* supported = window ? "sliding_attention" : "full_attention";
  if (!types.is_array()) return fields.Wrong("layer_types", "a list");
  for (const json& type : types) {
    if (type != supported) {
      return Unsupported(fields, absl::StrCat("layer_types with ", Quoted(type.dump())),
                         absl::StrCat("supported is ", supported));
    }
  }
  return absl::OkStatus();
}

// Everything that would change the computation and that the graph does not do.
absl::Status ReadFeatures(const JsonFields& fields, const Architecture& architecture,
                          ModelConfig& config) {
  if (fields.Has("quantization_config")) {
    LIFT_ASSIGN_OR_RETURN(const JsonFields quantization, fields.Object("quantization_config"));
    LIFT_ASSIGN_OR_RETURN(const std::string method, quantization.String("quant_method", "unnamed"));
    return Unsupported(fields, absl::StrCat("quantization_config ", Quoted(method)),
                       "use the unquantized model");
  }
  LIFT_RETURN_IF_ERROR(ReadActivation(fields, architecture, config));
  if (architecture.recurrent) return absl::OkStatus();
  LIFT_RETURN_IF_ERROR(ReadWindow(fields, architecture, config));
  LIFT_ASSIGN_OR_RETURN(const double rotary, fields.Number("partial_rotary_factor", 1.0));
  if (rotary != 1.0)
    return Unsupported(fields, "partial_rotary_factor", "the whole head must be rotated");
  return absl::OkStatus();
}

// Of an architecture without attention; the rest is its own.
absl::Status ReadRecurrentSizes(const JsonFields& fields, ModelConfig& config) {
  const std::pair<const char*, int64_t*> sizes[] = {{"vocab_size", &config.vocab_size},
                                                    {"hidden_size", &config.hidden_size},
                                                    {"num_hidden_layers", &config.num_layers}};
  for (const auto& [key, size] : sizes) {
    LIFT_ASSIGN_OR_RETURN(*size, fields.Int(key));
    if (*size < 1) return fields.Wrong(key, "a positive integer");
  }
  constexpr int64_t kUnlimited = int64_t{1} << 20;  // the state does not grow with the context
  LIFT_ASSIGN_OR_RETURN(config.max_context, fields.Int("max_position_embeddings", kUnlimited));
  LIFT_ASSIGN_OR_RETURN(const double eps, fields.Number("layer_norm_epsilon", 1e-5));
  config.rms_norm_eps = static_cast<float>(eps);
  return absl::OkStatus();
}

absl::Status ReadSizes(const JsonFields& fields, ModelConfig& config) {
  const std::pair<const char*, int64_t*> sizes[] = {
      {"vocab_size", &config.vocab_size},
      {"hidden_size", &config.hidden_size},
      {"intermediate_size", &config.intermediate_size},
      {"num_hidden_layers", &config.num_layers},
      {"num_attention_heads", &config.num_heads},
      {"max_position_embeddings", &config.max_context},
  };
  for (const auto& [key, size] : sizes) {
    LIFT_ASSIGN_OR_RETURN(*size, fields.Int(key));
    if (*size < 1) return fields.Wrong(key, "a positive integer");
  }
  LIFT_ASSIGN_OR_RETURN(config.num_kv_heads, fields.Int("num_key_value_heads", config.num_heads));
  if (!fields.Has("head_dim") && config.hidden_size % config.num_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(fields.source(), ": hidden_size ",
                                                   config.hidden_size,
                                                   " is not a multiple of num_attention_heads ",
                                                   config.num_heads, " and head_dim is missing"));
  }
  LIFT_ASSIGN_OR_RETURN(config.head_dim,
                        fields.Int("head_dim", config.hidden_size / config.num_heads));
  LIFT_ASSIGN_OR_RETURN(const double eps, fields.Number("rms_norm_eps", 1e-6));
  config.rms_norm_eps = static_cast<float>(eps);
  return absl::OkStatus();
}

absl::Status ReadScaling(const JsonFields& scaling, const Architecture& architecture,
                         RopeConfig& rope) {
  LIFT_ASSIGN_OR_RETURN(const std::string old_type, scaling.String("type", "default"));
  LIFT_ASSIGN_OR_RETURN(const std::string type, scaling.String("rope_type", old_type));
  LIFT_ASSIGN_OR_RETURN(const double rotary, scaling.Number("partial_rotary_factor", 1.0));
  if (rotary != 1.0 && !architecture.partial_rotary)
    return Unsupported(scaling, "partial_rotary_factor", "the whole head must be rotated");
  if (!(rotary > 0 && rotary <= 1))
    return scaling.Wrong("partial_rotary_factor", "a share of the head, 0 to 1");
  rope.dimension = static_cast<int64_t>(static_cast<double>(rope.dimension) * rotary);
  if (type == "default") return absl::OkStatus();
  if (type != "linear" && type != "llama3") {
    return absl::UnimplementedError(
        absl::StrCat(scaling.source(), ".type = ", type,
                     " is not supported; supported are default, linear and llama3"));
  }
  LIFT_ASSIGN_OR_RETURN(rope.factor, scaling.Number("factor"));
  rope.scaling = RopeConfig::Scaling::kLinear;
  if (type == "linear") return absl::OkStatus();
  rope.scaling = RopeConfig::Scaling::kLlama3;
  LIFT_ASSIGN_OR_RETURN(rope.low_freq_factor, scaling.Number("low_freq_factor"));
  LIFT_ASSIGN_OR_RETURN(rope.high_freq_factor, scaling.Number("high_freq_factor"));
  LIFT_ASSIGN_OR_RETURN(rope.original_context, scaling.Int("original_max_position_embeddings"));
  return absl::OkStatus();
}

// "rope_parameters" (transformers 5) holds theta and scaling, or both for each kind of layer;
// before, "rope_theta" and "rope_scaling" did.
absl::Status ReadRope(const JsonFields& fields, const Architecture& architecture,
                      ModelConfig& config) {
  RopeConfig& rope = config.rope;
  rope.dimension = config.head_dim;
  LIFT_ASSIGN_OR_RETURN(rope.theta, fields.Number("rope_theta", architecture.rope_theta));
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    if (!fields.Has(key)) continue;
    LIFT_ASSIGN_OR_RETURN(const JsonFields stored, fields.Object(key));
    const bool by_layer = stored.Has("full_attention");
    if (by_layer && !architecture.layer_windows)
      return Unsupported(stored, "full_attention", "all layers must be rotated alike");
    LIFT_ASSIGN_OR_RETURN(const JsonFields scaling,
                          by_layer ? stored.Object("full_attention") : fields.Object(key));
    LIFT_ASSIGN_OR_RETURN(rope.theta, scaling.Number("rope_theta", rope.theta));
    return ReadScaling(scaling, architecture, rope);
  }
  return absl::OkStatus();
}

void AddMissing(const std::vector<int64_t>& from, std::vector<int64_t>& to) {
  for (const int64_t id : from) {
    if (std::find(to.begin(), to.end(), id) == to.end()) to.push_back(id);
  }
}

absl::Status ReadEosIds(const HuggingFaceTexts& texts, const JsonFields& fields,
                        ModelConfig& config) {
  if (!texts.generation_config.empty()) {  // decides what comes first
    const std::string source = texts.source + "/generation_config.json";
    LIFT_ASSIGN_OR_RETURN(const json generation, ParseJsonObject(texts.generation_config, source));
    LIFT_ASSIGN_OR_RETURN(const std::vector<int64_t> ids,
                          JsonFields(generation, source).IntOrInts("eos_token_id"));
    AddMissing(ids, config.eos_token_ids);
  }
  LIFT_ASSIGN_OR_RETURN(const std::vector<int64_t> ids, fields.IntOrInts("eos_token_id"));
  AddMissing(ids, config.eos_token_ids);
  return absl::OkStatus();
}

// True if this post-processor, or a member of a sequence, is a template whose single form begins
// with token `bos`.
bool BeginsWithBos(const json& processor, int64_t bos, int depth = 0) {
  if (!processor.is_object() || depth > 4) return false;
  if (processor.contains("processors") && processor["processors"].is_array()) {
    const json& members = processor["processors"];
    return std::any_of(members.begin(), members.end(),
                       [&](const json& m) { return BeginsWithBos(m, bos, depth + 1); });
  }
  const json::json_pointer first("/single/0/SpecialToken/id"), specials("/special_tokens");
  if (!processor.contains(first) || !processor[first].is_string() || !processor.contains(specials))
    return false;
  const auto token = processor[specials].find(processor[first].get<std::string>());
  if (token == processor[specials].end() || !token->is_object() || !token->contains("ids"))
    return false;
  const json& ids = (*token)["ids"];
  return ids.is_array() && !ids.empty() && ids[0] == bos;
}

// tokenizer.json is large; only its post-processor is kept while reading.
json ReadPostProcessor(const std::string& text) {
  const auto keep = [](int depth, json::parse_event_t event, json& parsed) {
    return depth > 64 || event != json::parse_event_t::key || depth != 1 ||
           parsed == "post_processor";
  };
  const json tokenizer = json::parse(text, keep, /*allow_exceptions=*/false);
  return tokenizer.is_object() ? tokenizer.value("post_processor", json()) : json();
}

absl::Status ReadBos(const HuggingFaceTexts& texts, const JsonFields& fields, ModelConfig& config) {
  LIFT_ASSIGN_OR_RETURN(const std::vector<int64_t> ids, fields.IntOrInts("bos_token_id"));
  if (!ids.empty()) config.bos_token_id = ids[0];
  if (config.bos_token_id < 0) return absl::OkStatus();
  if (!texts.tokenizer_config.empty()) {
    const std::string source = texts.source + "/tokenizer_config.json";
    LIFT_ASSIGN_OR_RETURN(const json value, ParseJsonObject(texts.tokenizer_config, source));
    const JsonFields tokenizer(value, source);
    if (tokenizer.Has("add_bos_token")) {
      LIFT_ASSIGN_OR_RETURN(config.add_bos, tokenizer.Bool("add_bos_token"));
      return absl::OkStatus();
    }
  }
  if (!texts.tokenizer.empty())
    config.add_bos = BeginsWithBos(ReadPostProcessor(texts.tokenizer), config.bos_token_id);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ConfigFromHuggingFace(const HuggingFaceTexts& texts) {
  const std::string source = texts.source + "/config.json";
  LIFT_ASSIGN_OR_RETURN(const json value, ParseJsonObject(WithoutInfinity(texts.config), source));
  const JsonFields fields(value, source);
  ModelConfig config;
  LIFT_ASSIGN_OR_RETURN(config.architecture, fields.String("model_type"));
  LIFT_ASSIGN_OR_RETURN(const Architecture* architecture,
                        FindArchitecture(fields, config.architecture));
  LIFT_RETURN_IF_ERROR(ReadFeatures(fields, *architecture, config));
  if (architecture->recurrent) {
    LIFT_RETURN_IF_ERROR(ReadRecurrentSizes(fields, config));
  } else {
    LIFT_RETURN_IF_ERROR(ReadSizes(fields, config));
    LIFT_RETURN_IF_ERROR(ReadRope(fields, *architecture, config));
  }
  LIFT_ASSIGN_OR_RETURN(config.tie_embeddings, fields.Bool("tie_word_embeddings", false));
  if (architecture->read_hf) LIFT_RETURN_IF_ERROR(architecture->read_hf(fields, config));
  LIFT_RETURN_IF_ERROR(ReadEosIds(texts, fields, config));
  LIFT_RETURN_IF_ERROR(ReadBos(texts, fields, config));
  if (const absl::Status valid = config.Validate(); !valid.ok()) {
    return absl::Status(valid.code(), absl::StrCat(texts.source, ": ", valid.message()));
  }
  return config;
}

}  // namespace lift
