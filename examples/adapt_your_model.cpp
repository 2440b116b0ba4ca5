// LoRA on models that are there already: one written with torchlora's layers,
// one that has never heard of torchlora. Several adapters, switching, merging.
//
//   adapt_your_model
//
// Built as the target `adapt_your_model` of torchlora, or in a project of your
// own as examples/consumer shows.
#include <torch/torch.h>
#include <torchlora/torchlora.h>

#include <functional>
#include <iostream>

namespace tl = torchlora;
using torch::Tensor;

// Your own model: torchlora::nn::Linear is torch::nn::Linear with a forward
// that a LoRA layer can take over.
struct NetImpl : torch::nn::Module {
  NetImpl() {
    fc1 = register_module("fc1", tl::nn::Linear(16, 32));
    fc2 = register_module("fc2", tl::nn::Linear(32, 4));
  }
  Tensor forward(const Tensor& x) {
    return fc2(torch::relu(fc1(x)));
  }
  tl::nn::Linear fc1{nullptr}, fc2{nullptr};
};
TORCH_MODULE(Net);

// Somebody else's model. Its layers are out of reach, but not their names.
class ThirdPartyNetImpl : public torch::nn::Module {
 public:
  ThirdPartyNetImpl() {
    fc1_ = register_module("fc1", torch::nn::Linear(16, 32));
    fc2_ = register_module("fc2", torch::nn::Linear(32, 4));
  }
  Tensor forward(const Tensor& x) {
    return fc2_(torch::relu(fc1_(x)));
  }

 private:
  torch::nn::Linear fc1_{nullptr}, fc2_{nullptr};
};
TORCH_MODULE(ThirdPartyNet);

// The same for both.
bool adapt(
    torch::nn::Module& model,
    const std::function<Tensor(const Tensor&)>& forward) {
  const auto x = torch::randn({8, 16}), y = torch::randn({8, 4});
  const auto loss = [&] {
    return torch::nn::functional::mse_loss(forward(x), y);
  };

  // The model is changed in place; only the adapter trains.
  auto peft = tl::get_peft_model(
      model, tl::LoraConfig(4).lora_alpha(8).target_modules({"fc1", "fc2"}));
  peft.print_trainable_parameters();
  const auto before = loss().item<double>();
  torch::optim::SGD optimizer(peft.trainable_parameters(), 0.05);
  for (int step = 0; step < 200; ++step) {
    optimizer.zero_grad();
    loss().backward();
    optimizer.step();
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

  // Merge: the same function, in the model as it was.
  torch::NoGradGuard no_grad;
  const auto adapted = forward(x);
  peft.merge_and_unload();
  const auto difference = (forward(x) - adapted).abs().max().item<double>();
  std::cout << "merged, largest difference " << difference << "\n\n";
  return after < before && difference < 1e-5;
}

int main() {
  torch::manual_seed(0);
  Net ours;
  ThirdPartyNet theirs;
  const bool ok = adapt(*ours, [&](const Tensor& x) { return ours(x); }) &&
      adapt(*theirs, [&](const Tensor& x) { return theirs(x); });
  return ok ? 0 : 1;
}
