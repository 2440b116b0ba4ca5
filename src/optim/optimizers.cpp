#include <torch/optim/serialize.h>
#include <torch/serialize/archive.h>

#include <torchlora/optim/lorafa.h>

// The optimizers are headers with their code. Key functions, archives and the
// pseudo-inverse are compiled here.

namespace torchlora {

Tensor detail::damped_inverse(const Tensor& factor, double damping) {
  const auto F =
      factor.detach().to(c10::promoteTypes(factor.scalar_type(), at::kFloat));
  const auto gram =
      at::mm(F, F.t()).add_(at::eye(F.size(0), F.options()), damping);
  const std::optional<double> tolerance;
  return at::linalg_pinv(gram, tolerance, tolerance, /*hermitian=*/true);
}

LoraFAOptions::~LoraFAOptions() = default;
LoraFA::~LoraFA() = default;

void LoraFAOptions::serialize(torch::serialize::OutputArchive& archive) const {
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(lr);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(betas);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(eps);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(weight_decay);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(correct_bias);
}

void LoraFAOptions::serialize(torch::serialize::InputArchive& archive) {
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(double, lr);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(betas_t, betas);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(double, eps);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(double, weight_decay);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(bool, correct_bias);
}

void LoraFA::save(torch::serialize::OutputArchive& archive) const {
  torch::optim::serialize<torch::optim::AdamWParamState, LoraFAOptions>(
      archive, *this);
}

void LoraFA::load(torch::serialize::InputArchive& archive) {
  torch::optim::serialize<torch::optim::AdamWParamState, LoraFAOptions>(
      archive, *this);
}

} // namespace torchlora
