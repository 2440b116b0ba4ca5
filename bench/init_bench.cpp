// init_bench [WEIGHT]: prints the seconds of each initializer on one weight, at
// rank 16, best of three runs (one run if it is slow). WEIGHT is a safetensors
// file with `weight`; by default the weight is 2048 x 2048 with singular values
// that fall as k^-1/2. Initializers that need data get two batches, `inputs`
// [2, rows, in_features] in the file; their preprocessing counts.
#include <algorithm>
#include <chrono>
#include <cstdio>

#include <torch/torch.h>

#include <torchlora/torchlora.h>

namespace {

struct HolderImpl : torch::nn::Module {
  explicit HolderImpl(const torch::Tensor& weight)
      : layer(register_module(
            "layer",
            torchlora::nn::Linear(
                torchlora::nn::LinearImpl::from_weight(weight)))) {}
  torchlora::nn::Linear layer;
};

torch::Tensor decaying(int64_t size) {
  torch::manual_seed(0);
  const auto U = std::get<0>(at::linalg_qr(torch::randn({size, size})));
  const auto V = std::get<0>(at::linalg_qr(torch::randn({size, size})));
  const auto k = torch::arange(1, size + 1, torch::kFloat);
  return at::mm(U * k.pow(-0.5), V);
}

torchlora::LoraConfig config_of(const torchlora::InitLoraWeights& init) {
  auto config =
      torchlora::LoraConfig(16).target_modules({"layer"}).init_lora_weights(
          init);
  if (init == "corda_kpm") {
    config.init_lora_weights("corda").corda_config(
        torchlora::CordaConfig().corda_method("kpm"));
  } else if (init == "lora_ga") {
    config.lora_ga_config(torchlora::LoraGAConfig());
  } else if (init == "loftq") {
    config.loftq_config(torchlora::LoftQConfig());
  } else if (init == "eva") {
    config.eva_config(torchlora::EvaConfig().tau(0));
  }
  return config;
}

void initialize(
    HolderImpl& model,
    const torchlora::LoraConfig& config,
    const torch::Tensor& inputs) {
  torchlora::InitStatistics statistics;
  const auto& init = config.init_lora_weights();
  if (init == "corda") {
    statistics = torchlora::preprocess_corda(model, config, [&] {
      for (const auto& x : inputs.unbind()) {
        model.layer(x);
      }
    });
  } else if (init == "lora_ga") {
    statistics = torchlora::preprocess_loraga(model, config, [&] {
      for (const auto& x : inputs.unbind()) {
        model.layer(x).square().mean().backward();
      }
    });
  }
  auto peft = torchlora::get_peft_model(
      model,
      config,
      "default",
      torchlora::InjectOptions().init_statistics(std::move(statistics)));
  if (init == "eva") {
    torchlora::initialize_lora_eva_weights(peft, [&, i = 0]() mutable {
      model.layer(inputs[i++ % 2]);
      return true;
    });
  }
}

double seconds(
    const torch::Tensor& weight,
    const torch::Tensor& inputs,
    const torchlora::InitLoraWeights& init) {
  double best = 1e9;
  for (int i = 0; i < 3 && (i == 0 || best < 1); ++i) {
    auto model = std::make_shared<HolderImpl>(weight.clone());
    const auto begin = std::chrono::steady_clock::now();
    initialize(*model, config_of(init), inputs);
    const std::chrono::duration<double> time =
        std::chrono::steady_clock::now() - begin;
    best = std::min(best, time.count());
  }
  return best;
}

} // namespace

int main(int argc, char** argv) {
  torch::Tensor weight, inputs;
  if (argc > 1) {
    const torchlora::io::SafetensorsFile file(argv[1]);
    weight = file.tensor("weight");
    inputs = file.tensor("inputs");
  } else {
    weight = decaying(2048);
    inputs = at::matmul(torch::randn({2, 2560, 2048}), decaying(2048));
  }
  std::printf("true %.6f\n", seconds(weight, inputs, true));
  for (const char* name :
       {"gaussian",
        "orthogonal",
        "olora",
        "pissa",
        "pissa_niter_16",
        "mica",
        "corda",
        "corda_kpm",
        "lora_ga",
        "loftq",
        "eva"}) {
    std::printf("%s %.6f\n", name, seconds(weight, inputs, name));
  }
}
