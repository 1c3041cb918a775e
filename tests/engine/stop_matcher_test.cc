#include "server/engine/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>

namespace lift {
namespace {

struct Outcome {
  std::string text;
  int matched = -1;
};

// Feeds `text` in pieces ending at `cuts`.
Outcome Feed(const std::vector<std::string>& stops, std::string_view text,
             std::mt19937_64* rng = nullptr) {
  StopMatcher matcher(stops);
  Outcome out;
  while (!text.empty()) {
    const size_t piece = rng != nullptr ? 1 + (*rng)() % 4 : 1;
    const StopMatcher::Result r = matcher.Push(text.substr(0, piece));
    out.text += r.text;
    out.matched = r.matched;
    if (r.matched >= 0) return out;
    text.remove_prefix(std::min(piece, text.size()));
  }
  out.text += matcher.Flush();
  return out;
}

TEST(StopMatcher, FindsAcrossBordersAndLeavesItOut) {
  const Outcome out = Feed({"STOP"}, "one STSTOP two");
  EXPECT_EQ(out.text, "one ST");
  EXPECT_EQ(out.matched, 0);
}

TEST(StopMatcher, HoldsBackOnlyWhatMayStillMatch) {
  StopMatcher matcher({"</s>"});
  EXPECT_EQ(matcher.Push("a<").text, "a");
  EXPECT_EQ(matcher.Push("/").text, "");
  EXPECT_EQ(matcher.Push("b").text, "</b");
  EXPECT_EQ(matcher.Push("x</").text, "x");
  EXPECT_EQ(matcher.Flush(), "</");
}

TEST(StopMatcher, FirstToCompleteWinsThenTheLongest) {
  EXPECT_EQ(Feed({"abcd", "bc"}, "xabcd").matched, 1);
  EXPECT_EQ(Feed({"abcd", "bc"}, "xabcd").text, "xa");
  EXPECT_EQ(Feed({"c", "abc", "bc"}, "xabc").matched, 1);
  EXPECT_EQ(Feed({"c", "abc", "bc"}, "xabc").text, "x");
  EXPECT_EQ(Feed({}, "anything").text, "anything");
}

TEST(StopMatcher, CutsDoNotMatterAndTheOracleAgrees) {
  std::mt19937_64 rng(8);
  for (int trial = 0; trial < 3000; ++trial) {
    const auto random = [&](size_t least, size_t most) {
      std::string s;
      for (size_t n = least + rng() % (most - least + 1); n > 0; --n)
        s += static_cast<char>('a' + rng() % 2);
      return s;
    };
    std::vector<std::string> stops;
    for (uint64_t n = 1 + rng() % 3; n > 0; --n) stops.push_back(random(2, 6));
    const std::string text = random(0, 24);
    // Oracle: smallest end, then longest.
    size_t best_end = std::string::npos, best_length = 0;
    for (const std::string& stop : stops) {
      const size_t at = text.find(stop);
      if (at == std::string::npos) continue;
      const size_t end = at + stop.size();
      if (end < best_end || (end == best_end && stop.size() > best_length)) {
        best_end = end;
        best_length = stop.size();
      }
    }
    const std::string expected =
        best_end == std::string::npos ? text : text.substr(0, best_end - best_length);
    for (int cut = 0; cut < 3; ++cut) {
      const Outcome out = Feed(stops, text, cut == 0 ? nullptr : &rng);
      ASSERT_EQ(out.text, expected) << text;
      ASSERT_EQ(out.matched >= 0, best_end != std::string::npos);
      if (out.matched >= 0) {
        ASSERT_EQ(stops[out.matched].size(), best_length);
      }
    }
  }
}

}  // namespace
}  // namespace lift
