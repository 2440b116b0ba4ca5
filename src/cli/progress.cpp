#include "cli/progress.h"

#include <cstdio>

#include <fmt/format.h>

namespace torchlora::cli {
namespace {

std::string clock_time(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  return s >= 3600
      ? fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
      : fmt::format("{:02}:{:02}", s / 60, s % 60);
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
      .count();
}

} // namespace

std::string metrics_line(const Progress::Metrics& metrics) {
  std::string line = "{";
  for (const auto& [name, value] : metrics) {
    line += fmt::format(
        "{}'{}': '{:.4g}'", line.size() > 1 ? ", " : "", name, value);
  }
  return line + "}";
}

void Progress::finish() {
  if (bar_shown_) {
    std::fputs("\n", stderr);
    bar_shown_ = false;
  }
}

std::string Progress::status() const {
  const int64_t done = step_ - first_step_;
  const double each =
      seconds_since(start_) / static_cast<double>(done > 0 ? done : 1);
  return fmt::format(
      "{}/{} {}s, {:.2f} s per {}, {} left",
      step_,
      total_,
      unit_,
      each,
      unit_,
      clock_time(each * static_cast<double>(total_ - step_)));
}

void Progress::clear_bar() const {
  if (bar_shown_) {
    std::fputs("\r\x1b[2K", stderr);
  }
}

void Progress::draw_bar() const {
  constexpr int64_t kWidth = 24;
  const int64_t filled = total_ > 0 ? kWidth * step_ / total_ : kWidth;
  fmt::print(
      stderr,
      "\r\x1b[2K{:3}% [{:=<{}}{:<{}}] {}{}",
      total_ > 0 ? 100 * step_ / total_ : 100,
      "",
      filled,
      "",
      kWidth - filled,
      status(),
      activity_);
  std::fflush(stderr);
}

void Progress::step(int64_t step, int64_t total) {
  if (total_ == 0) {
    first_step_ = step - 1;
  }
  step_ = step;
  total_ = total;
  activity_.clear();
  if (terminal_) {
    bar_shown_ = true;
    draw_bar();
  } else if (step < total && seconds_since(last_line_) >= 10) {
    last_line_ = Clock::now();
    line(status());
  }
}

void Progress::activity(const std::string& text) {
  activity_ = ", " + text;
  if (bar_shown_) {
    draw_bar();
  }
}

void Progress::metrics(const Metrics& metrics) {
  line(metrics_line(metrics));
}

void Progress::line(const std::string& text) {
  clear_bar();
  fmt::print("{}\n", text);
  std::fflush(stdout);
  if (bar_shown_) {
    draw_bar();
  }
}

} // namespace torchlora::cli
