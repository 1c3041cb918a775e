#include "server/engine/step_times.h"

#include <gtest/gtest.h>

namespace lift {
namespace {

TEST(StepTimes, AllowsWhatWasAskedUntilItKnowsBetter) {
  StepTimes times;
  EXPECT_EQ(times.PromptBeside(64), 64);
  times.Note(64, 4, 0.1);  // nothing to tell reading and decoding apart by
  EXPECT_EQ(times.PromptBeside(64), 64);
  times.Note(0, 4, 0.01);
  EXPECT_EQ(times.PromptBeside(64), 64);
}

TEST(StepTimes, APromptTakesAtMostTwiceTheTimeOfTheAnswersBesideIt) {
  StepTimes times;
  for (int i = 0; i < 50; ++i) {
    times.Note(0, 16, 0.010);
    times.Note(64, 16, 0.010 + 64 * 0.001);
  }
  EXPECT_EQ(times.PromptBeside(64), 20);
  for (int i = 0; i < 50; ++i) times.Note(0, 16, 0.040);  // a finer variant
  EXPECT_EQ(times.PromptBeside(64), 64);
  for (int i = 0; i < 50; ++i) times.Note(0, 1, 0.0001);
  EXPECT_EQ(times.PromptBeside(64), StepTimes::kFewest);
  EXPECT_EQ(times.PromptBeside(4), 4);
}

TEST(StepTimes, StepsOfPromptsAloneCountToo) {
  StepTimes times;
  times.Note(0, 2, 0.002);
  times.Note(100, 0, 0.1);
  EXPECT_EQ(times.PromptBeside(64), 8);
  times.Note(10, 2, 0.001);  // faster than without a prompt: noise, not a negative price
  EXPECT_GE(times.PromptBeside(64), 4);
}

}  // namespace
}  // namespace lift
