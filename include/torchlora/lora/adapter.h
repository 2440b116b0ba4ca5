#pragma once

#include <memory>

#include <torchlora/config/lora_config.h>
#include <torchlora/lora/base_weight.h>

namespace torchlora {

class LoraVariant;

/// A module that holds one factor, A or B, of an adapter in one layer: the
/// parameter `weight`, and the parameter `bias` for a B with `lora_bias`. Other
/// tensors of an adapter, such as DoRA's magnitude, are held in the same way.
class TORCHLORA_API LoraFactor : public Module {
 public:
  /// Registers `value` as the parameter `weight` and, if it is defined, `bias`
  /// as the parameter `bias`. Both keep their `requires_grad`.
  explicit LoraFactor(Tensor value, Tensor bias = {});
  /// Sets `weight` to zero and copies the smaller `matrix` into its first rows
  /// and columns. Pads a factor to a larger rank.
  void assign(const Tensor& matrix) const;

  Tensor weight, bias;
};

/// The names that a layer type gives its factors in the module tree and in
/// files.
struct FactorNames {
  /// @{
  /// Names of the LoRA layer's child modules that hold the A and the B of all
  /// its adapters.
  const char* A = "lora_A";
  const char* B = "lora_B";
  /// @}

  /// True: each factor is a module with a parameter `weight`
  /// (`lora_A.default.weight`). False: each factor is a parameter itself
  /// (`lora_embedding_A.default`).
  bool are_modules = true;
};

/// One adapter in one layer. Without a variant it changes the base weight W to
/// W' = W + scaling · B A.
struct TORCHLORA_API LoraAdapter {
  std::string name;
  /// The rank of the adapter in this layer.
  int64_t r = 0;
  /// The alpha of the adapter in this layer: `LoraConfig::lora_alpha`, or the
  /// value that `alpha_pattern` gives for the module.
  double lora_alpha = 0;
  bool use_rslora = false;
  /// The number that B A is multiplied by: `default_scaling()` unless
  /// `set_scale` or `scale_layer` changed it.
  double scaling = 0;
  /// The probability with which dropout zeroes an element of the update's input
  /// in training.
  double lora_dropout = 0;
  /// @{
  /// The factors: A [r, in_features, kernel…] and B [out_features, r, 1…]
  /// (without kernel dimensions for a linear layer). With `lora_bias` B has a
  /// bias [out_features].
  std::shared_ptr<const LoraFactor> lora_A, lora_B;
  /// @}

  /// How the adapter differs from plain LoRA (DoRA, KaSA, VeLoRA); nullptr for
  /// plain LoRA.
  std::shared_ptr<LoraVariant> variant;
  /// Whether B is trained. False for the initializer "mica", which trains only
  /// A.
  bool trains_B = true;
  /// Whether creating the adapter changed the base weight: PiSSA and others
  /// subtract the first update from it, LoftQ quantizes it, KaSA truncates it.
  bool changed_base = false;
  /// A tensor that a merge saves so that unmerging can restore the base weight:
  /// `LoraVariant::Applied::memory`. Undefined while the adapter is not merged
  /// or if its variant needs none.
  Tensor memory = {};

  /// Returns lora_alpha / r, or lora_alpha / √r with rsLoRA.
  double default_scaling() const;
  /// Returns the A and B of the update scaling · B A, as the variant makes
  /// them.
  std::pair<Tensor, Tensor> factors() const;
  /// Whether the adapted weight is W + scaling · B A.
  bool is_additive() const;
  /// Returns the variant's tensor with PEFT's name `tensor_name`, for example
  /// "lora_magnitude_vector"; undefined if the adapter has no such tensor.
  Tensor variant_tensor(const std::string& tensor_name) const;
  /// Returns all tensors of the adapter that a file stores, with their keys
  /// (`lora_A.weight`, `lora_B.weight`, …), in the order of
  /// `adapter_tensor_specs`. `names` are the factor names of the layer type.
  NamedTensors tensors(const FactorNames& names = {}) const;
};

/// The key and the sizes of one tensor that an adapter of a layer stores in
/// PEFT's file.
struct AdapterTensorSpec {
  /// The part of the key after the module's name, for example "lora_A.weight".
  std::string key;
  std::vector<int64_t> sizes;
};

/// Returns the keys and sizes of all tensors that an adapter of rank `r` with
/// this configuration has in a layer with this base weight: A, B, the bias of B
/// and the variant's tensors.
TORCHLORA_API std::vector<AdapterTensorSpec> adapter_tensor_specs(
    const FactorNames& names,
    const BaseWeight& base_weight,
    int64_t r,
    const LoraConfig& config);

/// A child module of a LoRA layer that holds one kind of tensor, such as all
/// `lora_A`, of every adapter of the layer by adapter name. Parameter names
/// then equal PEFT's (`lora_A.default.weight`).
class TORCHLORA_API AdapterDict : public Module {
 public:
  /// Makes an empty dictionary. With `are_modules` it registers each factor as
  /// a module with a `weight`, otherwise as a parameter
  /// (`FactorNames::are_modules`).
  explicit AdapterDict(bool are_modules = true) : are_modules_(are_modules) {}
  /// Registers the factor of an adapter under the adapter's name.
  void insert(
      const std::string& adapter_name,
      const std::shared_ptr<const LoraFactor>& factor);
  /// Removes the factor of an adapter from the module tree.
  void erase(const std::string& adapter_name);

 private:
  bool are_modules_;
};

} // namespace torchlora
