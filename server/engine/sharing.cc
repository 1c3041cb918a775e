// The loop's part of reusing what was computed before: blocks of attention state, and snapshots of
// recurrent state.
#include <algorithm>

#include "server/engine/engine_loop.h"

namespace lift {

bool EngineLoop::Caches(const LiveRequest& request) const {
  const bool shares = options_.prefix_cache && !request.request.cache.bypass;
  return shares || request.request.choices > 1;
}

std::vector<uint8_t> EngineLoop::Precisions(const LiveRequest& request, size_t first,
                                            size_t count) const {
  const auto begin = request.variants.begin() + static_cast<std::ptrdiff_t>(first);
  std::vector<uint8_t> precisions(begin, begin + static_cast<std::ptrdiff_t>(count));
  const auto prompt = static_cast<size_t>(request.prefill_tokens());
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

SnapshotCache::Match EngineLoop::FindSnapshot(const LiveRequest& request) const {
  if (request.snapshot_tokens == 0 || request.WantsPromptLogprobs()) return {};
  return snapshots_->Longest(request.cursor.salt, request.tokens,
                             Precisions(request, 0, request.tokens.size()),
                             request.snapshot_tokens);
}

// Its block must be the next that is allocated: what was found then either stays, being the last
// that would be evicted, or is that very block.
void EngineLoop::TakeSnapshot(LiveRequest& request) {
  const SnapshotCache::Match match = FindSnapshot(request);
  if (match.tokens > 0) snapshots_->Touch(match);
  request.table.Cover(static_cast<int64_t>(request.tokens.size()));
  request.computed = match.tokens;
  const int32_t own = request.table.blocks()[0];
  if (match.tokens > 0 && own != match.block) model_.CopyState(match.block, own);
}

void EngineLoop::TakePrefix(LiveRequest& request) {
  if (snapshots_) {
    TakeSnapshot(request);
  } else {
    for (const int32_t block : FindPrefix(request, request.cursor)) request.table.Append(block);
    request.computed = request.table.size() * model_.block_tokens();
  }
  if (request.admitted) return;
  request.admitted = EngineClock::now();
  if (!request.leads()) return;  // the client's prompt was read once
  request.usage.cached_tokens = std::min(request.computed, request.prompt_tokens());
}

PlanPrefix EngineLoop::Prefix(const LiveRequest& request) const {
  if (snapshots_) {
    const int64_t computed = std::max(FindSnapshot(request).tokens, request.swapped_tokens);
    return {.computed_tokens = computed, .segment_tokens = request.SegmentTokens(computed)};
  }
  PrefixCursor cursor = request.cursor;
  const std::vector<int32_t> blocks = FindPrefix(request, cursor);
  PlanPrefix prefix;
  prefix.computed_tokens =
      std::max(static_cast<int64_t>(blocks.size()) * model_.block_tokens(), request.swapped_tokens);
  prefix.segment_tokens = request.SegmentTokens(prefix.computed_tokens);
  for (const int32_t block : blocks) prefix.shared_blocks += pool_.references(block) > 0 ? 1 : 0;
  return prefix;
}

// The state goes on changing, so what is kept is a copy, in a block nobody holds.
void EngineLoop::RememberSnapshot(LiveRequest& request) {
  const int64_t step = request.snapshot_tokens;
  if (step == 0 || request.computed % step != 0 || request.computed > request.prompt_tokens())
    return;
  const auto count = static_cast<size_t>(request.computed);
  const std::span<const int32_t> tokens = std::span<const int32_t>(request.tokens).first(count);
  const std::vector<uint8_t> precisions = Precisions(request, 0, count);
  if (pool_.free() == 0 || snapshots_->Has(request.cursor.salt, tokens, precisions)) return;
  const int32_t copy = pool_.Allocate();
  model_.CopyState(request.table.blocks()[0], copy);
  snapshots_->Insert(request.cursor.salt, tokens, precisions, copy);
  pool_.Release(copy);
}

void EngineLoop::RememberBlocks(LiveRequest& request) {
  if (snapshots_) return RememberSnapshot(request);
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
