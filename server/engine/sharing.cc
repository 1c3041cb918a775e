// The loop's part of the prefix cache.
#include <algorithm>

#include "server/engine/engine_loop.h"

namespace lift {

bool EngineLoop::Caches(const LiveRequest& request) const {
  const bool shares = options_.prefix_cache && !request.request.cache.bypass;
  return model_.reusable_state() && (shares || request.request.choices > 1);
}

std::vector<uint8_t> EngineLoop::Precisions(const LiveRequest& request, size_t first,
                                            size_t count) const {
  const auto begin = request.variants.begin() + static_cast<std::ptrdiff_t>(first);
  std::vector<uint8_t> precisions(begin, begin + static_cast<std::ptrdiff_t>(count));
  const auto prompt = static_cast<size_t>(request.prompt_tokens());
  for (size_t i = 0; i < count && first + i < prompt; ++i) {
    if (!model_.variants()[precisions[i]].full) precisions[i] |= kPromptState;
  }
  return precisions;
}

std::vector<int32_t> EngineLoop::FindPrefix(const LiveRequest& request,
                                            PrefixCursor& cursor) const {
  std::vector<int32_t> blocks;
  // The logits of a prompt whose log-probabilities are wanted must be computed.
  if (!Caches(request) || request.WantsPromptLogprobs()) return blocks;
  const auto size = static_cast<size_t>(model_.block_tokens());
  const std::span<const int32_t> tokens(request.tokens);
  // At least the last token is computed: its logits are needed.
  for (size_t end = size; end < tokens.size(); end += size) {
    const auto block = cache_.Find(cursor, tokens.subspan(end - size, size),
                                   Precisions(request, end - size, size));
    if (!block) break;
    blocks.push_back(*block);
  }
  return blocks;
}

void EngineLoop::TakePrefix(LiveRequest& request) {
  for (const int32_t block : FindPrefix(request, request.cursor)) request.table.Append(block);
  request.computed = request.table.size() * model_.block_tokens();
  if (request.admitted) return;
  request.admitted = EngineClock::now();
  if (!request.leads()) return;  // the client's prompt was read once
  request.usage.cached_tokens = std::min(request.computed, request.prompt_tokens());
}

PlanPrefix EngineLoop::Prefix(const LiveRequest& request) const {
  PrefixCursor cursor = request.cursor;
  const std::vector<int32_t> blocks = FindPrefix(request, cursor);
  PlanPrefix prefix;
  prefix.computed_tokens = static_cast<int64_t>(blocks.size()) * model_.block_tokens();
  prefix.segment_tokens = request.SegmentTokens(prefix.computed_tokens);
  for (const int32_t block : blocks) prefix.shared_blocks += pool_.references(block) > 0 ? 1 : 0;
  return prefix;
}

void EngineLoop::RememberBlocks(LiveRequest& request) {
  const auto size = static_cast<size_t>(model_.block_tokens());
  while (Caches(request) &&
         (request.cursor.blocks + 1) * model_.block_tokens() <= request.computed) {
    const auto begin = static_cast<size_t>(request.cursor.blocks) * size;
    cache_.Insert(request.cursor, std::span<const int32_t>(request.tokens).subspan(begin, size),
                  Precisions(request, begin, size), request.table.blocks()[begin / size]);
  }
  request.DropBehind(model_.state_window());
}

}  // namespace lift
