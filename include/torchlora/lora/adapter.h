#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <torch/nn/module.h>

#include <torchlora/config/lora_config.h>
#include <torchlora/export.h>
#include <torchlora/lora/base_weight.h>

namespace torchlora {

/// What an adapter has one of in a layer: the parameter `weight`, and a `bias`
/// where it was given one.
class TORCHLORA_API LoraFactor : public torch::nn::Module {
 public:
  /// Registers both, an undefined `bias` aside.
  explicit LoraFactor(at::Tensor value, at::Tensor bias = {});
  /// @{
  /// The parameters; `bias` may be undefined.
  at::Tensor weight, bias;
  /// @}
};

/// What a VeLoRA adapter projects the groups of a layer's input on.
struct LoraVelora {
  /// The adapter's `velora_config`.
  VeloraConfig config;
  /// [in_features / num_groups, rounded up], of length 1; zero until the first
  /// batch unless it is random.
  at::Tensor embed;
  /// Whether it is known that `embed` is not zero.
  bool initialized = false;
};

/// One adapter of one layer: W' = W + scaling · B A.
struct TORCHLORA_API LoraAdapter {
  /// The adapter's name.
  std::string name;
  /// Rank.
  int64_t r = 0;
  /// The configuration's, or its pattern's.
  double lora_alpha = 0;
  /// lora_alpha / r, with rsLoRA lora_alpha / √r.
  double scaling = 0;
  /// Probability, in training.
  double lora_dropout = 0;
  /// @{
  /// A [r, in_features, kernel…], B [out_features, r, 1…], and with
  /// `lora_bias` B's bias [out_features].
  std::shared_ptr<LoraFactor> lora_A, lora_B;
  /// @}

  /// DoRA's magnitudes, one a channel of the output; nullptr without DoRA.
  std::shared_ptr<LoraFactor> lora_magnitude_vector;
  /// nullptr without VeLoRA.
  std::shared_ptr<LoraVelora> velora;
  /// MiCA trains A only.
  bool trains_B = true;
  /// Whether making it changed the base weight (took the update out of it, or
  /// quantised it).
  bool changed_base = false;

  /// What is saved, in the order of `adapter_tensor_specs`.
  std::vector<at::Tensor> tensors() const;
};

/// How the factors of a type of layer are called.
struct FactorNames {
  /// @{
  /// Children of the LoRA layer.
  const char* A = "lora_A";
  const char* B = "lora_B";
  /// @}

  /// Modules with a `weight` (`lora_A.default.weight`), or parameters
  /// themselves (`lora_embedding_A.default`).
  bool are_modules = true;
};

/// A tensor of an adapter in PEFT's file: its key behind the module's name,
/// and its sizes.
struct AdapterTensorSpec {
  /// The key, for example "lora_A.weight".
  std::string key;
  /// Of the tensor.
  std::vector<int64_t> sizes;
};

/// The tensors that an adapter of rank `r` has in a layer.
TORCHLORA_API std::vector<AdapterTensorSpec> adapter_tensor_specs(
    const FactorNames& names,
    const BaseWeight& base_weight,
    int64_t r,
    const LoraConfig& config);

/// The factors of one kind (all `lora_A`, say) of a layer's adapters in the
/// module tree, by adapter name: the names come out as PEFT's.
class TORCHLORA_API AdapterDict : public torch::nn::Module {
 public:
  /// As in `FactorNames`.
  explicit AdapterDict(bool are_modules = true) : are_modules_(are_modules) {}
  /// Registers the factor of an adapter.
  void insert(
      const std::string& adapter_name,
      const std::shared_ptr<LoraFactor>& factor);
  /// Takes it out.
  void erase(const std::string& adapter_name);

 private:
  bool are_modules_;
};

} // namespace torchlora
