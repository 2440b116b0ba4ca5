#include "cli/progress.h"

#include <algorithm>
#include <cstdio>

#include "cli/terminal.h"
#include "text/utf8.h"

namespace torchlora::cli {
namespace {

constexpr std::chrono::seconds kBetweenLines(10);
constexpr size_t kSmallestBar = 8;
constexpr size_t kLargestBar = 24;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
      .count();
}

std::string bar(size_t width, double share) {
  const auto filled = static_cast<size_t>(static_cast<double>(width) * share);
  return "[" + std::string(filled, '=') + std::string(width - filled, ' ') +
      "] ";
}

} // namespace

std::string clock_time(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  return s >= 3600
      ? fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
      : fmt::format("{:02}:{:02}", s / 60, s % 60);
}

std::string progress_line(const ProgressState& state, size_t width) {
  const double share = state.total > 0
      ? static_cast<double>(state.step) / static_cast<double>(state.total)
      : 1;
  std::string text =
      fmt::format("{}/{} {}s", state.step, state.total, state.unit);
  if (state.seconds_per_unit > 0) {
    const auto left = static_cast<double>(state.total - state.step);
    text += fmt::format(
        ", {:.2f} s per {}, {} left",
        state.seconds_per_unit,
        state.unit,
        clock_time(state.seconds_per_unit * left));
  }
  if (!state.activity.empty()) {
    text += ", " + state.activity;
  }
  if (width == 0) {
    return text;
  }
  std::string line = fmt::format("{:3.0f}% ", 100 * share);
  text = detail::printable(text, "");
  const size_t used =
      line.size() + detail::num_characters(text) + 3; // the bar's "[] "
  if (used + kSmallestBar <= width) {
    line += bar(std::min(kLargestBar, width - used), share);
  }
  return std::string(detail::first_characters(line + text, width));
}

Progress::Progress(std::string unit) : unit_(std::move(unit)) {
  if (terminal_width() > 0) {
    return;
  }
  beat_ = std::jthread([this](const std::stop_token& token) {
    std::unique_lock lock(mutex_);
    const auto stops = [&] { return token.stop_requested(); };
    while (!wake_.wait_for(lock, token, kBetweenLines, stops)) {
      show();
    }
  });
}

void Progress::start(int64_t total) {
  const std::scoped_lock lock(mutex_);
  total_ = total;
  show();
}

void Progress::begin_step() {
  const std::scoped_lock lock(mutex_);
  mark_ = Clock::now();
}

double Progress::seconds() const {
  const std::scoped_lock lock(mutex_);
  return seconds_;
}

void Progress::finish() {
  if (beat_.joinable()) {
    beat_.request_stop();
    beat_.join();
  }
  if (bar_shown_) {
    std::fputs("\n", stderr);
    bar_shown_ = false;
  }
}

void Progress::show() {
  if (total_ == 0) {
    return;
  }
  const int64_t done = step_ - first_step_;
  const ProgressState state{
      unit_,
      step_,
      total_,
      done > 0 ? seconds_ / static_cast<double>(done) : 0,
      activity_};
  if (const int width = terminal_width(); width > 0) {
    // One column stays free: a full line would move the cursor to the next.
    const std::string line =
        progress_line(state, static_cast<size_t>(std::max(1, width - 1)));
    std::fputs(("\r\x1b[2K" + line).c_str(), stderr);
    std::fflush(stderr);
    bar_shown_ = true;
  } else if (Clock::now() - last_line_ >= kBetweenLines) {
    last_line_ = Clock::now();
    say_error(progress_line(state, 0));
  }
}

void Progress::step(int64_t step, int64_t total) {
  const std::scoped_lock lock(mutex_);
  if (total_ == 0) {
    first_step_ = step - 1;
  }
  step_ = step;
  total_ = total;
  seconds_ += seconds_since(mark_);
  mark_ = Clock::now();
  activity_.clear();
  show();
}

void Progress::activity(const std::string& text) {
  const std::scoped_lock lock(mutex_);
  activity_ = text;
  show();
}

void Progress::line(const std::string& text) {
  const std::scoped_lock lock(mutex_);
  if (bar_shown_) {
    std::fputs("\r\x1b[2K", stderr);
    std::fflush(stderr);
  }
  say(text);
  if (bar_shown_) {
    show();
  }
}

} // namespace torchlora::cli
