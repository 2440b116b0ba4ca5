#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace torchlora::cli {

/// Shows how far a run is: on a terminal a bar with the time that is left
/// (stderr), otherwise a plain line every ten seconds; and the metric lines
/// (stdout) as TRL prints them, with 4 significant digits.
class Progress {
 public:
  using Metrics = std::vector<std::pair<std::string, double>>;

  /// `unit`: what is counted.
  explicit Progress(bool terminal, std::string unit = "step")
      : terminal_(terminal), unit_(std::move(unit)) {}
  ~Progress() {
    finish();
  }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `step` of `total` units are done.
  void step(int64_t step, int64_t total);
  /// What the run does between two steps, shown behind the bar on a terminal;
  /// the next step ends it.
  void activity(const std::string& text);
  void metrics(const Metrics& metrics);
  /// A line of text that leaves the bar intact.
  void line(const std::string& text);
  /// Leaves the bar as it is; what is printed next stands below it.
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

/// {'loss': '0.6931', 'grad_norm': '1.25'}
std::string metrics_line(const Progress::Metrics& metrics);

} // namespace torchlora::cli
