// Forward and backward of a frozen linear layer: fp32, bf16 by LibTorch's own
// kernels, bf16 upcast a block of rows at a time, and the same layer with a
// LoRA adapter, plain, with dropout, and DoRA. Ratios to the fp32 layer are
// printed at the end: of the time and of the CPU time of all threads, which a
// busy machine disturbs less.
#include <cstdio>
#include <string>
#include <vector>

#include <torch/torch.h>

#include <torchlora/torchlora.h>

#include "best_times.h"

namespace {

enum Kind { kFp32, kUpcast, kNative, kLora, kDropout, kDora };
const char* const kNames[] = {
    "fp32",
    "bf16 upcast",
    "bf16 native",
    "LoRA",
    "LoRA, dropout 0.05",
    "DoRA"};

/// What one batch and one layer of `size` x `size` have.
struct Shape {
  int64_t tokens, size, r;
};
const Shape kShapes[] = {{128, 2048, 16}, {512, 2048, 16}, {16, 1024, 8}};

struct HolderImpl : torch::nn::Module {
  HolderImpl(int64_t size, at::ScalarType dtype) {
    layer = register_module(
        "layer",
        torchlora::nn::Linear(
            torch::nn::LinearOptions(size, size).bias(false)));
    layer->to(dtype);
    layer->weight.set_requires_grad(false);
  }
  torchlora::nn::Linear layer{nullptr};
};

void forward_backward(benchmark::State& state) {
  const auto kind = static_cast<Kind>(state.range(0));
  const auto& [tokens, size, r] = kShapes[state.range(1)];
  const bool is_bf16 = kind == kUpcast || kind == kNative;
  const auto dtype = is_bf16 ? at::kBFloat16 : at::kFloat;
  torchlora::nn::set_compute_route(
      kind == kUpcast ? torchlora::nn::ComputeRoute::kUpcast
                      : torchlora::nn::ComputeRoute::kNative);
  const auto model = std::make_shared<HolderImpl>(size, dtype);
  if (kind >= kLora) {
    torchlora::get_peft_model(
        *model,
        torchlora::LoraConfig(r)
            .lora_dropout(kind == kDropout ? 0.05 : 0)
            .use_dora(kind == kDora)
            .target_modules({"layer"}));
  }
  auto x = torch::randn({tokens, size}).to(dtype).requires_grad_();
  const auto grad = torch::randn({tokens, size}).to(dtype);
  for (auto _ : state) {
    x.mutable_grad() = at::Tensor();
    model->layer(x).backward(grad);
  }
  state.SetLabel(kNames[kind]);
  torchlora::nn::set_compute_route(std::nullopt);
}

void arguments(benchmark::internal::Benchmark* b, std::vector<int64_t> kinds) {
  for (const int64_t shape : {0, 1, 2}) {
    for (const auto kind : kinds) {
      b->Args({kind, shape});
    }
  }
  b->Unit(benchmark::kMillisecond)->MeasureProcessCPUTime();
}
BENCHMARK(forward_backward)->Apply([](auto* b) {
  arguments(b, {kFp32, kUpcast, kLora, kDropout, kDora});
}) -> MinTime(0.2) -> Repetitions(9);
// Two hundred times slower where the CPU has no bf16 instructions.
BENCHMARK(forward_backward)->Apply([](auto* b) {
  arguments(b, {kNative});
}) -> Iterations(1);

/// Ratios of the best times.
void print_ratios(const BestTimes& times) {
  for (const int shape : {0, 1, 2}) {
    const auto& [tokens, size, r] = kShapes[shape];
    const auto arguments = [&](int kind) {
      return std::to_string(kind) + "/" + std::to_string(shape);
    };
    const auto base = arguments(kFp32);
    for (const auto kind : {kUpcast, kNative, kLora, kDropout, kDora}) {
      const auto other = arguments(kind);
      if (times.time(other) > 0) { // not filtered out
        std::printf(
            "%3d tokens, %d x %d, r %2d: %s / fp32 = %.3f, CPU time %.3f\n",
            static_cast<int>(tokens),
            static_cast<int>(size),
            static_cast<int>(size),
            static_cast<int>(r),
            kNames[kind],
            times.time(other) / times.time(base),
            times.cpu_time(other) / times.cpu_time(base));
      }
    }
  }
}

} // namespace

int main(int argc, char** argv) {
  BestTimes reporter(print_ratios);
  run_in_turns(argc, argv, reporter);
}
