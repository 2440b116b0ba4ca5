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

TEST(ProgressLine, CountsCharactersAndCutsBetweenThem) {
  const ProgressState state{"step", 1, 2, 0, "\u00e9t\u00e9 \u5c42\x1b"};
  const std::string text = "1/2 steps, \u00e9t\u00e9 \u5c42\\x1b"; // 20 columns
  EXPECT_EQ(progress_line(state, 0), "1/2 steps, \u00e9t\u00e9 \u5c42\x1b");
  EXPECT_EQ(progress_line(state, 36), " 50% [====    ] " + text);
  EXPECT_EQ(progress_line(state, 35), " 50% " + text);
  EXPECT_EQ(progress_line(state, 21), " 50% 1/2 steps, \u00e9t\u00e9 \u5c42");
  EXPECT_EQ(progress_line(state, 20), " 50% 1/2 steps, \u00e9t\u00e9 ");
  EXPECT_EQ(progress_line(state, 17), " 50% 1/2 steps, \u00e9");
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
