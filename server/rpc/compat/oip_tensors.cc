#include "server/rpc/compat/oip_tensors.h"

#include <cstring>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace lift::rpc {
namespace {

using inference::InferParameter;
using inference::ModelInferRequest;
using json = nlohmann::ordered_json;  // a schema's properties keep their order

template <class... Parts>
absl::Status Wrong(const std::string& field, const Parts&... parts) {
  return WithReason(absl::InvalidArgumentError(absl::StrCat(field, " ", parts...)), "INVALID_FIELD",
                    field);
}

// The elements of one input, however they travel.
struct Tensor {
  const ModelInferRequest::InferInputTensor& meta;
  const std::string* raw;  // null: in meta.contents()

  std::string field() const { return absl::StrCat("inputs.", meta.name()); }

  absl::StatusOr<std::string> OneString() const {
    if (meta.datatype() != "BYTES") return Wrong(field(), "must have the datatype BYTES");
    if (raw == nullptr) {
      if (meta.contents().bytes_contents_size() != 1)
        return Wrong(field(), "must have one element");
      return meta.contents().bytes_contents(0);
    }
    // Little-endian length, then the bytes.
    uint32_t size = 0;
    if (raw->size() < sizeof size) return Wrong(field(), "is cut short");
    std::memcpy(&size, raw->data(), sizeof size);
    if (raw->size() != sizeof size + size) {
      return Wrong(field(), "must have one element of the length it states");
    }
    return raw->substr(sizeof size);
  }
  absl::StatusOr<bool> OneBool() const {
    if (meta.datatype() != "BOOL") return Wrong(field(), "must have the datatype BOOL");
    if (raw != nullptr) {
      if (raw->size() != 1) return Wrong(field(), "must have one element");
      return (*raw)[0] != 0;
    }
    if (meta.contents().bool_contents_size() != 1) return Wrong(field(), "must have one element");
    return meta.contents().bool_contents(0);
  }
  absl::Status Ids(google::protobuf::RepeatedField<int32_t>& out) const {
    if (meta.datatype() != "INT32") return Wrong(field(), "must have the datatype INT32");
    if (raw == nullptr) {
      out = meta.contents().int_contents();
      return absl::OkStatus();
    }
    if (raw->size() % sizeof(int32_t) != 0) return Wrong(field(), "is not a whole number of INT32");
    out.Resize(static_cast<int>(raw->size() / sizeof(int32_t)), 0);
    if (!raw->empty()) std::memcpy(out.mutable_data(), raw->data(), raw->size());
    return absl::OkStatus();
  }
};

absl::Status ApplyNumber(const std::string& key, const json& value, api::GenerateRequest& out) {
  auto& sampling = *out.mutable_sampling();
  auto& stopping = *out.mutable_stopping();
  const bool whole = value.is_number_integer();
  if (key == "temperature") return sampling.set_temperature(value), absl::OkStatus();
  if (key == "top_p") return sampling.set_top_p(value), absl::OkStatus();
  if (key == "min_p") return sampling.set_min_p(value), absl::OkStatus();
  if (key == "presence_penalty") return sampling.set_presence_penalty(value), absl::OkStatus();
  if (key == "frequency_penalty") return sampling.set_frequency_penalty(value), absl::OkStatus();
  if (key == "repetition_penalty") return sampling.set_repetition_penalty(value), absl::OkStatus();
  if (key == "min_lambda") {
    return out.mutable_precision()->set_min_lambda(value), absl::OkStatus();
  }
  if (key == "top_k" && whole) return sampling.set_top_k(value), absl::OkStatus();
  if (key == "seed" && whole) return sampling.set_seed(value), absl::OkStatus();
  if (key == "max_tokens" && whole) return stopping.set_max_new_tokens(value), absl::OkStatus();
  if (key == "min_tokens" && whole) return stopping.set_min_new_tokens(value), absl::OkStatus();
  return Wrong(absl::StrCat("parameters.", key), "is unknown or must be another type");
}

absl::Status Apply(const std::string& key, const json& value, api::GenerateRequest& out) {
  if (value.is_number()) return ApplyNumber(key, value, out);
  if (key == "ignore_eos" && value.is_boolean()) {
    out.mutable_stopping()->set_ignore_eos(value);
    return absl::OkStatus();
  }
  if (key == "json_object" && value.is_boolean()) {
    out.mutable_constraint()->set_json_object(value);
    return absl::OkStatus();
  }
  if (key == "variant" && value.is_string()) {
    out.mutable_precision()->set_mode(api::PRECISION_MODE_PINNED);
    out.mutable_precision()->set_variant(value.get<std::string>());
    return absl::OkStatus();
  }
  if (key == "regex" && value.is_string()) {
    out.mutable_constraint()->set_regex(value.get<std::string>());
    return absl::OkStatus();
  }
  if (key == "grammar" && value.is_string()) {
    out.mutable_constraint()->set_grammar(value.get<std::string>());
    return absl::OkStatus();
  }
  if (key == "json_schema" && (value.is_string() || value.is_object())) {
    out.mutable_constraint()->set_json_schema(value.is_string() ? value.get<std::string>()
                                                                : value.dump());
    return absl::OkStatus();
  }
  if (key == "choices" && value.is_array()) {
    auto& choices = *out.mutable_constraint()->mutable_choices();
    for (const json& entry : value) {
      if (!entry.is_string()) return Wrong("parameters.choices", "must hold strings");
      choices.add_texts(entry.get<std::string>());
    }
    return absl::OkStatus();
  }
  if (key == "stop" && value.is_string()) {
    out.mutable_stopping()->add_stop_strings(value.get<std::string>());
    return absl::OkStatus();
  }
  if (key == "stop" && value.is_array()) {
    for (const json& entry : value) {
      if (!entry.is_string()) return Wrong("parameters.stop", "must hold strings");
      out.mutable_stopping()->add_stop_strings(entry.get<std::string>());
    }
    return absl::OkStatus();
  }
  return Wrong(absl::StrCat("parameters.", key), "is unknown or must be another type");
}

json ToJson(const InferParameter& parameter) {
  switch (parameter.parameter_choice_case()) {
    case InferParameter::kBoolParam:
      return parameter.bool_param();
    case InferParameter::kInt64Param:
      return parameter.int64_param();
    case InferParameter::kStringParam:
      return parameter.string_param();
    case InferParameter::kDoubleParam:
      return parameter.double_param();
    case InferParameter::kUint64Param:
      return parameter.uint64_param();
    case InferParameter::PARAMETER_CHOICE_NOT_SET:
      break;
  }
  return nullptr;
}

absl::Status ApplyJson(const std::string& text, api::GenerateRequest& out) {
  const json document = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!document.is_object()) return Wrong("inputs.sampling_parameters", "is not a JSON object");
  for (const auto& [key, value] : document.items()) {
    LIFT_RETURN_IF_ERROR(Apply(key, value, out));
  }
  return absl::OkStatus();
}

// Returns through `exclude` whether the prompt is to be left out of the answer.
absl::Status ReadInput(const Tensor& tensor, OipInference& out, bool& exclude) {
  const std::string& name = tensor.meta.name();
  if (name == "text_input") {
    LIFT_ASSIGN_OR_RETURN(out.prompt, tensor.OneString());
    out.request.set_text(out.prompt);
    return absl::OkStatus();
  }
  if (name == "token_ids") {
    return tensor.Ids(*out.request.mutable_token_ids()->mutable_ids());
  }
  if (name == "stream") {
    LIFT_ASSIGN_OR_RETURN(out.stream, tensor.OneBool());
    return absl::OkStatus();
  }
  if (name == "exclude_input_in_output") {
    LIFT_ASSIGN_OR_RETURN(exclude, tensor.OneBool());
    return absl::OkStatus();
  }
  if (name == "sampling_parameters") {
    LIFT_ASSIGN_OR_RETURN(const std::string text, tensor.OneString());
    return ApplyJson(text, out.request);
  }
  return Wrong(tensor.field(),
               "is unknown; this model takes text_input, token_ids, stream, "
               "exclude_input_in_output and sampling_parameters");
}

absl::Status ReadOutputs(const ModelInferRequest& request, OipInference& out) {
  if (request.outputs().empty()) return absl::OkStatus();
  out.want_text = false;
  for (const auto& output : request.outputs()) {
    if (output.name() == "text_output") {
      out.want_text = true;
    } else if (output.name() == "token_ids") {
      out.want_ids = true;
    } else {
      return Wrong(absl::StrCat("outputs.", output.name()),
                   "is unknown; this model gives text_output and token_ids");
    }
  }
  return absl::OkStatus();
}

void AddBytes(const OipInference& inference, const std::string& text,
              inference::ModelInferResponse& response) {
  auto& output = *response.add_outputs();
  output.set_name("text_output");
  output.set_datatype("BYTES");
  output.add_shape(1);
  if (!inference.raw) {
    output.mutable_contents()->add_bytes_contents(text);
    return;
  }
  const auto size = static_cast<uint32_t>(text.size());
  std::string& raw = *response.add_raw_output_contents();
  raw.assign(reinterpret_cast<const char*>(&size), sizeof size);
  raw += text;
}

void AddIds(const OipInference& inference, const std::vector<int32_t>& ids,
            inference::ModelInferResponse& response) {
  auto& output = *response.add_outputs();
  output.set_name("token_ids");
  output.set_datatype("INT32");
  output.add_shape(static_cast<int64_t>(ids.size()));
  if (inference.raw) {
    response.add_raw_output_contents()->assign(reinterpret_cast<const char*>(ids.data()),
                                               ids.size() * sizeof(int32_t));
  } else {
    output.mutable_contents()->mutable_int_contents()->Add(ids.begin(), ids.end());
  }
}

}  // namespace

absl::StatusOr<OipInference> ToInference(const ServiceContext& services,
                                         const ModelInferRequest& request) {
  LIFT_RETURN_IF_ERROR(CheckModel(services, request.model_name()));
  OipInference out;
  out.model_name = services.model.name;
  out.model_version = request.model_version();
  out.id = request.id();
  out.raw = !request.raw_input_contents().empty();
  if (out.raw && request.raw_input_contents_size() != request.inputs_size()) {
    return Wrong("raw_input_contents", "must have one entry for each input");
  }
  bool exclude = true;
  for (int i = 0; i < request.inputs_size(); ++i) {
    const Tensor tensor{request.inputs(i), out.raw ? &request.raw_input_contents(i) : nullptr};
    LIFT_RETURN_IF_ERROR(ReadInput(tensor, out, exclude));
  }
  if (exclude) out.prompt.clear();
  for (const auto& [key, value] : request.parameters()) {
    if (key == "triton_enable_empty_final_response") {
      out.final_marker = value.bool_param();
      continue;
    }
    LIFT_RETURN_IF_ERROR(Apply(key, ToJson(value), out.request));
  }
  LIFT_RETURN_IF_ERROR(ReadOutputs(request, out));
  if (!out.model_version.empty()) {
    LIFT_RETURN_IF_ERROR(Apply("variant", out.model_version, out.request));
  }
  out.request.set_request_id(request.id());
  out.request.mutable_output()->set_token_ids(out.want_ids);
  return out;
}

inference::ModelInferResponse ToResponse(const OipInference& inference, const OipPiece& piece) {
  inference::ModelInferResponse response;
  response.set_model_name(inference.model_name);
  response.set_model_version(piece.variant.empty() ? inference.model_version : piece.variant);
  response.set_id(inference.id);
  auto& parameters = *response.mutable_parameters();
  if (!piece.variant.empty()) {
    parameters["variant"].set_string_param(piece.variant);
    parameters["lambda"].set_double_param(piece.lambda);
  }
  if (!piece.finish_reason.empty()) {
    parameters["finish_reason"].set_string_param(piece.finish_reason);
  }
  if (inference.stream || inference.final_marker) {
    parameters["triton_final_response"].set_bool_param(piece.final);
  }
  if (inference.want_text) AddBytes(inference, piece.text, response);
  if (inference.want_ids) AddIds(inference, piece.token_ids, response);
  return response;
}

}  // namespace lift::rpc
