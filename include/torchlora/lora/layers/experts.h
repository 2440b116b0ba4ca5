#pragma once

#include <torchlora/lora/layer.h>
#include <torchlora/nn/experts.h>

namespace torchlora {

/// LoRA for a stacked parameter of an `nn::StackedExperts`, a
/// `target_parameters` entry. For the rows x of each expert e
///
///     y = x W_eᵀ + Σ scaling · x A_eᵀ B_eᵀ
///
/// with A [experts · r, in_features] and B [out_features, r · experts] in
/// PEFT's order (`BaseWeight::A_by_expert`); `r` is the rank of each expert. No
/// dense weight, and one product per expert. Layers of several parameters of a
/// module are nested, the first one innermost. Dropout, lora_bias, DoRA,
/// fan_in_fan_out and initializers other than true, false and "gaussian" are
/// refused. PEFT's `lora.ParamWrapper`.
class TORCHLORA_API LoraExperts : public LoraLayer {
 public:
  /// `base_layer`: the experts, or the LoRA layer of another parameter.
  LoraExperts(
      const std::shared_ptr<torch::nn::Module>& base_layer,
      const std::string& parameter_name);
  ~LoraExperts() override;

  const std::string& parameter_name() const {
    return parameter_name_;
  }
  /// Returns the base weight of a parameter.
  static BaseWeight parameter_weight(
      torch::nn::Module& base_layer,
      const std::string& parameter_name);

  Tensor low_rank(const LayerCall& call, const Tensor& A, const Tensor& B)
      const override;
  Tensor product(const LayerCall& call, ActiveUpdates updates) const override;

 protected:
  init::Factors construct_factors(const LoraConfig& config, int64_t r)
      const override;
  void check_config(const LoraConfig& config) const override;

 private:
  std::string parameter_name_;
};

} // namespace torchlora
