// Embeddings and output heads in strips of rows: a token that text hardly ever holds deserves fewer
// planes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace lift {

// Rows [begin, begin + rows) of a vocabulary matrix.
struct Strip {
  int64_t begin = 0, rows = 0;
  double weight = 1;  // how often its rows are used, over the mean of all rows
};

// Cuts a vocabulary into strips in the order of its token ids (tokenizers number frequent tokens
// first): short strips at the beginning, an eighth each later. counts: uses of each token in text;
// every token counts kUnseen more, since text to come holds others. One strip if the vocabulary is
// small.
std::vector<Strip> VocabularyStrips(std::span<const int64_t> counts);
inline constexpr double kUnseen = 0.1;

// Stages for a strip used `weight` times as often as the mean: the chain itself, or, if a coarser
// start is enough for it, the chain with its first stage split in two.
std::vector<int> StripChain(const std::vector<int>& chain, double weight);

}  // namespace lift
