#include "server/engine/engine.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/check.h"
#include "server/constraint/constraint_compiler.h"
#include "server/engine/admission.h"
#include "server/engine/engine_loop.h"
#include "server/engine/registry.h"
#include "server/engine/variant_views.h"

namespace lift {

std::string_view FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "STOP";
    case FinishReason::kLength:
      return "LENGTH";
    case FinishReason::kCancelled:
      return "CANCELLED";
    case FinishReason::kDeadline:
      return "DEADLINE";
    case FinishReason::kError:
      return "ERROR";
    case FinishReason::kDrained:
      return "DRAINED";
  }
  return "UNKNOWN";
}

struct Engine::Impl {
  Impl(StepModel& model, std::shared_ptr<const Tokenizer> t, const EngineOptions& options)
      : tokenizer(std::move(t)),
        observer(options.observer),
        limits{.vocab_size = model.vocab_size(),
               .max_context = model.max_context(),
               .block_tokens = model.block_tokens(),
               .num_blocks = model.num_blocks()},
        views(ViewsOf(model.variants())),
        router(options.router),
        registry(options.max_waiting, model.num_blocks(), options.first_sequence),
        loop(model, options, registry, views),
        constraints(tokenizer) {
    LIFT_CHECK(!views.empty() && options.max_batch > 0 && options.prefill_chunk_tokens > 0);
    thread = std::thread([this] { loop.Run(); });
  }

  absl::Status Check(const EngineRequest& request) const;
  absl::Status CheckDeadline(const EngineRequest& request) const;
  void CompileConstraint(std::shared_ptr<RequestGroup> group);
  std::span<const router::VariantView> ResidentViews() const {
    return std::span(views).first(static_cast<size_t>(loop.resident()));
  }

  const std::shared_ptr<const Tokenizer> tokenizer;
  EngineObserver* const observer;
  const AdmissionLimits limits;
  const std::vector<router::VariantView> views;
  const router::RouterConfig router;
  RequestRegistry registry;
  EngineLoop loop;
  ConstraintCompiler constraints;
  std::thread thread;
};

absl::Status Engine::Impl::Check(const EngineRequest& request) const {
  LIFT_RETURN_IF_ERROR(ValidateRequest(request, limits));
  LIFT_RETURN_IF_ERROR(router::CheckPrecision(request.precision, ResidentViews()));
  return CheckDeadline(request);
}

// What comes of it, also that it waits in vain, reaches the engine thread after the request itself.
void Engine::Impl::CompileConstraint(std::shared_ptr<RequestGroup> group) {
  const auto tell = [this, group](const ConstraintCompiler::Result& result) {
    registry.Post([this, group, result](bool stopping) {
      if (!stopping) loop.SetConstraint(*group, result);
    });
  };
  const absl::Status queued =
      constraints.Compile(group->request.constraint, group->request.tenant, tell);
  if (!queued.ok()) tell(queued);
}

// Also refuses a deadline that even an empty server could not meet, before work is spent on it.
absl::Status Engine::Impl::CheckDeadline(const EngineRequest& request) const {
  if (!request.deadline) return absl::OkStatus();
  const double left = std::chrono::duration<double>(*request.deadline - EngineClock::now()).count();
  if (left <= 0) return absl::DeadlineExceededError("the deadline has already passed");
  // What is known of other prompts may be a prefix of this one, and need not be read again.
  const EngineLoad load = registry.load();
  const int64_t known = (load.blocks_used + load.blocks_cached) * limits.block_tokens;
  const int64_t unread = std::max<int64_t>(0, static_cast<int64_t>(request.prompt.size()) - known);
  const double prefill = loop.fastest_token_seconds() * static_cast<double>(unread);
  const double answer =
      loop.fastest_step_seconds() *
      static_cast<double>(std::max<int64_t>(1, request.stopping.min_new_tokens) - 1);
  if (prefill + answer <= left) return absl::OkStatus();
  return absl::DeadlineExceededError(absl::StrFormat(
      "the deadline is %.3f s away, but reading a prompt of %d tokens and generating at least %d "
      "takes at least %.3f s here; allow more time or ask for less",
      left, request.prompt.size(), std::max<int64_t>(1, request.stopping.min_new_tokens),
      prefill + answer));
}

Engine::Engine(StepModel& model, std::shared_ptr<const Tokenizer> tokenizer, EngineOptions options)
    : impl_(std::make_unique<Impl>(model, std::move(tokenizer), options)) {}

Engine::~Engine() {
  impl_->registry.Stop();
  impl_->thread.join();
  impl_->registry.WaitForRetired();
}

absl::StatusOr<std::string> Engine::Submit(EngineRequest request,
                                           std::shared_ptr<RequestListener> listener) {
  LIFT_CHECK(listener != nullptr);
  const auto reject = [&](const EngineRequest& rejected, absl::Status status) {
    if (impl_->observer != nullptr) impl_->observer->OnRejected(rejected, status);
    return status;
  };
  absl::Status status = impl_->Check(request);
  if (!status.ok()) return reject(request, std::move(status));
  auto live = std::make_shared<RequestGroup>(
      std::move(request), std::move(listener), *impl_->tokenizer,
      RequestGroup::Pools{impl_->loop.pool(), impl_->loop.swap_pool()}, impl_->limits.block_tokens,
      static_cast<int>(impl_->views.size()) - 1);
  live->features = router::ExtractTextFeatures(live->request.prompt_text, live->request.turns);
  live->kind = router::KindOf(live->features, live->request.prompt_text);
  status = impl_->registry.Add(live);
  if (!status.ok()) return reject(live->request, std::move(status));
  std::string id = live->request.request_id;
  if (live->request.constraint != nullptr) impl_->CompileConstraint(std::move(live));
  return id;
}

bool Engine::Cancel(const std::string& request_id) { return impl_->registry.Cancel(request_id); }

bool Engine::Drain(std::chrono::milliseconds timeout) { return impl_->registry.Drain(timeout); }

SpeculationStats Engine::speculation() const { return impl_->loop.speculation(); }

EngineLoad Engine::load() const {
  EngineLoad load = impl_->registry.load();
  load.resident_variants = impl_->loop.resident();
  load.preemption = impl_->loop.preemption();
  return load;
}

const router::RouterConfig& Engine::router() const { return impl_->router; }

std::vector<router::VariantView> Engine::variant_views() const {
  const auto resident = impl_->ResidentViews();
  return {resident.begin(), resident.end()};
}

int Engine::resident_variants() const { return impl_->loop.resident(); }

void Engine::SetResidentVariants(int count,
                                 std::function<void(absl::StatusOr<ResidencyChange>)> done) {
  impl_->registry.Post([this, count, done = std::move(done)](bool stopping) {
    if (stopping) return done(absl::UnavailableError("DRAINING: the server is shutting down"));
    done(impl_->loop.SetResident(count));
  });
}

}  // namespace lift
