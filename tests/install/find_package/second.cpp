#include <torchlora/gemma4.h>
#include <torchlora/tokenizer.h>
#include <torchlora/torchlora.h>
#include <torchlora/train.h>

int64_t adapted_parameters(torch::nn::Module& model) {
  auto peft = torchlora::get_peft_model(
      model, torchlora::LoraConfig(4).target_modules({"theirs"}));
  return peft.get_nb_trainable_parameters().first;
}
