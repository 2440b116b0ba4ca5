#pragma once

#include <torchlora/lora/layer.h>
#include <torchlora/nn/experts.h>

namespace torchlora {

/// The LoRA layer for one stacked parameter of an `nn::StackedExperts` module,
/// which `target_parameters` names. The stacked parameter has a weight W_e per
/// expert e. For the input rows x that are routed to expert e
///
///     y = x W_eᵀ + Σ scaling · x A_eᵀ B_eᵀ
///
/// A is [experts · r, in_features] and B is [out_features, r · experts], in
/// PEFT's order (`BaseWeight::A_by_expert`); each expert has rank r. It makes
/// no dense adapted weight and computes one product per expert. Several adapted
/// parameters of a module have nested LoRA layers, the first one innermost.
/// ValueError for dropout, `lora_bias`, DoRA, `fan_in_fan_out` and initializers
/// other than true, false and "gaussian". PEFT's `lora.ParamWrapper`.
class TORCHLORA_API LoraExperts : public LoraLayer {
 public:
  /// Makes the LoRA layer for the parameter `parameter_name`, without adapters.
  /// `base_layer` is the `nn::StackedExperts`, or the LoRA layer of another of
  /// its parameters.
  LoraExperts(
      const std::shared_ptr<Module>& base_layer,
      const std::string& parameter_name);
  ~LoraExperts() override;

  const std::string& parameter_name() const {
    return parameter_name_;
  }
  /// Returns the accessor of the parameter `parameter_name` of `base_layer`, an
  /// `nn::StackedExperts` or a LoRA layer around it.
  static BaseWeight parameter_weight(
      Module& base_layer,
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
