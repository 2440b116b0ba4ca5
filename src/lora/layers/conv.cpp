#include <torchlora/lora/layers/conv.h>

#include <torch/types.h>

namespace torchlora {

LoraConv::LoraConv(
    const std::shared_ptr<torch::nn::Module>& base_layer,
    BaseWeightAccessor accessor)
    : LoraLayer(base_layer, std::move(accessor)),
      base_(dynamic_cast<nn::Convolution*>(base_layer.get())),
      spatial_dims_(base_weight().weight().dim() - 2) {}

at::Tensor LoraConv::convolve(
    const at::Tensor& input,
    const at::Tensor& kernel,
    const at::Tensor& bias) const {
  return base_ ? base_->convolve(input, kernel, bias)
               : operation(input, kernel, bias);
}

void LoraConv::check_config(const LoraConfig& /*config*/) const {
  const auto groups = nn::convolution_groups(*base_layer());
  TORCH_CHECK_VALUE(
      groups == 1,
      "[update_layer] a convolution with ",
      groups,
      " groups cannot be adapted: a low-rank update over all channels is not "
      "an update of its weight; leave it out by exclude_modules");
}

at::Tensor LoraConv::product(
    const at::Tensor& input,
    const std::vector<Term>& terms,
    const at::Tensor& bias) {
  // With the bias, as the base layer does: a fresh adapter changes no bit.
  return with_updates(
      convolve(input, base_weight().weight(), bias), input, terms);
}

at::Tensor LoraConv::update(const at::Tensor& input, const Term& term) {
  const auto& A = term.adapter->lora_A->weight;
  const auto x = at::dropout(input.to(A.scalar_type()), term.dropout, true);
  const auto h = convolve(x, A, {});
  // B on the channels, whether or not there is a batch.
  const auto channels = h.dim() - 1 - spatial_dims_;
  auto sizes = h.sizes().vec();
  sizes[channels] = term.adapter->lora_B->weight.size(0);
  return at::matmul(
             term.adapter->lora_B->weight.flatten(1), h.flatten(channels + 1))
             .view(sizes) *
      term.scaling;
}

at::Tensor LoraConv::weight_input(const at::Tensor& input) const {
  check_config(LoraConfig());
  const auto& kernel = base_weight().weight();
  auto sizes = kernel.sizes().vec();
  sizes[0] = kernel[0].numel();
  // A channel for each element of the kernel: the patches.
  const auto patches =
      convolve(input, at::eye(sizes[0], kernel.options()).view(sizes), {});
  return patches.movedim(patches.dim() - 1 - spatial_dims_, -1)
      .reshape({-1, sizes[0]});
}

at::Tensor LoraConv::per_channel(const at::Tensor& values) const {
  std::vector<int64_t> sizes(spatial_dims_ + 1, 1);
  sizes[0] = -1;
  return values.view(sizes);
}

} // namespace torchlora
