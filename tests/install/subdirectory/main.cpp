#include <iostream>

#include <torch/nn/modules/linear.h>

#include <torchlora/model.h>

struct NetImpl : torch::nn::Module {
  torch::nn::Linear fc = register_module("fc", torch::nn::Linear(8, 4));
};

// Neither passes torchlora's own warnings.
int first_of(int value, int unused) {
  {
    int value = 1;
    (void)value;
  }
  return value;
}

int main() {
  const auto net = std::make_shared<NetImpl>();
  auto peft = torchlora::get_peft_model(
      *net, torchlora::LoraConfig(2).target_modules({"fc"}));
  std::cout << peft.trainable_parameters_line() << '\n';
  return first_of(0, 1);
}
