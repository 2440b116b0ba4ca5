#include <torchlora/lora/layers/conv_transpose.h>

#include <torch/types.h>

#include <torchlora/nn/conv.h>

namespace torchlora {

void LoraConvTranspose::check_config(const LoraConfig& config) const {
  const auto groups = nn::convolution_groups(*base_layer());
  TORCH_CHECK_VALUE(
      groups == 1,
      "[update_layer] a transposed convolution with ",
      groups,
      " groups cannot be adapted; leave it out by exclude_modules");
  TORCH_CHECK_VALUE(
      !config.use_dora() && !config.lora_bias(),
      "[update_layer] use_dora and lora_bias are not supported for transposed "
      "convolutions; leave them out by exclude_modules");
}

int64_t LoraConvTranspose::channels(const at::Tensor& input) const {
  return input.dim() + 1 - base_weight().weight().dim();
}

at::Tensor LoraConvTranspose::product(
    const at::Tensor& input,
    const std::vector<Term>& terms,
    const at::Tensor& bias) {
  return with_updates(
      operation(input, base_weight().weight(), bias), input, terms);
}

at::Tensor LoraConvTranspose::update(
    const at::Tensor& input,
    const Term& term) {
  const auto& A = term.adapter->lora_A->weight;
  const auto& B = term.adapter->lora_B->weight;
  const auto x = at::dropout(input.to(A.scalar_type()), term.dropout, true);
  auto sizes = x.sizes().vec();
  sizes[channels(x)] = A.size(0);
  const auto h = at::matmul(A, x.flatten(channels(x) + 1)).view(sizes);
  auto kernel_sizes = base_weight().weight().sizes().vec();
  kernel_sizes[0] = A.size(0);
  return operation(h, B.t().reshape(kernel_sizes), {}) * term.scaling;
}

at::Tensor LoraConvTranspose::weight_input(const at::Tensor& input) const {
  return input.movedim(channels(input), -1)
      .reshape({-1, base_weight().in_features()});
}

} // namespace torchlora
