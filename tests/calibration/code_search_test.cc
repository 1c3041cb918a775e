#include "calibration/code_search.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "calibration/codes.h"

namespace lift {
namespace {

TEST(CodeSearch, TrainingLowersTheErrorOnOtherSamples) {
  ThreadPool pool(2);
  EncoderOptions options;
  options.beam = 32;
  options.lag = 48;
  LiftCode code = *FindCode("2+1p");
  for (size_t i = 0; i < code.taps.size(); i += 2) code.taps[i] *= 0.6f;
  const double before = GaussianError(code, 8, options, 1, pool);
  TrainTaps(code, 6, 4, options, 100, pool);
  const double after = GaussianError(code, 8, options, 1, pool);
  EXPECT_LT(after, 0.95 * before);
}

TEST(CodeSearch, FindsACodeBetterThanAScalarQuantizerAndIsRepeatable) {
  ThreadPool pool(2);
  CodeSearchOptions options;
  options.stored = 2;
  options.derived = 1;
  options.steps = 7;
  options.beam = options.final_beam = 32;
  options.seconds = 1e9;
  options.candidates = 12;
  const auto search = [&] {
    std::vector<double> errors;
    const LiftCode best =
        SearchCodes(options, pool, [&](const LiftCode&, double error) { errors.push_back(error); });
    EXPECT_EQ(best.streams(), 3);
    EXPECT_EQ(best.taps.size(), 21u);
    EXPECT_TRUE(std::is_sorted(errors.rbegin(), errors.rend()));
    return errors;
  };
  const std::vector<double> errors = search();
  ASSERT_FALSE(errors.empty());
  EXPECT_LT(errors.back(), 0.1175);  // Lloyd-Max
  EXPECT_EQ(search(), errors);
}

// The shipped tables: what lift-bench codes prints, at a beam that a test can afford.
TEST(CodeSearch, ShippedCodesKeepTheirErrors) {
  ThreadPool pool(2);
  EncoderOptions options;
  options.beam = 64;
  options.lag = 48;
  const double most[] = {0.298, 0.0800, 0.0216, 0.0060};
  for (int bits = 1; bits <= 4; ++bits) {
    EXPECT_LT(GaussianError(DefaultCode(bits), 16, options, 9, pool), most[bits - 1]) << bits;
  }
}

}  // namespace
}  // namespace lift
