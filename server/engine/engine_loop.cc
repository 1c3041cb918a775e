#include "server/engine/engine_loop.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"

namespace lift {
namespace {

// An idle engine still reports its idle memory this often.
constexpr std::chrono::milliseconds kIdlePatience{1000};
// Fewer tokens than this say more about a step's overhead than about how fast tokens can be read.
constexpr int64_t kMeasurableTokens = 16;

double SecondsSince(EngineClock::time_point start) {
  return std::chrono::duration<double>(EngineClock::now() - start).count();
}

}  // namespace

EngineLoop::EngineLoop(StepModel& model, const EngineOptions& options, RequestRegistry& registry,
                       std::vector<router::VariantView> views)
    : model_(model),
      options_(options),
      registry_(registry),
      views_(std::move(views)),
      observer_(options.observer != nullptr ? *options.observer : silent_),
      pool_(model.num_blocks()),
      meter_(model.variants(), options.weight_resident_bytes,
             static_cast<uint64_t>(model.num_blocks() * model.bytes_per_block())),
      started_(EngineClock::now()),
      resident_(static_cast<int>(views_.size())) {}

void EngineLoop::Run() {
  for (;;) {
    RequestRegistry::Mail mail = registry_.Take(requests_.empty(), kIdlePatience);
    if (requests_.empty()) Settle({});
    for (auto& request : mail.arrived) Welcome(request);
    for (auto& task : mail.tasks) task(mail.stopping);
    if (mail.stopping) break;
    EndExpired();
    if (!requests_.empty()) RunStep();
  }
  for (const auto& request : requests_) {
    Finish(*request, FinishReason::kDrained,
           absl::UnavailableError("DRAINING: the server shut down before the answer was complete"));
  }
  Sweep();
  Settle({});
}

void EngineLoop::EndExpired() {
  const auto now = EngineClock::now();
  for (const auto& request : requests_) {
    if (request->cancelled) {
      Finish(*request, FinishReason::kCancelled, absl::CancelledError("the request was cancelled"));
    } else if (request->request.deadline && now >= *request->request.deadline) {
      Finish(*request, FinishReason::kDeadline,
             absl::DeadlineExceededError("the deadline passed before the answer was complete"));
    }
  }
  Sweep();
}

void EngineLoop::RunStep() {
  const StepPlan plan = Plan();
  Apply(plan);
  LIFT_CHECK(
      !plan.chunks
           .empty());  // the first in order always advances: admission saw to it that it fits
  const std::vector<SequenceChunk> chunks = Chunks(plan);
  RunModel(chunks);
  Charge(plan, chunks);
  Advance(plan, chunks);
  Sweep();
}

StepPlan EngineLoop::Plan() const {
  std::vector<PlanSequence> snapshot;
  snapshot.reserve(requests_.size());
  for (const auto& request : requests_) snapshot.push_back(request->Snapshot());
  return PlanStep(snapshot, {.max_batch = options_.max_batch,
                             .prefill_tokens = options_.prefill_chunk_tokens,
                             .block_tokens = model_.block_tokens(),
                             .free_blocks = pool_.free()});
}

void EngineLoop::Apply(const StepPlan& plan) {
  for (const size_t i : plan.preempt) requests_[i]->Preempt();
  for (const size_t i : plan.admit) {
    LiveRequest& request = *requests_[i];
    request.running = true;
    if (!request.decided && request.computed == 0) request.prompt_variant = resident_ - 1;
    if (!request.admitted) request.admitted = EngineClock::now();
    request.table.Cover(static_cast<int64_t>(request.tokens.size()));
  }
  for (const PlanChunk& chunk : plan.chunks) {
    LiveRequest& request = *requests_[chunk.sequence];
    request.table.Cover(request.computed + chunk.tokens);
  }
  Publish();
}

std::vector<SequenceChunk> EngineLoop::Chunks(const StepPlan& plan) const {
  std::vector<SequenceChunk> chunks;
  for (const PlanChunk& planned : plan.chunks) {
    const LiveRequest& request = *requests_[planned.sequence];
    const std::span<const int32_t> tokens(request.tokens);
    const bool last = request.computed + planned.tokens == static_cast<int64_t>(tokens.size());
    chunks.push_back(
        {.tokens = tokens.subspan(static_cast<size_t>(request.computed),
                                  static_cast<size_t>(planned.tokens)),
         .position = request.computed,
         .blocks = request.table.blocks(),
         .variant = request.reading_prompt() ? request.prompt_variant : request.variant,
         .logits = last ? SequenceChunk::Logits::kLast : SequenceChunk::Logits::kNone});
  }
  return chunks;
}

void EngineLoop::RunModel(const std::vector<SequenceChunk>& chunks) {
  const auto start = EngineClock::now();
  model_.Step(chunks, logits_);
  const double seconds = SecondsSince(start);
  int64_t tokens = 0;
  for (const SequenceChunk& chunk : chunks) tokens += static_cast<int64_t>(chunk.tokens.size());
  if (tokens < kMeasurableTokens) return;
  const double each = seconds / static_cast<double>(tokens);
  const double fastest = fastest_token_seconds_;
  if (fastest == 0 || each < fastest) fastest_token_seconds_ = each;
}

void EngineLoop::Charge(const StepPlan& plan, const std::vector<SequenceChunk>& chunks) {
  std::vector<StepMeter::Holder> holders;
  std::vector<int> ran_at(requests_.size(), -1);
  for (size_t i = 0; i < chunks.size(); ++i) ran_at[plan.chunks[i].sequence] = chunks[i].variant;
  for (size_t i = 0; i < requests_.size(); ++i) {
    LiveRequest& request = *requests_[i];
    if (!request.running) continue;
    holders.push_back(
        {.tenant = &request.request.tenant,
         .usage = &request.usage,
         .variant = ran_at[i] >= 0 ? ran_at[i] : request.variant,
         .ran = ran_at[i] >= 0,
         .state_bytes = request.table.HeldBytes(static_cast<uint64_t>(model_.bytes_per_block())),
         .sequence = request.request.sequence});
  }
  Settle(holders);
}

void EngineLoop::Settle(std::span<const StepMeter::Holder> holders) {
  const auto elapsed =
      std::chrono::duration_cast<std::chrono::microseconds>(EngineClock::now() - started_);
  const auto now = static_cast<uint64_t>(elapsed.count());
  const uint64_t micros = now - std::exchange(settled_micros_, now);
  if (micros == 0) return;
  observer_.OnCharges(meter_.Settle(holders, micros), ByteMicros{meter_.resident_bytes()} * micros);
}

void EngineLoop::Advance(const StepPlan& plan, const std::vector<SequenceChunk>& chunks) {
  const auto vocab = static_cast<size_t>(model_.vocab_size());
  size_t row = 0;
  for (size_t i = 0; i < chunks.size(); ++i) {
    LiveRequest& request = *requests_[plan.chunks[i].sequence];
    request.computed += plan.chunks[i].tokens;
    if (chunks[i].logits == SequenceChunk::Logits::kNone) continue;
    const auto logits = std::span<const float>(logits_).subspan(row++ * vocab, vocab);
    if (!request.decided) Decide(request, logits);
    Deliver(request, logits);
  }
}

void EngineLoop::Decide(LiveRequest& request, std::span<const float> logits) {
  const auto start = EngineClock::now();
  const auto signals = router::SignalsFromLogits(logits, request.prompt_tokens());
  const router::SystemState state{
      .queue_pressure = static_cast<double>(registry_.load().waiting) /
                        static_cast<double>(std::max<int64_t>(1, options_.max_waiting))};
  auto decision =
      router::Route(request.features, signals, request.request.precision,
                    std::span(views_).first(static_cast<size_t>(resident_.load())), state);
  LIFT_CHECK(decision.ok());  // checked at submission; signals and load cannot change it
  request.decided = true;
  request.reason = decision->reason;
  request.variant = decision->variant;
  observer_.OnDecision(*decision, request.variant, SecondsSince(start));
  request.listener->OnStarted({.decision = *std::move(decision),
                               .variant = request.variant,
                               .prompt_tokens = request.prompt_tokens(),
                               .cached_tokens = request.usage.cached_tokens});
}

void EngineLoop::Deliver(LiveRequest& request, std::span<const float> logits) {
  SampledToken sampled = request.SampleNext(logits);
  if (sampled.id < 0) {
    return Finish(request, FinishReason::kError,
                  absl::InternalError("the model left no token that could be sampled"));
  }
  const auto now = EngineClock::now();
  if (!request.first_token) {
    request.first_token = now;
    observer_.OnFirstToken(request.variant,
                           std::chrono::duration<double>(now - request.submitted).count());
  } else {
    observer_.OnInterToken(request.variant,
                           std::chrono::duration<double>(now - *request.last_token).count());
  }
  request.last_token = now;
  LiveRequest::Accepted accepted = request.Accept(std::move(sampled));
  request.listener->OnToken(accepted.token);
  if (accepted.finish) {
    Finish(request, *accepted.finish, absl::OkStatus(), std::move(accepted.matched_stop));
  }
}

void EngineLoop::Finish(LiveRequest& request, FinishReason reason, absl::Status status,
                        std::string matched_stop) {
  request.table.Clear();
  // Whoever was told that his cancellation counts must see it.
  if (registry_.Retire(request, pool_.used()) && reason != FinishReason::kCancelled) {
    reason = FinishReason::kCancelled;
    status = absl::CancelledError("the request was cancelled");
  }
  request.running = false;
  request.finished = true;
  FinishedEvent event{.reason = reason,
                      .matched_stop = std::move(matched_stop),
                      .tail_text = request.Tail(),
                      .status = std::move(status),
                      .usage = request.usage,
                      .timings = request.Timings(EngineClock::now()),
                      .seed_used = request.request.sampling.seed,
                      .variant = request.variant,
                      .spans = std::move(request.spans)};
  observer_.OnFinished(request.request, event);
  auto deliver = [this, listener = std::move(request.listener),
                  event = std::move(event)]() mutable {
    listener->OnFinished(event);
    listener.reset();
    registry_.Retired();
  };
  if (options_.acknowledge) return options_.acknowledge(std::move(deliver));
  deliver();
}

void EngineLoop::Sweep() {
  std::erase_if(requests_, [](const auto& request) { return request->finished; });
}

void EngineLoop::Publish() {
  const auto running = std::count_if(requests_.begin(), requests_.end(),
                                     [](const auto& request) { return request->running; });
  registry_.Publish(running, pool_.used());
}

}  // namespace lift
