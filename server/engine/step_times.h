// How long steps take, so that a prompt is read beside others' answers without holding them up.
#pragma once

#include <algorithm>
#include <cstdint>

namespace lift {

class StepTimes {
 public:
  // A step with prompts to read takes about this much longer than one without, at most.
  static constexpr double kMostStall = 2.0;
  // Fewer are read at the price of as many answers (StepModel's smallest prefill).
  static constexpr int64_t kFewest = 8;

  void Note(int64_t prompt_tokens, int64_t decoding, double seconds) {
    if (prompt_tokens == 0) return Average(decode_seconds_, seconds);
    const double reading = decoding > 0 ? seconds - decode_seconds_ : seconds;
    if (decoding > 0 && decode_seconds_ == 0) return;  // nothing to tell the two apart by
    Average(prompt_token_seconds_, std::max(reading, 0.0) / static_cast<double>(prompt_tokens));
  }
  // Prompt tokens for a step that also decodes; `most` until both are known.
  int64_t PromptBeside(int64_t most) const {
    if (decode_seconds_ == 0 || prompt_token_seconds_ == 0) return most;
    const double fit = kMostStall * decode_seconds_ / prompt_token_seconds_;
    if (fit >= static_cast<double>(most)) return most;
    return std::clamp<int64_t>(static_cast<int64_t>(fit), std::min(kFewest, most), most);
  }

 private:
  static void Average(double& mean, double value) {
    constexpr double kWeight = 0.2;
    mean = mean == 0 ? value : (1 - kWeight) * mean + kWeight * value;
  }

  double decode_seconds_ = 0;        // of a step that reads no prompt
  double prompt_token_seconds_ = 0;  // that a prompt's token adds
};

}  // namespace lift
