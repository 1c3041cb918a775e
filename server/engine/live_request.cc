#include "server/engine/live_request.h"

#include <algorithm>
#include <utility>

namespace lift {

RequestGroup::RequestGroup(EngineRequest r, std::shared_ptr<RequestListener> l,
                           const Tokenizer& tokenizer, Pools pools, int64_t block_tokens,
                           int finest)
    : request(std::move(r)), listener(std::move(l)), submitted(EngineClock::now()) {
  for (int c = 0; c < request.choices; ++c) {
    choices.push_back(
        std::make_unique<LiveRequest>(*this, c, tokenizer, pools, block_tokens, finest));
  }
  unfinished = choices.size();
  ends.resize(choices.size());
}

LiveRequest::LiveRequest(RequestGroup& g, int c, const Tokenizer& tokenizer,
                         RequestGroup::Pools pools, int64_t block_tokens, int finest)
    : group(g),
      request(g.request),
      choice(c),
      sampling(request.sampling),
      table(pools.state, block_tokens),
      tokens(request.prompt),
      variants(request.prompt.size(), static_cast<uint8_t>(finest)),
      swapped(pools.swap, block_tokens),
      variant(finest),
      waiting_since(g.submitted),
      tokenizer_(tokenizer),
      decoder_(tokenizer),
      matcher_(request.stopping.stop_strings),
      ending_ids_(request.stopping.stop_token_ids) {
  sampling.seed = ChoiceSeed(sampling.seed, choice);
  const SamplingParams& s = sampling;
  penalized_ = s.repetition_penalty != 1 || s.presence_penalty != 0 || s.frequency_penalty != 0;
  if (penalized_) history_.AddPrompt(request.prompt);
  if (!request.stopping.ignore_eos) {
    const TokenizerSpec& spec = tokenizer.spec();
    ending_ids_.insert(ending_ids_.end(), spec.eos_ids.begin(), spec.eos_ids.end());
    if (spec.eos_id >= 0) ending_ids_.push_back(spec.eos_id);
  }
  for (const int32_t id : ending_ids_) {
    if (!IsTextToken(tokenizer, id)) ending_controls_.push_back(id);
  }
  usage.prompt_tokens = leads() ? prompt_tokens() : 0;
}

int64_t LiveRequest::SegmentTokens(int64_t first) const {
  const auto begin = variants.begin() + static_cast<std::ptrdiff_t>(first);
  auto end = std::find_if(begin, variants.end(), [&](uint8_t v) { return v != *begin; });
  // A chunk ends with the prompt even if the finest variant decodes, too: its last logits decide.
  const auto prompt_end = variants.begin() + static_cast<std::ptrdiff_t>(prompt_tokens());
  if (first >= prompt_tokens()) return end - begin;
  const int64_t segment = std::min(end, prompt_end) - begin;
  if (snapshot_tokens == 0) return segment;
  return std::min(segment, snapshot_tokens - first % snapshot_tokens);
}

PlanSequence LiveRequest::Snapshot(EngineClock::time_point now) const {
  const auto micros = [&](EngineClock::time_point from) {
    return std::chrono::duration_cast<std::chrono::microseconds>(now - from).count();
  };
  return {.running = running,
          .priority = request.priority,
          .tenant = 0,
          .arrival = group.arrival,
          .age_us = micros(group.submitted),
          .wait_us = running ? 0 : micros(waiting_since),
          .progress = running ? generated() - generated_at_admission : 0,
          .prompt_tokens = prompt_tokens(),
          .known_tokens = static_cast<int64_t>(tokens.size()),
          .computed_tokens = computed,
          .segment_tokens = SegmentTokens(computed),
          .most_tokens = std::max<int64_t>(most_tokens(), static_cast<int64_t>(tokens.size())),
          .blocks = table.size(),
          .owned_blocks = table.owned(),
          .drafts = drafts_wanted};
}

void LiveRequest::Clamp(int64_t first, int resident) {
  const auto most = static_cast<uint8_t>(resident - 1);
  for (auto i = static_cast<size_t>(first); i < variants.size(); ++i) {
    variants[i] = std::min(variants[i], most);
  }
}

void LiveRequest::Preempt(EngineClock::time_point now, int resident) {
  Clamp(swapped_tokens, resident);
  table.Clear();
  cursor = {.salt = cursor.salt, .parent = 0, .blocks = 0};
  computed = 0;
  running = false;
  waiting_since = now;
}

SampledToken LiveRequest::SampleAhead(std::span<const float> logits, int64_t ahead) const {
  std::span<const int32_t> banned;
  if (generated() + ahead < request.stopping.min_new_tokens) banned = ending_ids_;
  SampledToken token = Draw(logits, ahead, banned);
  if (token.id < 0 && group.constraint != nullptr) token = Draw(logits, ahead, {});
  return token;
}

int32_t LiveRequest::ConstraintStateAhead(int64_t ahead) const {
  int32_t state = constraint_state_.value_or(group.constraint->start());
  // The first of the drafts is the last token already drawn.
  for (int64_t i = 1; i <= ahead && state != CompiledConstraint::kDead; ++i) {
    state = group.constraint->Advance(state, drafts[static_cast<size_t>(i)]);
  }
  return state;
}

SampledToken LiveRequest::Draw(std::span<const float> logits, int64_t ahead,
                               std::span<const int32_t> banned) const {
  const int64_t step = generated() + ahead;
  if (group.constraint == nullptr) return Sample(logits, sampling, history_, step, banned);
  const int32_t state = ConstraintStateAhead(ahead);
  if (state == CompiledConstraint::kDead) return {.id = -1, .logprob = 0, .top = {}};
  TokenMask mask{.words = group.constraint->Allowed(state), .also = {}};
  if (group.constraint->Accepts(state)) mask.also = ending_controls_;
  return Sample(logits, sampling, history_, step, banned, &mask);
}

LiveRequest::Accepted LiveRequest::Accept(SampledToken sampled) {
  Accepted accepted;
  const int32_t id = sampled.id;
  tokens.push_back(id);
  variants.push_back(static_cast<uint8_t>(variant));
  ++usage.generated_tokens;
  if (spans.empty() || spans.back().variant != variant) spans.push_back({variant, 0, reason});
  ++spans.back().tokens;
  if (penalized_) history_.AddGenerated(id);
  accepted.token.id = id;
  accepted.token.choice = choice;
  accepted.token.sampled = std::move(sampled);
  accepted.token.variant = variant;
  if (std::find(ending_ids_.begin(), ending_ids_.end(), id) != ending_ids_.end()) {
    accepted.finish = FinishReason::kStop;
    accepted.matched_stop = TokenText(id);
    return accepted;
  }
  accepted.token.text = decoder_.Push(id);
  bool complete = false;
  if (group.constraint != nullptr) {
    const int32_t state = group.constraint->Advance(ConstraintStateAhead(0), id);
    complete = group.constraint->Complete(state);
    constraint_state_ = state;
  }
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
  if (complete) {
    accepted.finish = FinishReason::kStop;
  } else if (generated() >= request.stopping.max_new_tokens) {
    accepted.finish = FinishReason::kLength;
  }
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
  t.total_seconds = seconds(group.submitted, now);
  t.queue_seconds = seconds(group.submitted, admitted.value_or(now));
  if (admitted) t.prefill_seconds = seconds(*admitted, first_token.value_or(now));
  if (first_token) {
    t.ttft_seconds = seconds(group.submitted, *first_token);
    t.decode_seconds = seconds(*first_token, now);
  }
  return t;
}

std::string LiveRequest::TokenText(int32_t id) const {
  const auto text = tokenizer_.Decode(std::span(&id, 1), /*skip_special=*/false);
  return text.ok() ? *text : std::string();
}

}  // namespace lift
