#include <iostream>

#include <torchlora/gemma4.h>
#include <torchlora/tokenizer.h>
#include <torchlora/torchlora.h>
#include <torchlora/train.h>

#include <torch/nn/modules/linear.h>

/// second.cpp
int64_t adapted_parameters(torch::nn::Module& model);

struct NetImpl : torch::nn::Module {
  torch::nn::Linear theirs = register_module("theirs", torch::nn::Linear(8, 4));
  torchlora::nn::Linear ours =
      register_module("ours", torchlora::nn::Linear(8, 4));
};

int main() {
  const auto net = std::make_shared<NetImpl>();
  auto peft = torchlora::get_peft_model(
      *net, torchlora::LoraConfig(2).target_modules({"ours"}));
  const int64_t rank_2 = 2 * (8 + 4), rank_4 = 2 * rank_2;
  const auto counted = peft.get_nb_trainable_parameters().first;
  peft.merge_and_unload();
  const auto counted_there = adapted_parameters(*net);
  std::cout << counted << " and " << counted_there << " parameters\n";
  return counted == rank_2 && counted_there == rank_4 ? 0 : 1;
}
