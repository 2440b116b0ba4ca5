// Forward and backward of a frozen linear layer of 2048 x 2048: fp32, bf16 by
// LibTorch's own kernels, bf16 upcast a block of rows at a time, and the same
// layer with a LoRA adapter. Ratios to the fp32 layer are printed at the end.
#include <cstdio>
#include <string>
#include <vector>

#include <torch/torch.h>

#include <torchlora/torchlora.h>

#include "best_times.h"

namespace {

constexpr int64_t kSize = 2048;

enum Kind { kFp32, kUpcast, kNative, kLora };
const char* const kNames[] = {
    "fp32",
    "bf16 upcast",
    "bf16 native",
    "fp32 with LoRA r 16"};

struct HolderImpl : torch::nn::Module {
  explicit HolderImpl(at::ScalarType dtype) {
    layer = register_module(
        "layer",
        torchlora::nn::Linear(
            torch::nn::LinearOptions(kSize, kSize).bias(false)));
    layer->to(dtype);
    layer->weight.set_requires_grad(false);
  }
  torchlora::nn::Linear layer{nullptr};
};

void forward_backward(benchmark::State& state) {
  const auto kind = static_cast<Kind>(state.range(0));
  const auto tokens = state.range(1);
  const bool is_bf16 = kind == kUpcast || kind == kNative;
  const auto dtype = is_bf16 ? at::kBFloat16 : at::kFloat;
  torchlora::nn::set_compute_route(
      kind == kUpcast ? torchlora::nn::ComputeRoute::kUpcast
                      : torchlora::nn::ComputeRoute::kNative);
  const auto model = std::make_shared<HolderImpl>(dtype);
  if (kind == kLora) {
    torchlora::get_peft_model(
        *model, torchlora::LoraConfig(16).target_modules({"layer"}));
  }
  auto x = torch::randn({tokens, kSize}).to(dtype).requires_grad_();
  const auto grad = torch::randn({tokens, kSize}).to(dtype);
  for (auto _ : state) {
    x.mutable_grad() = at::Tensor();
    model->layer(x).backward(grad);
  }
  state.SetLabel(kNames[kind]);
  torchlora::nn::set_compute_route(std::nullopt);
}

void arguments(benchmark::internal::Benchmark* b, std::vector<int64_t> kinds) {
  for (const int64_t tokens : {128, 512}) {
    for (const auto kind : kinds) {
      b->Args({kind, tokens});
    }
  }
  b->Unit(benchmark::kMillisecond)->UseRealTime();
}
BENCHMARK(forward_backward)->Apply([](auto* b) {
  arguments(b, {kFp32, kUpcast, kLora});
}) -> MinTime(0.2) -> Repetitions(9);
// Two hundred times slower where the CPU has no bf16 instructions.
BENCHMARK(forward_backward)->Apply([](auto* b) {
  arguments(b, {kNative});
}) -> Iterations(1);

/// Ratios of the best times.
void print_ratios(const BestTimes& times) {
  for (const int tokens : {128, 512}) {
    const auto time = [&](int kind) {
      return times.time(std::to_string(kind) + "/" + std::to_string(tokens));
    };
    for (const auto kind : {kUpcast, kLora, kNative}) {
      if (time(kind) > 0) { // not filtered out
        std::printf(
            "%d tokens: %s / fp32 = %.3f\n",
            tokens,
            kNames[kind],
            time(kind) / time(kFp32));
      }
    }
  }
}

} // namespace

int main(int argc, char** argv) {
  BestTimes reporter(print_ratios);
  run_in_turns(argc, argv, reporter);
}
