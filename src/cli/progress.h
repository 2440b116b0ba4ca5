#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace torchlora::cli {

/// Shows the progress of a run. On a terminal: a bar with the remaining time
/// (stderr). Elsewhere: a plain line every ten seconds. Metrics are printed to
/// stdout as TRL prints them, with 4 significant digits.
class Progress {
 public:
  using Metrics = std::vector<std::pair<std::string, double>>;

  /// `unit` is the name of what is counted.
  explicit Progress(bool terminal, std::string unit = "step")
      : terminal_(terminal), unit_(std::move(unit)) {}
  ~Progress() {
    finish();
  }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Reports that `step` of `total` units are done.
  void step(int64_t step, int64_t total);
  /// Shows, after the bar on a terminal, what the run does until the next step.
  void activity(const std::string& text);
  void metrics(const Metrics& metrics);
  /// Prints a line of text above the bar.
  void line(const std::string& text);
  /// Ends the bar, so that later output is below it.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;

  std::string status() const;
  void clear_bar() const;
  void draw_bar() const;

  bool terminal_;
  std::string unit_;
  bool bar_shown_ = false;
  std::string activity_;
  int64_t first_step_ = 0;
  int64_t step_ = 0;
  int64_t total_ = 0;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_line_ = start_;
};

/// Returns {'loss': '0.6931', 'grad_norm': '1.25'}.
std::string metrics_line(const Progress::Metrics& metrics);

} // namespace torchlora::cli
