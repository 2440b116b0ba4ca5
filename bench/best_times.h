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
      }
    }
    ConsoleReporter::ReportRuns(shown);
  }
  void Finalize() override {
    ConsoleReporter::Finalize();
    summary_(*this);
  }

  /// Of the run with these arguments, "0/128"; 0 if it was filtered out.
  double time(const std::string& arguments) const {
    const auto found = times_.find(arguments);
    return found == times_.end() ? 0 : *std::ranges::min_element(found->second);
  }

 private:
  std::function<void(const BestTimes&)> summary_;
  std::map<std::string, std::vector<double>> times_;
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
