#include <iostream>

#include <torch/torch.h>
#include <torchlora/torchlora.h>
#include <torchlora/train.h>

struct NetImpl : torch::nn::Module {
  torchlora::nn::Linear fc = register_module("fc", torchlora::nn::Linear(8, 4));
};

int main() {
  auto net = std::make_shared<NetImpl>();
  auto peft = torchlora::get_peft_model(
      *net, torchlora::LoraConfig(2).target_modules({"fc"}));
  peft.print_trainable_parameters();
  std::cout << net->fc(torch::ones({1, 8})).sizes()
            << ", DPO losses: " << torchlora::train::dpo_loss_types().size()
            << '\n';
}
