#include "cli/progress.h"

#include <gtest/gtest.h>

namespace torchlora::cli {
namespace {

TEST(ProgressLine, FitsItsWidthAndDropsTheBarFirst) {
  const ProgressState state{"step", 25, 100, 7, "evaluating 3/12"};
  const std::string text =
      "25/100 steps, 7.00 s per step, 08:45 left, evaluating 3/12";
  EXPECT_EQ(progress_line(state, 0), text);
  EXPECT_EQ(
      progress_line(state, 200), " 25% [======                  ] " + text);
  EXPECT_EQ(progress_line(state, 79), " 25% [===          ] " + text);
  EXPECT_EQ(progress_line(state, 66), " 25% " + text);
  EXPECT_EQ(progress_line(state, 20), " 25% 25/100 steps, 7");
  EXPECT_EQ(
      progress_line({"step", 0, 3, 0, ""}, 30),
      "  0% [             ] 0/3 steps");
}

TEST(ProgressClock, CountsTheUnitsOnly) {
  using namespace std::chrono_literals;
  Progress progress;
  progress.start(2);
  std::this_thread::sleep_for(1500ms); // the start of the program
  progress.begin_step();
  progress.step(1, 2);
  std::this_thread::sleep_for(1500ms); // an evaluation
  progress.begin_step();
  progress.step(2, 2);
  EXPECT_LT(progress.seconds(), 1);
}

} // namespace
} // namespace torchlora::cli
