#pragma once

#include <memory>

#include <torchlora/config/lora_config.h>
#include <torchlora/lora/base_weight.h>

namespace torchlora {

class LoraVariant;

/// What an adapter has one of in a layer: the parameter `weight`, and a `bias`
/// where it was given one.
class TORCHLORA_API LoraFactor : public torch::nn::Module {
 public:
  /// Registers both as they are, trained or frozen; an undefined `bias` aside.
  explicit LoraFactor(Tensor value, Tensor bias = {});
  /// Overwrites the weight by a smaller matrix; the other places become zero.
  void assign(const Tensor& matrix) const;

  Tensor weight, bias;
};

/// How a type of layer calls its factors.
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

/// One adapter of one layer: W' = W + scaling · B A.
struct TORCHLORA_API LoraAdapter {
  std::string name;
  /// Rank.
  int64_t r = 0;
  /// The configuration's, or its pattern's.
  double lora_alpha = 0;
  bool use_rslora = false;
  /// lora_alpha / r, with rsLoRA lora_alpha / √r, unless it was set.
  double scaling = 0;
  /// Probability, in training.
  double lora_dropout = 0;
  /// @{
  /// A [r, in_features, kernel…], B [out_features, r, 1…], and with
  /// `lora_bias` B's bias [out_features].
  std::shared_ptr<const LoraFactor> lora_A, lora_B;
  /// @}

  /// nullptr for plain LoRA.
  std::shared_ptr<LoraVariant> variant;
  /// MiCA trains A only.
  bool trains_B = true;
  /// Whether making it changed the base weight (took the update out of it, or
  /// quantized it).
  bool changed_base = false;
  /// While it is merged: what taking it out needs (`LoraVariant::undo`).
  Tensor memory = {};

  /// Returns lora_alpha / r, with rsLoRA lora_alpha / √r.
  double default_scaling() const;
  /// Returns the A and B of the update scaling · B A, as the variant makes
  /// them.
  std::pair<Tensor, Tensor> factors() const;
  /// Whether the adapted weight is W + scaling · B A.
  bool is_additive() const;
  /// Returns a tensor of the variant by PEFT's name ("lora_magnitude_vector");
  /// undefined if there is none.
  Tensor variant_tensor(const std::string& tensor_name) const;
  /// Returns what is saved, by the keys of `adapter_tensor_specs` and in their
  /// order.
  std::vector<std::pair<std::string, Tensor>> tensors(
      const FactorNames& names = {}) const;
};

/// A tensor of an adapter in PEFT's file.
struct AdapterTensorSpec {
  /// The key behind the module's name, for example "lora_A.weight".
  std::string key;
  std::vector<int64_t> sizes;
};

/// Returns the tensors that an adapter of rank `r` has in a layer.
TORCHLORA_API std::vector<AdapterTensorSpec> adapter_tensor_specs(
    const FactorNames& names,
    const BaseWeight& base_weight,
    int64_t r,
    const LoraConfig& config);

/// The tensors of one kind (all `lora_A`, say) of a layer's adapters in the
/// module tree, by adapter name: the names come out as PEFT's.
class TORCHLORA_API AdapterDict : public torch::nn::Module {
 public:
  /// `are_modules` as in `FactorNames`.
  explicit AdapterDict(bool are_modules = true) : are_modules_(are_modules) {}
  void insert(
      const std::string& adapter_name,
      const std::shared_ptr<const LoraFactor>& factor);
  void erase(const std::string& adapter_name);

 private:
  bool are_modules_;
};

} // namespace torchlora
