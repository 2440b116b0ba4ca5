#include <torchlora/lora/layers/bilinear.h>

#include <torch/types.h>

namespace torchlora {

at::Tensor LoraBilinear::product(
    const at::Tensor& input,
    const std::vector<Term>& terms,
    const at::Tensor& bias) {
  return with_updates(
      operation(input, base_weight().weight(), bias), input, terms);
}

at::Tensor LoraBilinear::update(const at::Tensor& input, const Term& term) {
  const auto& A = term.adapter->lora_A->weight;
  const auto x = at::dropout(input.to(A.scalar_type()), term.dropout, true);
  return at::linear(
             operation(x, A, {}), term.adapter->lora_B->weight.flatten(1)) *
      term.scaling;
}

at::Tensor LoraBilinear::weight_input(const at::Tensor& input) const {
  const auto weight = base_weight().weight();
  const auto x = input.reshape({-1, input.size(-1)});
  return (x.narrow(1, 0, weight.size(1)).unsqueeze(2) *
          x.narrow(1, weight.size(1), weight.size(2)).unsqueeze(1))
      .flatten(1);
}

} // namespace torchlora
