// A paged key/value cache with histories of several sequences, for tests of attention.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/random_lifted.h"

namespace lift {

// Several sequences over one paged cache with shuffled blocks.
struct PagedCase {
  PagedCase(AttentionShape s, const std::vector<std::pair<int64_t, int64_t>>& lengths) : shape(s) {
    shape.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
    int64_t blocks = 0;
    for (const auto& [position, tokens] : lengths) {
      blocks += (position + tokens + shape.block_tokens - 1) / shape.block_tokens;
    }
    std::vector<int32_t> order(static_cast<size_t>(blocks));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937_64(3));
    for (const auto& [position, tokens] : lengths) {
      const int64_t width = shape.kv_heads * shape.head_dim, count = position + tokens;
      histories.push_back({RandomFloats(count * width, 31 + histories.size()),
                           RandomFloats(count * width, 77 + histories.size())});
      const auto used = (count + shape.block_tokens - 1) / shape.block_tokens;
      tables.emplace_back(order.end() - used, order.end());
      order.resize(order.size() - static_cast<size_t>(used));
      sequences.push_back({rows, tokens, position, {}});
      rows += tokens;
    }
    for (size_t i = 0; i < tables.size(); ++i) sequences[i].blocks = tables[i];
    cache.resize(static_cast<size_t>(blocks * shape.block_bytes()));
    q = RandomFloats(rows * shape.heads * shape.head_dim, 55);
  }

  void Fill(Backend& backend) {
    for (size_t i = 0; i < sequences.size(); ++i) {
      const AttentionSequence whole[1] = {
          {0, sequences[i].position + sequences[i].tokens, 0, tables[i]}};
      backend.WriteKv(cache.data(), shape, whole, histories[i].k.data(), histories[i].v.data());
    }
  }

  AttentionShape shape;
  int64_t rows = 0;
  std::vector<reference::History> histories;
  std::vector<std::vector<int32_t>> tables;
  std::vector<AttentionSequence> sequences;
  std::vector<std::byte> cache;
  std::vector<float> q;
};

}  // namespace lift
