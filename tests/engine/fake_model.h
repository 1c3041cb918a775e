// A model whose next-token distribution is a hash of every token it can see through the block
// table, of the precision each was computed at and of the precision asked for now. A wrong block,
// chunk border, precision or recomputation shows as a wrong token.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "kernels/base/check.h"
#include "router/router.h"
#include "server/engine/sampler.h"
#include "server/model/step_model.h"
#include "server/tokenizer/tokenizer.h"
#include "server/tokenizer/utf8.h"

namespace lift {

inline constexpr int32_t kFakeEos = 256;
inline constexpr int64_t kFakeVocab = 257;

class FakeModel : public StepModel {
 public:
  struct Options {
    int64_t block_tokens = 4, num_blocks = 64, max_context = 128;
    std::chrono::microseconds delay{0};  // of each step
    float eos_logit = -10;               // ordinary tokens are between -4 and 4
    bool full = true;                    // a stored source on top
    bool recurrent = false;  // a block is a whole sequence's state, and only goes forward
  };
  explicit FakeModel(Options options)
      : options_(WithBlocks(options)),
        cells_(static_cast<size_t>(options_.block_tokens * options_.num_blocks)),
        ends_(static_cast<size_t>(options_.num_blocks)) {
    const auto add = [&](const char* name, double lambda, double bits, uint64_t planes, double kl) {
      variants_.push_back({.name = name,
                           .lambda = lambda,
                           .bits_per_weight = bits,
                           .full = false,
                           .plane_bytes = planes,
                           .budget_bytes = 0,
                           .bytes = planes + 1000,
                           .kl = kl,
                           .perplexity = -1,
                           .wide_stages = 0});
    };
    add("q2.0", 0.25, 2, 20003, 0.8);
    add("q3.0", 0.396, 3, 30011, 0.2);
    add("q4.0", 0.5, 4, 40009, 0.05);
    add("q6.0", 0.646, 6, 60013, 0.004);
    if (options_.full) {
      add("full", 1, 16, 0, 0);
      variants_.back().full = true;
      variants_.back().bytes = 161000;
    }
  }

  int64_t vocab_size() const override { return kFakeVocab; }
  int64_t max_context() const override { return options_.max_context; }
  std::span<const LiftedVariant> variants() const override { return variants_; }
  int64_t block_tokens() const override { return options_.block_tokens; }
  int64_t num_blocks() const override { return options_.num_blocks; }
  int64_t bytes_per_block() const override { return 512; }
  bool reusable_state() const override { return !options_.recurrent; }
  void CopyState(int32_t from, int32_t to) override {
    LIFT_CHECK(options_.recurrent && from != to);
    std::copy_n(cells_.begin() + from * options_.block_tokens, options_.block_tokens,
                cells_.begin() + to * options_.block_tokens);
    ends_[static_cast<size_t>(to)] = ends_[static_cast<size_t>(from)];
    ++copies;
  }

  StepStats Step(std::span<const SequenceChunk> chunks, std::vector<float>& logits) override {
    CheckNoSharing(chunks);
    if (options_.delay.count() > 0) std::this_thread::sleep_for(options_.delay);
    if (on_step) on_step(chunks);
    ++steps;
    logits.clear();
    for (const SequenceChunk& chunk : chunks) {
      LIFT_CHECK(!chunk.look || !options_.recurrent);
      if (options_.recurrent) MoveOn(chunk);
      for (size_t i = 0; i < chunk.tokens.size() && !chunk.look; ++i) {
        const bool full = variants_[static_cast<size_t>(chunk.variant)].full;
        Cell(chunk, chunk.position + static_cast<int64_t>(i)) = {chunk.tokens[i], chunk.variant,
                                                                 chunk.prefill && !full};
      }
      const auto tokens = static_cast<int64_t>(chunk.tokens.size());
      for (int64_t t = tokens - LogitRows(chunk); t < tokens; ++t) {
        AppendLogits(chunk, chunk.position + t + 1, logits);
      }
    }
    return {};
  }

  bool swappable_state() const override { return true; }
  void SaveBlock(int32_t block, std::span<std::byte> out) override {
    const auto cells = std::as_bytes(CellsOf(block));
    LIFT_CHECK(static_cast<int64_t>(out.size()) == bytes_per_block() &&
               out.size() >= cells.size() + 8);
    const auto end = std::as_bytes(std::span(ends_).subspan(static_cast<size_t>(block), 1));
    std::copy(cells.begin(), cells.end(), out.begin());
    std::copy(end.begin(), end.end(), out.end() - sizeof(int64_t));
  }
  void RestoreBlock(int32_t block, std::span<const std::byte> in) override {
    const auto cells = std::as_writable_bytes(CellsOf(block));
    LIFT_CHECK(static_cast<int64_t>(in.size()) == bytes_per_block());
    std::copy_n(in.begin(), cells.size(), cells.begin());
    const auto end =
        std::as_writable_bytes(std::span(ends_).subspan(static_cast<size_t>(block), 1));
    std::copy(in.end() - sizeof(int64_t), in.end(), end.begin());
  }

  std::atomic<int64_t> steps{0}, copies{0};
  std::function<void(std::span<const SequenceChunk>)> on_step;  // on the engine thread

 private:
  static Options WithBlocks(Options options) {
    if (options.recurrent) options.block_tokens = options.max_context;
    return options;
  }
  // A recurrent state goes on from where it is, or from nothing.
  void MoveOn(const SequenceChunk& chunk) {
    LIFT_CHECK(chunk.blocks.size() == 1);
    int64_t& end = ends_[static_cast<size_t>(chunk.blocks[0])];
    LIFT_CHECK(chunk.position == 0 || chunk.position == end);
    end = chunk.position + static_cast<int64_t>(chunk.tokens.size());
  }

  struct Written {
    int32_t token = -1;
    int variant = -1;
    bool prefill = false;  // has other roundings, except in full precision
  };

  std::span<Written> CellsOf(int32_t block) {
    LIFT_CHECK(block >= 0 && block < options_.num_blocks);
    return std::span(cells_).subspan(static_cast<size_t>(block * options_.block_tokens),
                                     static_cast<size_t>(options_.block_tokens));
  }

  Written& Cell(const SequenceChunk& chunk, int64_t position) {
    const auto block = static_cast<size_t>(position / options_.block_tokens);
    LIFT_CHECK(block < chunk.blocks.size());
    const int32_t id = chunk.blocks[block];
    LIFT_CHECK(id >= 0 && id < options_.num_blocks);
    return cells_[static_cast<size_t>(id * options_.block_tokens +
                                      position % options_.block_tokens)];
  }

  // A block that a chunk writes to is in no other chunk's table.
  void CheckNoSharing(std::span<const SequenceChunk> chunks) const {
    std::map<int32_t, int> tables;
    for (const SequenceChunk& chunk : chunks) {
      LIFT_CHECK(!chunk.tokens.empty());
      LIFT_CHECK(chunk.variant >= 0 && chunk.variant < static_cast<int>(variants_.size()));
      if (chunk.look) continue;
      for (const int32_t block : chunk.blocks) ++tables[block];
    }
    for (const SequenceChunk& chunk : chunks) {
      if (chunk.look) continue;
      const int64_t end = chunk.position + static_cast<int64_t>(chunk.tokens.size());
      for (int64_t i = chunk.position; i < end; ++i) {
        const auto block = static_cast<size_t>(i / options_.block_tokens);
        LIFT_CHECK(block < chunk.blocks.size());
        LIFT_CHECK(tables[chunk.blocks[block]] == 1);
      }
    }
  }

  static uint64_t Mix(uint64_t h, uint64_t x) {
    h = (h ^ x) * 0x9E3779B97F4A7C15u;
    return h ^ (h >> 29);
  }

  void AppendLogits(const SequenceChunk& chunk, int64_t end, std::vector<float>& logits) {
    uint64_t h = Mix(17, static_cast<uint64_t>(chunk.variant));
    for (int64_t i = 0; i < end; ++i) {
      const Written& w = Cell(chunk, i);
      h = Mix(Mix(h, static_cast<uint64_t>(w.token)), static_cast<uint64_t>(w.variant));
      h = Mix(h, w.prefill ? 1 : 0);
    }
    for (int64_t v = 0; v < kFakeVocab; ++v) {
      const uint64_t bits = Mix(Mix(h, static_cast<uint64_t>(v)), 99) >> 40;  // 24 bits
      logits.push_back(v == kFakeEos ? options_.eos_logit
                                     : static_cast<float>(bits) * 0x1p-21F - 4);
    }
  }

  const Options options_;
  std::vector<LiftedVariant> variants_;
  std::vector<Written> cells_;
  std::vector<int64_t> ends_;  // [block], of a recurrent state: tokens in it
};

// 256 byte tokens and one special end token.
inline std::shared_ptr<const Tokenizer> ByteTokenizer() {
  TokenizerSpec spec;
  spec.type = "byte_level_bpe";
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    spec.tokens.push_back(ToByteAlphabet(std::string_view(&c, 1)));
  }
  spec.tokens.push_back("<|end|>");
  spec.added_tokens.push_back({.id = kFakeEos, .content = "<|end|>", .special = true});
  spec.eos_id = kFakeEos;
  spec.eos_ids = {kFakeEos};
  auto tokenizer = Tokenizer::Create(spec);
  LIFT_CHECK(tokenizer.ok());
  return *std::move(tokenizer);
}

// What an engine must produce, by the plainest loop over a model of its own: the prompt at the
// finest variant, then one token at a time at `variant`, or from there on upwards. Stops at the end
// token or after `count` tokens.
inline std::vector<int32_t> OfflineTokens(FakeModel::Options options,
                                          std::span<const int32_t> prompt, int variant,
                                          const SamplingParams& sampling, int64_t count,
                                          double escalation = 0) {
  options.delay = {};
  options.num_blocks = options.recurrent ? 1 : options.max_context / options.block_tokens + 1;
  FakeModel model(options);
  std::vector<int32_t> blocks;
  for (int64_t i = options.num_blocks; i-- > 0;) blocks.push_back(static_cast<int32_t>(i));
  TokenHistory history;
  history.AddPrompt(prompt);
  std::vector<int32_t> out;
  std::vector<float> logits;
  SequenceChunk chunk{.tokens = prompt,
                      .position = 0,
                      .blocks = blocks,
                      .variant = static_cast<int>(model.variants().size()) - 1,
                      .logits = SequenceChunk::Logits::kLast,
                      .prefill = ReadAsPrompt(static_cast<int64_t>(prompt.size()))};
  int32_t last = 0;
  router::Escalation rises(escalation);
  std::vector<router::VariantView> views;
  for (const LiftedVariant& v : model.variants()) {
    views.push_back({v.name, v.lambda, v.bits_per_weight, v.full ? 0 : v.kl, v.bytes});
  }
  for (int64_t step = 0; step < count; ++step) {
    model.Step(std::span(&chunk, 1), logits);
    if (step > 0) variant = rises.Next(variant, logits, {}, views);
    last = Sample(logits, sampling, history, step).id;
    history.AddGenerated(last);
    out.push_back(last);
    if (last == kFakeEos) break;
    chunk.position += static_cast<int64_t>(chunk.tokens.size());
    chunk.tokens = std::span<const int32_t>(&last, 1);
    chunk.variant = variant;
    chunk.prefill = false;
  }
  return out;
}

}  // namespace lift
