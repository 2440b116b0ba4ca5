#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>

namespace torchlora::cli {

/// Shows the progress of a run on stderr. On a terminal: one line with a bar
/// and the remaining time, as wide as the terminal at most. Elsewhere: a plain
/// line every ten to twenty seconds, by a thread of its own, so that a long
/// evaluation or micro-batch is not silent.
///
/// The clock counts the units only, so that neither the start of the program
/// nor an evaluation makes the steps look slow.
class Progress {
 public:
  /// `unit` is the name of what is counted.
  explicit Progress(std::string unit = "step");
  ~Progress() {
    finish();
  }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Says how many units there are before the first is done.
  void start(int64_t total);
  /// Starts the clock of a unit. Without this call a unit begins where the last
  /// one ended.
  void begin_step();
  /// Reports that `step` of `total` units are done.
  void step(int64_t step, int64_t total);
  /// Shows, after the bar, what the run does until the next unit.
  void activity(const std::string& text);
  /// Prints a line of text to stdout, above the bar.
  void line(const std::string& text);
  /// Ends the bar, so that later output is below it.
  void finish();

  /// Returns the time that all units took.
  double seconds() const;

 private:
  using Clock = std::chrono::steady_clock;

  void show();

  mutable std::mutex mutex_;
  std::condition_variable_any wake_;
  std::string unit_;
  bool bar_shown_ = false;
  std::string activity_;
  int64_t first_step_ = 0;
  int64_t step_ = 0;
  int64_t total_ = 0;
  double seconds_ = 0;
  Clock::time_point mark_ = Clock::now();
  Clock::time_point last_line_ = mark_;
  /// The last member: it uses the others.
  std::jthread beat_;
};

/// What a progress line says.
struct ProgressState {
  std::string unit;
  int64_t step = 0, total = 0;
  /// 0: no unit is done yet.
  double seconds_per_unit = 0;
  std::string activity;
};

/// Returns the progress line of at most `width` characters, with a bar where
/// there is room for one; without bar and limit if `width` is 0.
std::string progress_line(const ProgressState& state, size_t width);

/// Returns 02:10 or 1:02:10.
std::string clock_time(double seconds);

} // namespace torchlora::cli
