// Layer types that torchlora does not know, adapted: one of your own, which
// derives from torchlora::nn::Adaptable, and one that you do not own.
//
//   custom_layer
//
// Built as the target `custom_layer` of torchlora, or in a project of your own
// as examples/consumer shows.
#include <torch/torch.h>
#include <torchlora/torchlora.h>

#include <iostream>

namespace tl = torchlora;
using torch::Tensor;

// ---- 1. Your own: y = gain · (W x + b). Adaptable makes its forward one that
// a LoRA layer can take over; nothing else in it changes.

struct PlainGainLinear : torch::nn::Cloneable<PlainGainLinear> {
  PlainGainLinear(int64_t in_, int64_t out_, double gain_)
      : in(in_), out(out_), gain(gain_) {
    PlainGainLinear::reset();
  }
  void reset() override {
    weight = register_parameter("weight", torch::randn({out, in}) / 8);
    bias = register_parameter("bias", torch::zeros(out));
  }
  Tensor forward(const Tensor& x) {
    return gain * torch::nn::functional::linear(x, weight, bias);
  }
  int64_t in, out;
  double gain;
  Tensor weight, bias;
};

struct GainLinearImpl : tl::nn::Adaptable<PlainGainLinear, GainLinearImpl> {
  using Adaptable::Adaptable;
};
TORCH_MODULE(GainLinear);

// Its LoRA layer. The update belongs to the weight, so it is inside of what
// the layer does with W x + b: y = gain · ((W + s·B·A) x + b).
struct LoraGainLinear : tl::LoraLinear {
  using LoraLinear::LoraLinear;

 protected:
  Tensor adapted_forward(const tl::LayerCall& call, tl::ActiveUpdates updates)
      override {
    return base_layer()->as<GainLinearImpl>()->gain *
        LoraLinear::adapted_forward(call, updates);
  }
};

// ---- 2. Not yours: a layer of another library, which stores its weight
// [in, out] and is used as it is.

namespace elsewhere {
struct ProjectionImpl : torch::nn::Module {
  ProjectionImpl(int64_t in, int64_t out) {
    kernel = register_parameter("kernel", torch::randn({in, out}) / 8);
    offset = register_parameter("offset", torch::zeros(out));
  }
  Tensor forward(const Tensor& x) {
    return torch::matmul(x, kernel) + offset;
  }
  Tensor kernel, offset;
};
TORCH_MODULE(Projection);
} // namespace elsewhere

void register_layers() {
  auto& registry = tl::LoraRegistry::global();
  registry.add<GainLinearImpl, LoraGainLinear>(
      "GainLinear",
      [](GainLinearImpl& m) { return tl::BaseWeight(m.weight, m.bias); });
  // `member` names the tensor that its forward computes with: while the layer
  // is adapted, that one stands for the adapted weight.
  registry.add<elsewhere::ProjectionImpl, tl::LoraLinear>(
      "elsewhere::Projection", [](elsewhere::ProjectionImpl& m) {
        return tl::BaseWeight(m.kernel, m.offset, "", tl::WeightLayout::kInOut)
            .member(m.kernel);
      });
}

struct NetImpl : torch::nn::Module {
  NetImpl() {
    first = register_module("first", elsewhere::Projection(16, 32));
    second = register_module("second", GainLinear(32, 4, 0.5));
  }
  Tensor forward(const Tensor& x) {
    return second(torch::tanh(first(x)));
  }
  elsewhere::Projection first{nullptr};
  GainLinear second{nullptr};
};
TORCH_MODULE(Net);

int main() {
  register_layers();
  torch::manual_seed(0);
  Net net;
  const auto x = torch::randn({64, 16}), y = torch::randn({64, 4});
  auto peft = tl::get_peft_model(
      *net, tl::LoraConfig(4).target_modules({"first", "second"}));
  peft.print_trainable_parameters();

  torch::optim::AdamW optimizer(peft.trainable_parameters(), 0.01);
  double before = 0, after = 0;
  for (int step = 0; step < 200; ++step) {
    const auto loss = torch::nn::functional::mse_loss(net(x), y);
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
    (step ? after : before) = loss.item<double>();
  }
  std::cout << "loss " << before << " -> " << after << '\n';

  // Everything that reaches a weight by its accessor works, as merging.
  torch::NoGradGuard no_grad;
  const auto adapted = net(x);
  peft.merge_and_unload();
  const auto difference = (net(x) - adapted).abs().max().item<double>();
  std::cout << "merged, largest difference " << difference << '\n';
  return after < before / 2 && difference < 1e-5 ? 0 : 1;
}
