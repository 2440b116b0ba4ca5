// What a forward of a small adapted torch::nn::Linear costs more than that of
// the torchlora::nn::Linear of the same adapter, whose forward is redirected
// without the weight overlay; and of one that is not adapted, before and after
// another was. 16 x 16 at 16 tokens, one thread: nearly all of it is the cost
// of the calls.
#include <cstdio>
#include <memory>

#include <torch/torch.h>

#include <torchlora/torchlora.h>

#include "best_times.h"

namespace {

constexpr int64_t kSize = 16;

enum Kind { kPlain, kPlainBesideAdapted, kRedirected, kOverlay };
const char* const kNames[] = {
    "torch::nn::Linear",
    "torch::nn::Linear, another is adapted",
    "torchlora::nn::Linear, adapted",
    "torch::nn::Linear, adapted"};

template <class Linear>
struct PairImpl : torch::nn::Module {
  Linear target = register_module("target", Linear(kSize, kSize));
  Linear other = register_module("other", Linear(kSize, kSize));
};

template <class Linear>
void run(benchmark::State& state, const std::vector<std::string>& targets) {
  const auto model = std::make_shared<PairImpl<Linear>>();
  if (!targets.empty()) {
    torchlora::get_peft_model(
        *model, torchlora::LoraConfig(8).target_modules(targets));
  }
  const c10::InferenceMode mode;
  const auto x = torch::randn({kSize, kSize});
  for (auto _ : state) {
    benchmark::DoNotOptimize(model->target(x));
  }
}

void forward(benchmark::State& state) {
  const auto kind = state.range(0);
  if (kind == kRedirected) {
    run<torchlora::nn::Linear>(state, {"target"});
  } else if (kind == kOverlay) {
    run<torch::nn::Linear>(state, {"target"});
  } else if (kind == kPlainBesideAdapted) {
    run<torch::nn::Linear>(state, {"other"});
  } else {
    run<torch::nn::Linear>(state, {});
  }
  state.SetLabel(kNames[kind]);
}
BENCHMARK(forward)
    ->DenseRange(kPlain, kOverlay)
    ->Unit(benchmark::kMicrosecond)
    ->UseRealTime()
    ->MinTime(0.05)
    ->Repetitions(15);

void print_costs(const BestTimes& times) {
  const auto time = [&](Kind kind) { return times.time(std::to_string(kind)); };
  std::printf(
      "the overlay costs %.2f us a call, a layer that is not adapted %.2f\n",
      time(kOverlay) - time(kRedirected),
      time(kPlainBesideAdapted) - time(kPlain));
}

} // namespace

int main(int argc, char** argv) {
  torch::set_num_threads(1);
  BestTimes reporter(print_costs);
  run_in_turns(argc, argv, reporter);
}
