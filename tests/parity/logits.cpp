// parity_logits CHECKPOINT ADAPTER INPUT OUTPUT: logits (fp32) of a checkpoint
// with an adapter for the `input_ids` of a safetensors file, for the parity
// scripts.
#include <torchlora/gemma4.h>
#include <torchlora/torchlora.h>

int main(int argc, char** argv) {
  TORCH_CHECK_VALUE(argc == 5, "four arguments are needed");
  torch::NoGradGuard no_grad;
  auto model = torchlora::gemma4::from_pretrained(argv[1], {at::kFloat});
  const auto peft = torchlora::PeftModel::from_pretrained(*model, argv[2]);
  const torchlora::io::SafetensorsFile input(argv[3]);
  torchlora::io::save_safetensors(
      argv[4], {{"logits", model(input.tensor("input_ids"))}});
}
