// LoRA on a model of your own, and on a layer type of your own.
#include <torchlora/torchlora.h>

#include <torch/nn/functional/activation.h>
#include <torch/types.h>

#include <iostream>

namespace tl = torchlora;

// A layer type that torchlora does not know: y = gain · (W x). Derived from
// Adaptable, its forward can be taken over by a LoRA layer.
struct GainLinearImpl : torch::nn::Module, tl::nn::Redirectable {
  GainLinearImpl(int64_t in, int64_t out, double gain) : gain(gain) {
    weight = register_parameter("weight", torch::randn({out, in}) / 8);
  }
  torch::Tensor forward(const torch::Tensor& x) {
    return redirected_forward(x);
  }
  torch::Tensor base_forward(const torch::Tensor& x) override {
    return gain * at::linear(x, weight);
  }
  double gain;
  torch::Tensor weight;
};
TORCH_MODULE(GainLinear);

// Its LoRA layer: the update belongs to the weight, the gain to the layer.
struct LoraGainLinear : tl::LoraLinear {
  using LoraLinear::LoraLinear;

 protected:
  torch::Tensor adapted_forward(
      const torch::Tensor& x,
      const std::vector<Term>& terms) override {
    return base_layer()->as<GainLinearImpl>()->gain *
        LoraLinear::adapted_forward(x, terms);
  }
};

struct NetImpl : torch::nn::Module {
  NetImpl() {
    fc1 = register_module("fc1", tl::nn::Linear(16, 32));
    fc2 = register_module("fc2", GainLinear(32, 4, 0.5));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    return fc2(torch::relu(fc1(x)));
  }
  tl::nn::Linear fc1{nullptr}; // a drop-in torch::nn::Linear
  GainLinear fc2{nullptr};
};
TORCH_MODULE(Net);

int main() {
  tl::LoraRegistry::global().add<GainLinearImpl, LoraGainLinear>(
      "GainLinear", [](GainLinearImpl& m) { return tl::BaseWeight(m.weight); });

  torch::manual_seed(0);
  Net net;
  const auto x = torch::randn({8, 16}), y = torch::randn({8, 4});
  const auto loss = [&] { return (net(x) - y).square().mean(); };

  // Adapt both layers; only the adapter trains.
  auto peft = tl::get_peft_model(
      *net, tl::LoraConfig(4).lora_alpha(8).target_modules({"fc1", "fc2"}));
  peft.print_trainable_parameters();
  const auto before = loss().item<double>();
  for (int step = 0; step < 200; ++step) {
    loss().backward();
    torch::NoGradGuard no_grad;
    for (auto& parameter : peft.trainable_parameters()) {
      parameter.sub_(0.05 * parameter.grad());
      parameter.mutable_grad() = torch::Tensor();
    }
  }
  const auto after = loss().item<double>();
  std::cout << "loss " << before << " -> " << after << '\n';

  // A second adapter, switching, the base model.
  peft.add_adapter("other", tl::LoraConfig(2).target_modules({"fc1"}));
  peft.set_adapter("other");
  std::cout << "fresh adapter: " << loss().item<double>() << '\n';
  peft.set_adapter("default");
  {
    const auto disabled = peft.disable_adapter();
    std::cout << "base model: " << loss().item<double>() << '\n';
  }

  // Merge: the same function, in a plain model.
  torch::NoGradGuard no_grad;
  const auto adapted = net(x);
  peft.merge_and_unload();
  const auto difference = (net(x) - adapted).abs().max().item<double>();
  std::cout << "merged, largest difference " << difference << '\n';
  return after < before && difference < 1e-5 ? 0 : 1;
}
