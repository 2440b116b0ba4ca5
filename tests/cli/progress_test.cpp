#include "cli/progress.h"

#include <gtest/gtest.h>

#include "cli/terminal.h"

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

TEST(Printable, KeepsTextAndWritesOutWhatSteers) {
  EXPECT_EQ(
      printable("caf\xc3\xa9 \xe2\x80\xa6\n\t"),
      "caf\xc3\xa9 \xe2\x80\xa6\n\t");
  EXPECT_EQ(printable("\x1b[31m\r\x7f"), "\\x1b[31m\\x0d\\x7f");
  EXPECT_EQ(printable("\xc2\x9b\xe2\x80\xae"), "\\x9b\\u202e");
  EXPECT_EQ(printable("\xff\xc3"), "\\xff\\xc3");
  EXPECT_EQ(printable("\xe2\x80"), "\\xe2\\x80");
}

} // namespace
} // namespace torchlora::cli
