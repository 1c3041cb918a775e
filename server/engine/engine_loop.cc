#include "server/engine/engine_loop.h"

#include <algorithm>
#include <map>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"

namespace lift {
namespace {

// Fewer tokens than this say more about a step's overhead than about how fast tokens can be read.
constexpr int64_t kMeasurableTokens = 16;

// What an answer is expected to need before any has ended. Without it a crowd that comes at once
// is all let in, and most of it preempted again.
constexpr double kFirstAnswerTokens = 128;

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
      swap_pool_(model.swappable_state() ? options.swap_bytes / model.bytes_per_block() : 0),
      swap_(std::make_unique_for_overwrite<std::byte[]>(
          static_cast<size_t>(swap_pool_.total() * model.bytes_per_block()))),
      cache_(pool_, model.block_tokens()),
      snapshots_(model.reusable_state() ? nullptr : std::make_unique<SnapshotCache>(pool_)),
      meter_(model.variants(), options.weight_resident_bytes,
             static_cast<uint64_t>((model.num_blocks() + swap_pool_.total()) *
                                   model.bytes_per_block())),
      draft_plans_(router::PlanDrafts(views_, options.router)),
      started_(EngineClock::now()),
      watched_(started_),
      resident_(static_cast<int>(views_.size())) {}

void EngineLoop::Run() {
  for (;;) {
    const bool idle = Idle();
    RequestRegistry::Mail mail = registry_.Take(idle, Patience());
    if (idle) Settle({});
    for (auto& group : mail.arrived) TakeOver(std::move(group));
    for (auto& task : mail.tasks) task(mail.stopping);
    if (mail.stopping) break;
    EndExpired();
    if (!Idle()) RunStep();
  }
  for (LiveRequest* request : requests_) {
    Finish(*request, FinishReason::kDrained,
           absl::UnavailableError("DRAINING: the server shut down before the answer was complete"));
  }
  Sweep();
  Settle({});
}

// Between its check at submission and now the resident variants may have changed.
void EngineLoop::TakeOver(std::shared_ptr<RequestGroup> shared) {
  RequestGroup& group = *shared;
  const EngineRequest& request = group.request;
  observer_.OnAdmitted(request);
  shares_.Join(request.tenant);
  for (const auto& choice : group.choices) {
    // A tenant's name has no zero byte.
    choice->cursor.salt =
        (options_.share_prefixes ? std::string() : request.tenant) + '\0' + request.cache.salt;
    if (request.cache.bypass) {  // the choices share among themselves only
      choice->cursor.salt = std::string(2, '\0') + std::to_string(group.arrival);
    }
    if (snapshots_ && Caches(*choice)) choice->snapshot_tokens = options_.snapshot_tokens;
    choice->escalation = router::Escalation(options_.escalation);
    choice->variant = resident_ - 1;
    choice->Clamp(0, resident_);
    requests_.push_back(choice.get());
  }
  groups_.push_back(std::move(shared));
  const auto resident = std::span(views_).first(static_cast<size_t>(resident_.load()));
  const absl::Status precision = router::CheckPrecision(request.precision, resident);
  if (!precision.ok()) return FinishAll(group, FinishReason::kError, precision);
  RefuseIfLate(*group.choices[0]);
}

// Now that it is known what the cache has of its prompt.
void EngineLoop::RefuseIfLate(LiveRequest& leader) {
  if (!leader.request.deadline) return;
  const int64_t unread = leader.prompt_tokens() - Prefix(leader).computed_tokens;
  const double needed = fastest_token_seconds_ * static_cast<double>(unread);
  const std::chrono::duration<double> left = *leader.request.deadline - EngineClock::now();
  if (needed <= left.count()) return;
  FinishAll(leader.group, FinishReason::kDeadline,
            absl::DeadlineExceededError("the deadline is sooner than the prompt can be read; allow "
                                        "more time or shorten it"));
}

void EngineLoop::FinishAll(RequestGroup& group, FinishReason reason, const absl::Status& status) {
  for (const auto& choice : group.choices) Finish(*choice, reason, status);
  Sweep();
}

void EngineLoop::EndExpired() {
  const auto now = EngineClock::now();
  for (LiveRequest* request : requests_) {
    if (request->group.cancelled) {
      Finish(*request, FinishReason::kCancelled, absl::CancelledError("the request was cancelled"));
    } else if (request->request.deadline && now >= *request->request.deadline) {
      Finish(*request, FinishReason::kDeadline,
             absl::DeadlineExceededError("the deadline passed before the answer was complete"));
    }
  }
  Sweep();
}

void EngineLoop::RunStep() {
  const auto now = EngineClock::now();
  WatchQueue(now);
  WantDrafts();
  StepPlan plan = Plan(now);
  Apply(plan, now);
  if (plan.chunks.empty()) {
    LIFT_CHECK(!plan.preempt.empty());  // the only one that ran made room; the next step admits
    return;
  }
  Guess(plan);
  std::vector<SequenceChunk> chunks = Chunks(plan);
  AddProbes(plan, chunks);
  RunModel(chunks);
  Charge(plan, chunks);
  const int64_t before = delivered_;
  const double seconds = SecondsSince(now);
  Advance(plan, chunks);
  JudgeGuesses(plan, delivered_ - before, seconds);
  Sweep();
}

void EngineLoop::WatchQueue(EngineClock::time_point now) {
  pressure_.Update(static_cast<double>(registry_.load().waiting) /
                       static_cast<double>(std::max<int64_t>(1, options_.max_waiting)),
                   std::chrono::duration<double>(now - watched_).count());
  watched_ = now;
}

StepPlan EngineLoop::Plan(EngineClock::time_point now) const {
  std::vector<PlanSequence> snapshot;
  std::vector<size_t> members;  // a snapshot's index in requests_
  std::map<std::string_view, int> tenants;
  std::vector<double> credits;
  for (size_t i = 0; i < requests_.size(); ++i) {
    const LiveRequest& request = *requests_[i];
    if (request.following()) continue;
    const std::string& tenant = request.request.tenant;
    const auto [it, added] = tenants.try_emplace(tenant, static_cast<int>(credits.size()));
    if (added) credits.push_back(shares_.credit(tenant));
    snapshot.push_back(request.Snapshot(now));
    snapshot.back().tenant = it->second;
    snapshot.back().swappable = !request.table.dropped();
    members.push_back(i);
  }
  const auto micros = [](std::chrono::milliseconds time) {
    return std::chrono::duration_cast<std::chrono::microseconds>(time).count();
  };
  StepPlan plan =
      PlanStep(snapshot, {.max_batch = options_.max_batch,
                          .prefill_tokens = options_.prefill_chunk_tokens,
                          .prefill_beside = step_times_.PromptBeside(std::min(
                              options_.prefill_beside_tokens, options_.prefill_chunk_tokens)),
                          .block_tokens = model_.block_tokens(),
                          .free_blocks = pool_.free(),
                          .total_blocks = pool_.total(),
                          .growth_tokens = static_cast<int64_t>(
                              expected_tokens_ > 0 ? expected_tokens_ : kFirstAnswerTokens),
                          .aging_us = micros(options_.aging),
                          .patience_us = micros(options_.patience),
                          .free_swap_blocks = swap_pool_.free(),
                          .swap_block_us = SwapBlockMicros(),
                          .compute_token_us = ComputeTokenMicros(),
                          .credits = credits,
                          .request_cost = expected_cost_,
                          .prefix = [&](size_t i) { return Prefix(*requests_[members[i]]); }});
  for (size_t& i : plan.preempt) i = members[i];
  for (size_t& i : plan.swap) i = members[i];
  for (size_t& i : plan.admit) i = members[i];
  for (PlanChunk& chunk : plan.chunks) chunk.sequence = members[chunk.sequence];
  return plan;
}

std::vector<SequenceChunk> EngineLoop::Chunks(const StepPlan& plan) const {
  using Logits = SequenceChunk::Logits;
  std::vector<SequenceChunk> chunks;
  for (const PlanChunk& planned : plan.chunks) {
    const LiveRequest& request = *requests_[planned.sequence];
    auto tokens =
        std::span<const int32_t>(request.tokens)
            .subspan(static_cast<size_t>(request.computed), static_cast<size_t>(planned.tokens));
    const bool last =
        tokens.data() + tokens.size() == request.tokens.data() + request.tokens.size();
    const bool all = request.WantsPromptLogprobs() || planned.drafts > 0;
    if (planned.drafts > 0) tokens = request.drafts;
    chunks.push_back({.tokens = tokens,
                      .position = request.computed,
                      .blocks = request.table.blocks(),
                      .variant = request.variants[static_cast<size_t>(request.computed)],
                      .logits = all    ? Logits::kAll
                                : last ? Logits::kLast
                                       : Logits::kNone,
                      .prefill = request.computed < request.prefill_tokens()});
  }
  return chunks;
}

void EngineLoop::RunModel(const std::vector<SequenceChunk>& chunks) {
  const auto start = EngineClock::now();
  model_.Step(chunks, logits_);
  const double seconds = SecondsSince(start);
  int64_t tokens = 0, prompt = 0;
  for (const SequenceChunk& chunk : chunks) {
    tokens += static_cast<int64_t>(chunk.tokens.size());
    if (chunk.prefill) prompt += static_cast<int64_t>(chunk.tokens.size());
  }
  step_times_.Note(prompt, tokens - prompt, seconds);
  if (fastest_step_seconds_ == 0 || seconds < fastest_step_seconds_) {
    fastest_step_seconds_ = seconds;
  }
  if (tokens < kMeasurableTokens) return;
  const double each = seconds / static_cast<double>(tokens);
  const double fastest = fastest_token_seconds_;
  if (fastest == 0 || each < fastest) fastest_token_seconds_ = each;
}

void EngineLoop::Charge(const StepPlan& plan, const std::vector<SequenceChunk>& chunks) {
  std::vector<StepMeter::Holder> holders;
  std::vector<int> ran_at(requests_.size(), -1);
  for (size_t i = 0; i < plan.chunks.size(); ++i) {
    ran_at[plan.chunks[i].sequence] = chunks[i].variant;
  }
  for (size_t i = 0; i < requests_.size(); ++i) {
    LiveRequest& request = *requests_[i];
    const uint64_t block_bytes = static_cast<uint64_t>(model_.bytes_per_block());
    const uint64_t held =
        request.table.HeldBytes(block_bytes) + request.swapped.HeldBytes(block_bytes);
    if (!request.running && held == 0) continue;
    holders.push_back({.tenant = &request.request.tenant,
                       .usage = &request.usage,
                       .variant = ran_at[i] >= 0 ? ran_at[i] : request.variant,
                       .ran = ran_at[i] >= 0,
                       .state_bytes = held,
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
  const std::vector<EngineObserver::Charge> charges = meter_.Settle(holders, micros);
  for (const auto& charge : charges) {
    if (charge.variant >= 0) shares_.Charge(charge.tenant, static_cast<double>(charge.byte_us));
  }
  shares_.Round();
  observer_.OnCharges(charges, ByteMicros{meter_.resident_bytes()} * micros);
}

void EngineLoop::Advance(const StepPlan& plan, const std::vector<SequenceChunk>& chunks) {
  const auto vocab = static_cast<size_t>(model_.vocab_size());
  std::span<const float> rest(logits_);
  for (size_t i = 0; i < plan.chunks.size(); ++i) {
    LiveRequest& request = *requests_[plan.chunks[i].sequence];
    const auto rows = static_cast<size_t>(LogitRows(chunks[i]));
    const auto logits = rest.first(rows * vocab);
    rest = rest.subspan(rows * vocab);
    if (plan.chunks[i].drafts > 0) {
      DeliverGuessed(request, logits);
      continue;
    }
    if (chunks[i].logits == SequenceChunk::Logits::kAll) {
      AddPromptLogprobs(request, plan.chunks[i].tokens, logits);
    }
    request.computed += plan.chunks[i].tokens;
    RememberBlocks(request);
    if (request.computed < static_cast<int64_t>(request.tokens.size())) continue;
    if (!request.decided) Decide(request, logits.last(vocab));
    Deliver(request, logits.last(vocab));
  }
}

// Row i follows the i-th token of the chunk; it counts as long as that token is what was drawn. The
// state of wrong guesses is computed over.
void EngineLoop::DeliverGuessed(LiveRequest& request, std::span<const float> rows) {
  const auto vocab = static_cast<size_t>(model_.vocab_size());
  const std::vector<int32_t> chunk = request.drafts;
  const uint8_t computed_at = request.variants.back();
  int64_t accepted = -1;
  for (size_t i = 0; i < chunk.size() && !request.finished; ++i) {
    // Also where precision rose: the token was right, but must be computed at the finer variant.
    if (request.tokens.back() != chunk[i] || request.variants.back() != computed_at) break;
    ++accepted;
    ++request.computed;
    RememberBlocks(request);
    Deliver(request, rows.subspan(i * vocab, vocab));
  }
  const bool looked_up = request.drafts_looked_up;
  (looked_up ? looked_up_ : drafted_) += static_cast<int64_t>(chunk.size()) - 1;
  (looked_up ? looked_up_accepted_ : drafted_accepted_) += accepted;
}

void EngineLoop::AddPromptLogprobs(LiveRequest& request, int64_t tokens,
                                   std::span<const float> rows) {
  const auto vocab = static_cast<size_t>(model_.vocab_size());
  auto& logprobs = request.group.prompt_logprobs;
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t next = request.computed + t + 1;
    // Preempted and read again: what is there stays.
    if (next >= request.prompt_tokens() || next <= static_cast<int64_t>(logprobs.size())) continue;
    logprobs.push_back(LogprobsOf(rows.subspan(static_cast<size_t>(t) * vocab, vocab),
                                  request.tokens[static_cast<size_t>(next)],
                                  request.request.prompt_logprobs));
  }
}

void EngineLoop::Decide(LiveRequest& request, std::span<const float> logits) {
  RequestGroup& group = request.group;
  request.decided = true;
  if (group.decision) {  // made once for all choices
    request.variant = std::min(group.decision->variant, resident_ - 1);
    request.reason = request.variant == group.decision->variant ? group.decision->reason
                                                                : router::Reason::kMemory;
    return;
  }
  const auto start = EngineClock::now();
  auto signals = router::SignalsFromLogits(logits, request.prompt_tokens());
  signals.probe_kl = ProbeKl(request, logits);
  const router::SystemState state{.queue_pressure = pressure_.value()};
  const auto resident = std::span(views_).first(static_cast<size_t>(resident_.load()));
  auto decision = router::Route(group.features, signals, request.request.precision, resident, state,
                                options_.router);
  LIFT_CHECK(decision.ok());  // checked at submission; signals and load cannot change it
  request.reason = decision->reason;
  request.variant = decision->variant;
  group.decision = *decision;
  observer_.OnDecision(*decision, request.variant, SecondsSince(start));
  observer_.OnRouted(group.request, {.decision = *decision,
                                     .variant = request.variant,
                                     .state = state,
                                     .resident_variants = resident_,
                                     .prompt_tokens = request.prompt_tokens(),
                                     .kind = group.kind});
  group.listener->OnStarted({.decision = *std::move(decision),
                             .variant = request.variant,
                             .prompt_tokens = request.prompt_tokens(),
                             .cached_tokens = request.usage.cached_tokens,
                             .prompt_logprobs = std::move(group.prompt_logprobs)});
}

// The first token says nothing of its variant: it was drawn from what the finest made of the
// prompt.
void EngineLoop::Escalate(LiveRequest& request, std::span<const float> logits) {
  if (options_.escalation <= 0 || request.generated() == 0) return;
  const auto resident = std::span(views_).first(static_cast<size_t>(resident_.load()));
  const int next =
      request.escalation.Next(request.variant, logits, request.request.precision, resident);
  if (next == request.variant) return;
  request.variant = next;
  request.reason = router::Reason::kEscalated;
}

void EngineLoop::Deliver(LiveRequest& request, std::span<const float> logits) {
  SampledToken sampled = request.SampleNext(logits);
  if (sampled.id < 0) {
    return Finish(request, FinishReason::kError,
                  absl::InternalError("the model left no token that could be sampled"));
  }
  Escalate(request, logits);
  const auto now = EngineClock::now();
  if (!request.first_token) {
    request.first_token = now;
    if (request.leads()) {
      observer_.OnFirstToken(request.variant,
                             std::chrono::duration<double>(now - request.group.submitted).count());
    }
  } else {
    observer_.OnInterToken(request.variant,
                           std::chrono::duration<double>(now - *request.last_token).count());
  }
  request.last_token = now;
  ++delivered_;
  LiveRequest::Accepted accepted = request.Accept(std::move(sampled));
  request.group.listener->OnToken(accepted.token);
  if (accepted.finish) {
    Finish(request, *accepted.finish, absl::OkStatus(), std::move(accepted.matched_stop));
  }
}

void EngineLoop::Finish(LiveRequest& request, FinishReason reason, absl::Status status,
                        std::string matched_stop) {
  if (request.finished) return;
  RequestGroup& group = request.group;
  request.table.Clear();
  request.DropSwapped();
  swap_used_ = swap_pool_.used();
  registry_.Close(request.running, pool_.used(), pool_.cached());
  request.running = false;
  request.finished = true;
  group.ends[static_cast<size_t>(request.choice)] = {.reason = reason,
                                                     .matched_stop = std::move(matched_stop),
                                                     .tail_text = request.Tail(),
                                                     .seed_used = request.sampling.seed,
                                                     .generated_tokens = request.generated()};
  FinishedEvent& summary = group.summary;
  summary.usage.Add(request.usage);
  if (summary.status.ok()) summary.status = std::move(status);
  if (request.leads()) {
    summary.timings = request.Timings(EngineClock::now());
    summary.variant = request.variant;
    summary.spans = std::move(request.spans);
  }
  if (--group.unfinished == 0) FinishGroup(group);
}

void EngineLoop::FinishGroup(RequestGroup& group) {
  FinishedEvent& event = group.summary;
  // Whoever was told that his cancellation counts must see it.
  if (registry_.Retire(group)) {
    for (ChoiceEnd& end : group.ends) end.reason = FinishReason::kCancelled;
    event.status = absl::CancelledError("the request was cancelled");
  }
  event.choices = std::move(group.ends);
  // Of several answers the one that went wrong speaks for the request.
  const ChoiceEnd* speaker = &event.choices[0];
  for (const ChoiceEnd& end : event.choices) {
    const bool fine =
        speaker->reason == FinishReason::kStop || speaker->reason == FinishReason::kLength;
    const bool wrong = end.reason != FinishReason::kStop && end.reason != FinishReason::kLength;
    if (fine && wrong) speaker = &end;
  }
  event.reason = speaker->reason;
  event.matched_stop = event.choices[0].matched_stop;
  event.tail_text = event.choices[0].tail_text;
  event.seed_used = event.choices[0].seed_used;
  event.timings.total_seconds = SecondsSince(group.submitted);
  if (event.timings.ttft_seconds > 0) {
    event.timings.decode_seconds = event.timings.total_seconds - event.timings.ttft_seconds;
  }
  const auto average = [](double& mean, double value) {
    constexpr double kWeight = 0.1;
    mean = mean == 0 ? value : (1 - kWeight) * mean + kWeight * value;
  };
  const auto choices = static_cast<double>(event.choices.size());
  average(expected_tokens_, static_cast<double>(event.usage.generated_tokens) / choices);
  average(expected_cost_,
          static_cast<double>(event.usage.weight_byte_us + event.usage.kv_byte_us) / choices);
  shares_.Leave(group.request.tenant);
  observer_.OnFinished(group.request, event);
  auto deliver = [this, listener = std::move(group.listener), event = std::move(event)]() mutable {
    listener->OnFinished(event);
    listener.reset();
    registry_.Retired();
  };
  if (options_.acknowledge) return options_.acknowledge(std::move(deliver));
  deliver();
}

void EngineLoop::Sweep() {
  std::erase_if(requests_, [](const LiveRequest* request) { return request->finished; });
  std::erase_if(groups_, [](const auto& group) { return group->unfinished == 0; });
}

void EngineLoop::Publish() {
  const auto running = std::count_if(requests_.begin(), requests_.end(),
                                     [](const LiveRequest* request) { return request->running; });
  registry_.Publish(running, pool_.used(), pool_.cached());
}

}  // namespace lift
