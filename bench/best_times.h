#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

/// Prints a line each, and at the end what `summary` makes of the best times.
class BestTimes : public benchmark::ConsoleReporter {
 public:
  explicit BestTimes(std::function<void(const BestTimes&)> summary)
      : summary_(std::move(summary)) {}

  void ReportRuns(const std::vector<Run>& runs) override {
    std::vector<Run> shown;
    for (const auto& run : runs) {
      if (run.repetitions <= 1 || run.aggregate_name == "median") {
        shown.push_back(run);
      }
      if (run.run_type == Run::RT_Iteration) {
        times_[run.run_name.args].push_back(run.GetAdjustedRealTime());
        cpu_times_[run.run_name.args].push_back(run.GetAdjustedCPUTime());
      }
    }
    ConsoleReporter::ReportRuns(shown);
  }
  void Finalize() override {
    ConsoleReporter::Finalize();
    summary_(*this);
  }

  /// @{
  /// Return the least time of the runs with these arguments ("0/128"), 0 if
  /// they were filtered out.
  double time(const std::string& arguments) const {
    return best(times_, arguments);
  }
  double cpu_time(const std::string& arguments) const {
    return best(cpu_times_, arguments);
  }
  /// @}

 private:
  using Times = std::map<std::string, std::vector<double>>;
  static double best(const Times& times, const std::string& arguments) {
    const auto found = times.find(arguments);
    return found == times.end() ? 0 : *std::ranges::min_element(found->second);
  }

  std::function<void(const BestTimes&)> summary_;
  Times times_, cpu_times_;
};

/// All benchmarks, in turns, so that a busy moment of the machine hits all.
inline void run_in_turns(int argc, char** argv, BestTimes& reporter) {
  std::vector<char*> args(argv, argv + argc);
  std::string in_turns = "--benchmark_enable_random_interleaving=true";
  args.insert(args.begin() + 1, in_turns.data());
  argc = static_cast<int>(args.size());
  benchmark::Initialize(&argc, args.data());
  benchmark::RunSpecifiedBenchmarks(&reporter);
}
