// init_bench [WEIGHT]: seconds of each initialiser on a weight, r 16, a line
// each; best of three. WEIGHT is a safetensors file with `weight`; without it
// one of 2048 x 2048 whose singular values fall as k^-1/2.
#include <algorithm>
#include <chrono>
#include <cstdio>

#include <torch/torch.h>

#include <torchlora/torchlora.h>

namespace {

struct HolderImpl : torch::nn::Module {
  explicit HolderImpl(const torch::Tensor& weight) {
    register_module(
        "layer",
        torchlora::nn::Linear(torchlora::nn::LinearImpl::from_weight(weight)));
  }
};

torch::Tensor decaying(int64_t size) {
  torch::manual_seed(0);
  const auto U = std::get<0>(at::linalg_qr(torch::randn({size, size})));
  const auto V = std::get<0>(at::linalg_qr(torch::randn({size, size})));
  const auto k = torch::arange(1, size + 1, torch::kFloat);
  return at::mm(U * k.pow(-0.5), V);
}

double seconds(
    const torch::Tensor& weight,
    const torchlora::InitLoraWeights& init) {
  double best = 1e9;
  for (int i = 0; i < 3; ++i) {
    auto model = std::make_shared<HolderImpl>(weight.clone());
    const auto begin = std::chrono::steady_clock::now();
    torchlora::get_peft_model(
        *model,
        torchlora::LoraConfig(16).target_modules({"layer"}).init_lora_weights(
            init));
    const std::chrono::duration<double> time =
        std::chrono::steady_clock::now() - begin;
    best = std::min(best, time.count());
  }
  return best;
}

} // namespace

int main(int argc, char** argv) {
  const auto weight = argc > 1
      ? torchlora::io::SafetensorsFile(argv[1]).tensor("weight")
      : decaying(2048);
  std::printf("true %.6f\n", seconds(weight, true));
  for (const char* name :
       {"gaussian", "orthogonal", "olora", "pissa", "pissa_niter_16", "mica"}) {
    std::printf("%s %.6f\n", name, seconds(weight, name));
  }
}
