#include <torchlora/lora/layer_function.h>

#include <cmath>

#include <torch/nn/init.h>
#include <torch/types.h>

#include <torchlora/detail/dropout.h>
#include <torchlora/init/default.h>

namespace torchlora {

LayerFunction::~LayerFunction() = default;

Tensor LayerFunction::operate(
    const LayerCall& call,
    const Tensor& weight,
    const Tensor& bias) const {
  TORCH_INTERNAL_ASSERT(call.operation);
  return call.operation->run(call.input, weight, bias);
}

Tensor LayerFunction::product(const LayerCall& call, ActiveUpdates updates)
    const {
  const auto weight = base_weight().weight();
  // With the bias, as the base layer does: a fresh adapter changes no bit. An
  // operation takes a bias of the weight's dtype only; that of an fp32 adapter
  // over a half-precision weight is added to the output.
  const bool is_fused =
      !call.bias.defined() || call.bias.scalar_type() == weight.scalar_type();
  auto output = operate(call, weight, is_fused ? call.bias : Tensor());
  const auto dtype = output.scalar_type();
  if (!is_fused) {
    output = output + per_channel(call, call.bias);
  }
  for (const auto& active : updates) {
    output = output + update(call, active);
  }
  return output.to(dtype);
}

Tensor LayerFunction::update(const LayerCall& call, const ActiveUpdate& update)
    const {
  const auto& x = call.input;
  const bool is_index = at::isIntegralType(x.scalar_type(), true);
  const auto dropped = is_index
      ? x
      : detail::dropout(x.to(update.A.scalar_type()), update.dropout);
  return low_rank(call.on(dropped), update.A, update.B) * update.scaling;
}

Tensor LayerFunction::weight_inputs(const LayerCall& /*call*/) const {
  TORCH_CHECK_VALUE(
      false,
      "[set_input_observer] this type of layer does not tell what its weight "
      "is multiplied by; override weight_inputs, or leave the module out by "
      "exclude_modules");
}

init::Factors LayerFunction::construct_factors(
    const LoraConfig& config,
    int64_t r) const {
  const auto matrix = base_weight().matrix();
  init::Factors factors{
      at::empty({r, matrix.size(1)}, at::kFloat),
      at::empty({matrix.size(0), r}, at::kFloat)};
  init::draw_as_linear(factors.A);
  init::draw_as_linear(factors.B);
  if (config.lora_bias()) {
    const double bound = 1 / std::sqrt(static_cast<double>(r));
    factors.bias = at::empty({matrix.size(0)}, at::kFloat);
    torch::nn::init::uniform_(factors.bias, -bound, bound);
  }
  return factors;
}

} // namespace torchlora
