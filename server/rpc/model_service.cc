#include "server/rpc/model_service.h"

#include <algorithm>
#include <span>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/memory/budget.h"
#include "server/rpc/status_map.h"
#include "server/rpc/timestamps.h"
#include "server/rpc/unary_answer.h"

namespace lift::rpc {
namespace {

api::Model ToModel(const ServiceContext& services) {
  const ModelInfo& info = services.model;
  api::Model model;
  model.set_name(info.name);
  model.set_architecture(info.architecture);
  const auto resident = static_cast<size_t>(services.engine.resident_variants());
  uint64_t resident_bytes = 0;
  for (const VariantInfo& variant : std::span(info.variants).first(resident)) {
    resident_bytes += variant.incremental_bytes;
    auto& v = *model.add_variants();
    v.set_name(variant.name);
    v.set_lambda(variant.lambda);
    v.set_bits_per_weight(variant.bits_per_weight);
    v.set_bytes(variant.bytes);
    v.set_incremental_bytes(variant.incremental_bytes);
    if (variant.kl >= 0) v.set_calibrated_kl(variant.kl);
    if (variant.perplexity >= 0) v.set_perplexity(variant.perplexity);
    v.set_full(variant.full);
  }
  model.set_max_context(info.max_context);
  model.set_vocab_size(info.vocab_size);
  model.set_weights_sha256(info.weights_sha256);
  model.set_source_sha256(info.source_sha256);
  model.set_resident_bytes(resident_bytes);
  model.set_has_chat_template(services.chat_template != nullptr);
  model.set_device(info.device);
  model.set_kv_format(info.kv_format);
  model.set_state_bytes_per_token(info.state_bytes_per_token);
  return model;
}

absl::Status RequireAdminOf(const ServiceContext& services,
                            const grpc::CallbackServerContext& context) {
  LIFT_ASSIGN_OR_RETURN(const Caller caller, CallerOf(services.shared, context));
  return RequireAdmin(caller);
}

// How many of the coarsest variants `name` and the coarser ones are.
absl::StatusOr<int> CountUpTo(const ServiceContext& services, const std::string& model,
                              const std::string& name) {
  LIFT_RETURN_IF_ERROR(CheckModel(services, model));
  const auto& variants = services.model.variants;
  for (size_t i = 0; i < variants.size(); ++i) {
    if (variants[i].name == name) return static_cast<int>(i) + 1;
  }
  return WithReason(absl::NotFoundError(absl::StrCat("model '", services.model.name,
                                                     "' has no variant '", name, "'")),
                    "NOT_FOUND", "variant");
}

// Answers when the engine has changed what is resident; `fill` completes the response.
template <class Response, class F>
grpc::ServerUnaryReactor* ChangeResidency(ServicesPtr services,
                                          grpc::CallbackServerContext* context, int count,
                                          grpc::ByteBuffer* out, F fill) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  Engine& engine = services->engine;
  engine.SetResidentVariants(
      count, [services, context, reactor, out, fill](absl::StatusOr<ResidencyChange> change) {
        if (change.ok()) {
          Response response;
          for (int i = 0; i < change->after; ++i) {
            response.add_resident_variants(services->model.variants[static_cast<size_t>(i)].name);
          }
          response.set_resident_bytes(change->resident_bytes);
          fill(*change, response);
          *out = SerializeMessage(response);
          services->shared.residency_changed();
        }
        reactor->Finish(FinishStatus(context, change.status()));
      });
  return reactor;
}

}  // namespace

grpc::ServerUnaryReactor* ModelService::LoadVariant(Context* context, const Bytes* in, Bytes* out) {
  const ServicesPtr services = slot_.current();
  const auto count = [&]() -> absl::StatusOr<int> {
    LIFT_RETURN_IF_ERROR(RequireAdminOf(*services, *context));
    api::LoadVariantRequest request;
    LIFT_RETURN_IF_ERROR(ParseMessage(*in, request));
    LIFT_ASSIGN_OR_RETURN(const int up_to,
                          CountUpTo(*services, request.model(), request.variant()));
    return std::max(up_to, services->engine.resident_variants());
  }();
  if (!count.ok()) return UnaryCall::End(context, count.status());
  return ChangeResidency<api::LoadVariantResponse>(services, context, *count, out,
                                                   [](const auto&, auto&) {});
}

grpc::ServerUnaryReactor* ModelService::UnloadVariant(Context* context, const Bytes* in,
                                                      Bytes* out) {
  const ServicesPtr services = slot_.current();
  const auto count = [&]() -> absl::StatusOr<int> {
    LIFT_RETURN_IF_ERROR(RequireAdminOf(*services, *context));
    api::UnloadVariantRequest request;
    LIFT_RETURN_IF_ERROR(ParseMessage(*in, request));
    LIFT_ASSIGN_OR_RETURN(const int up_to,
                          CountUpTo(*services, request.model(), request.variant()));
    if (up_to > 1) return std::min(up_to - 1, services->engine.resident_variants());
    return WithReason(absl::FailedPreconditionError(
                          absl::StrCat("'", request.variant(),
                                       "' is the coarsest variant, which "
                                       "every other contains; stop the server instead")),
                      "LAST_VARIANT");
  }();
  if (!count.ok()) return UnaryCall::End(context, count.status());
  return ChangeResidency<api::UnloadVariantResponse>(
      services, context, *count, out,
      [](const ResidencyChange& change, auto& out) { out.set_moved_streams(change.moved); });
}

grpc::ServerUnaryReactor* ModelService::SetMemoryBudget(Context* context, const Bytes* in,
                                                        Bytes* out) {
  const ServicesPtr services = slot_.current();
  const auto count = [&]() -> absl::StatusOr<int> {
    LIFT_RETURN_IF_ERROR(RequireAdminOf(*services, *context));
    api::SetMemoryBudgetRequest request;
    LIFT_RETURN_IF_ERROR(ParseMessage(*in, request));
    LIFT_RETURN_IF_ERROR(CheckModel(*services, request.model()));
    const auto& variants = services->model.variants;
    const int fit = VariantsWithin(variants, request.weight_bytes());
    if (fit > 0) return fit;
    return WithReason(absl::FailedPreconditionError(absl::StrCat(
                          "weight_bytes is ", request.weight_bytes(), "; the coarsest variant '",
                          variants[0].name, "' needs ", BytesOf(variants, 1))),
                      "BUDGET_TOO_SMALL", "weight_bytes");
  }();
  if (!count.ok()) return UnaryCall::End(context, count.status());
  return ChangeResidency<api::SetMemoryBudgetResponse>(
      services, context, *count, out,
      [](const ResidencyChange& change, auto& out) { out.set_moved_streams(change.moved); });
}

grpc::ServerUnaryReactor* ModelService::SwapModel(Context* context, const Bytes* in, Bytes* out) {
  const ServicesPtr services = slot_.current();
  api::SwapModelRequest request;
  const absl::Status status = [&]() -> absl::Status {
    LIFT_RETURN_IF_ERROR(RequireAdminOf(*services, *context));
    LIFT_RETURN_IF_ERROR(ParseMessage(*in, request));
    LIFT_RETURN_IF_ERROR(CheckModel(*services, request.model()));
    if (services->shared.swap_model) return absl::OkStatus();
    return WithReason(absl::UnimplementedError("this server keeps the model it was started with"),
                      "NOT_SUPPORTED");
  }();
  if (!status.ok()) return UnaryCall::End(context, status);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  services->shared.swap_model(request.file(), [this, context, reactor, out](absl::Status swapped) {
    if (swapped.ok()) {
      api::SwapModelResponse response;
      *response.mutable_model() = ToModel(*slot_.current());
      *out = SerializeMessage(response);
    }
    reactor->Finish(FinishStatus(context, swapped));
  });
  return reactor;
}

grpc::ServerUnaryReactor* ModelService::ListModels(Context* context, const Bytes* in, Bytes* out) {
  return AnswerNow<api::ListModelsRequest, api::ListModelsResponse>(
      slot_, context, in, out, [&](const ServiceContext& services, const auto&, auto& response) {
        *response.add_models() = ToModel(services);
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* ModelService::GetModel(Context* context, const Bytes* in, Bytes* out) {
  return AnswerNow<api::GetModelRequest, api::GetModelResponse>(
      slot_, context, in, out,
      [&](const ServiceContext& services, const auto& request, auto& response) -> absl::Status {
        LIFT_RETURN_IF_ERROR(CheckModel(services, request.name()));
        *response.mutable_model() = ToModel(services);
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* ModelService::GetServerInfo(Context* context, const Bytes* in,
                                                      Bytes* out) {
  return AnswerNow<api::GetServerInfoRequest, api::GetServerInfoResponse>(
      slot_, context, in, out, [&](const ServiceContext& services, const auto&, auto& response) {
        response.set_version(services.shared.build.version);
        response.set_build_type(services.shared.build.build_type);
        response.set_cuda_compiled(services.shared.build.cuda_compiled);
        response.set_device(services.model.device);
        response.set_device_description(services.model.device_description);
        *response.mutable_start_time() = ToTimestamp(UnixMicros(services.shared.build.start_time));
        response.set_router_version(services.model.router_version);
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* ModelService::GetLoad(Context* context, const Bytes* in, Bytes* out) {
  return AnswerNow<api::GetLoadRequest, api::GetLoadResponse>(
      slot_, context, in, out, [&](const ServiceContext& services, const auto&, auto& response) {
        const EngineLoad load = services.engine.load();
        response.set_running(load.running);
        response.set_waiting(load.waiting);
        response.set_kv_blocks_used(load.blocks_used);
        response.set_kv_blocks_total(load.blocks_total);
        response.set_draining(load.draining);
        return absl::OkStatus();
      });
}

}  // namespace lift::rpc
