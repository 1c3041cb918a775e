#include "server/engine/live_request.h"

#include <algorithm>
#include <utility>

namespace lift {

LiveRequest::LiveRequest(EngineRequest r, std::shared_ptr<RequestListener> l,
                         const Tokenizer& tokenizer, BlockPool& pool, int64_t block_tokens)
    : request(std::move(r)),
      listener(std::move(l)),
      submitted(EngineClock::now()),
      table(pool, block_tokens),
      tokens(request.prompt),
      tokenizer_(tokenizer),
      decoder_(tokenizer),
      matcher_(request.stopping.stop_strings),
      ending_ids_(request.stopping.stop_token_ids) {
  const SamplingParams& s = request.sampling;
  penalized_ = s.repetition_penalty != 1 || s.presence_penalty != 0 || s.frequency_penalty != 0;
  if (penalized_) history_.AddPrompt(request.prompt);
  if (!request.stopping.ignore_eos) {
    const TokenizerSpec& spec = tokenizer.spec();
    ending_ids_.insert(ending_ids_.end(), spec.eos_ids.begin(), spec.eos_ids.end());
    if (spec.eos_id >= 0) ending_ids_.push_back(spec.eos_id);
  }
  usage.prompt_tokens = prompt_tokens();
}

PlanSequence LiveRequest::Snapshot() const {
  return {.running = running,
          .priority = request.priority,
          .arrival = arrival,
          .prompt_tokens = prompt_tokens(),
          .known_tokens = static_cast<int64_t>(tokens.size()),
          .computed_tokens = computed,
          .blocks = table.size()};
}

void LiveRequest::Preempt() {
  table.Clear();
  computed = 0;
  running = false;
}

SampledToken LiveRequest::SampleNext(std::span<const float> logits) const {
  std::span<const int32_t> banned;
  if (generated() < request.stopping.min_new_tokens) banned = ending_ids_;
  return Sample(logits, request.sampling, history_, generated(), banned);
}

LiveRequest::Accepted LiveRequest::Accept(SampledToken sampled) {
  Accepted accepted;
  const int32_t id = sampled.id;
  tokens.push_back(id);
  ++usage.generated_tokens;
  if (spans.empty() || spans.back().variant != variant) spans.push_back({variant, 0, reason});
  ++spans.back().tokens;
  if (penalized_) history_.AddGenerated(id);
  accepted.token.id = id;
  accepted.token.sampled = std::move(sampled);
  accepted.token.variant = variant;
  if (std::find(ending_ids_.begin(), ending_ids_.end(), id) != ending_ids_.end()) {
    accepted.finish = FinishReason::kStop;
    accepted.matched_stop = TokenText(id);
    return accepted;
  }
  accepted.token.text = decoder_.Push(id);
  if (generated() >= request.stopping.min_new_tokens) {
    StopMatcher::Result result = matcher_.Push(accepted.token.text);
    accepted.token.text = std::move(result.text);
    if (result.matched >= 0) {
      accepted.finish = FinishReason::kStop;
      accepted.matched_stop = request.stopping.stop_strings[result.matched];
      decoder_.Flush();  // what follows the stop string is not shown
      return accepted;
    }
  }
  if (generated() >= request.stopping.max_new_tokens) accepted.finish = FinishReason::kLength;
  return accepted;
}

std::string LiveRequest::Tail() {
  std::string text = matcher_.Flush();
  text += decoder_.Flush();
  return text;
}

RequestTimings LiveRequest::Timings(EngineClock::time_point now) const {
  const auto seconds = [](EngineClock::time_point from, EngineClock::time_point to) {
    return std::chrono::duration<double>(to - from).count();
  };
  RequestTimings t;
  t.total_seconds = seconds(submitted, now);
  t.queue_seconds = seconds(submitted, admitted.value_or(now));
  if (admitted) t.prefill_seconds = seconds(*admitted, first_token.value_or(now));
  if (first_token) {
    t.ttft_seconds = seconds(submitted, *first_token);
    t.decode_seconds = seconds(*first_token, now);
  }
  return t;
}

std::string LiveRequest::TokenText(int32_t id) const {
  const auto text = tokenizer_.Decode(std::span(&id, 1), /*skip_special=*/false);
  return text.ok() ? *text : std::string();
}

}  // namespace lift
