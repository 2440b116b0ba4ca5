// The adapters of a LoRA layer: made in two steps, so that an injection into
// many layers is all or nothing. `prepare_adapter` draws the factors, lets the
// initializer and the variant work on copies, and may throw; `commit_adapter`
// then writes what they want of the base weight. A weight that they computed
// whole waits for that with the dtype and strides of the layer's own, so that
// it is copied without memory; scaling · B A is subtracted layer by layer, as
// all of them would take the memory of a second model.
#include <torchlora/lora/layer.h>

#include <algorithm>
#include <cmath>

#include <torch/types.h>

#include <torchlora/lora/variant.h>

#include "lora/check_config.h"
#include "lora/dtypes.h"
#include "lora/undo.h"

namespace torchlora {
namespace {

/// Rounded to the base weight's dtype, then in the adapter's.
Tensor as_parameter(
    const Tensor& value,
    const Tensor& base_weight,
    bool autocast_adapter_dtype) {
  if (!value.defined()) {
    return value;
  }
  auto tensor = value.to(base_weight.options().requires_grad(false));
  return autocast_adapter_dtype && tensor.element_size() < 4
      ? tensor.to(at::kFloat)
      : tensor;
}

void train_factor(const LoraFactor& factor, bool trainable) {
  for (auto& parameter : factor.parameters()) {
    parameter.set_requires_grad(trainable);
  }
}

void check_scale(double scale, const char* function) {
  TORCH_CHECK_VALUE(
      std::isfinite(scale),
      "[",
      function,
      "] the scale must be a finite number, found ",
      scale);
}

std::shared_ptr<LoraFactor> make_factor(const Tensor& value, Tensor bias = {}) {
  return std::make_shared<LoraFactor>(value.contiguous(), std::move(bias));
}

init::Factors
zero_factors(const BaseWeight& base, const LoraConfig& config, int64_t r) {
  return {
      at::zeros(base.A_sizes(r)).flatten(1),
      at::zeros(base.B_sizes(r)).flatten(1),
      config.lora_bias() ? at::zeros({base.out_features()}) : Tensor()};
}

} // namespace

void LoraLayer::check_base_may_change(const LoraConfig& config) const {
  if (!modifies_base(config)) {
    return;
  }
  check_writable("update_layer", /*writes_bias=*/false);
  if (adapters().empty()) {
    return;
  }
  const auto& initializer = init::find_initializer(config.init_lora_weights());
  const bool is_initializer = initializer.traits.modifies_base;
  TORCH_CHECK_VALUE(
      false,
      "[update_layer] ",
      is_initializer ? "the initializer " + initializer.name
                     : find_variant(config)->name,
      " changes the base weight, which adapter '",
      adapters().front().name,
      "' is one of: make its adapter the first",
      is_initializer ? ", or load it converted to a plain LoRA "
                       "(path_initial_model_for_weight_conversion)"
                     : " and only one");
}

void LoraLayer::update_layer(
    const std::string& adapter_name,
    int64_t r,
    double lora_alpha,
    const LoraConfig& config,
    bool autocast_adapter_dtype) {
  torchlora::check_config(LoraConfig(config).r(r).lora_alpha(lora_alpha));
  prepare_adapter(adapter_name, r, lora_alpha, config, autocast_adapter_dtype);
  all_or_nothing([&](Undo& undo) {
    undo.add("the layer", [&] { delete_adapter(adapter_name); });
    commit_adapter(adapter_name);
  });
}

void LoraLayer::prepare_adapter(
    const std::string& adapter_name,
    int64_t r,
    double lora_alpha,
    const LoraConfig& config,
    bool autocast_adapter_dtype,
    const Tensor& statistics,
    bool is_loaded) {
  check_adapter_name(adapter_name, "update_layer");
  TORCH_CHECK_VALUE(
      !has(adapter_name),
      "[update_layer] adapter with name '",
      adapter_name,
      "' already exists");
  const auto base = base_weight();
  TORCH_CHECK_VALUE(
      is_trainable_dtype(base.weight().scalar_type()),
      "[update_layer] the weight of a ",
      base_layer_->name(),
      " must be Double, Float, BFloat16, Half, ComplexDouble or ComplexFloat, "
      "found ",
      base.weight().scalar_type(),
      "; convert it, or leave the layer out by exclude_modules");
  check_config(config);
  const auto& initializer = init::find_initializer(config.init_lora_weights());
  const auto* variant = find_variant(config);
  if (variant) {
    TORCH_CHECK_VALUE(
        !variant->is_linear_only || is_linear(),
        "[update_layer] ",
        variant->name,
        " is supported for linear layers, not for ",
        base_layer_->name(),
        "; leave it out by exclude_modules");
    TORCH_CHECK_VALUE(
        !base.weight().is_complex(),
        "[update_layer] ",
        variant->name,
        " is not supported for a complex weight, found ",
        base.weight().scalar_type(),
        "; leave the layer out by exclude_modules");
    variant->check(config);
  }
  check_base_may_change(config);
  for (const auto& other : adapters()) {
    TORCH_CHECK_VALUE(
        !other.variant || !other.variant->excludes_others(),
        "[update_layer] adapter '",
        other.name,
        "' changed the base weight for itself (kasa_config): a layer that it "
        "adapts cannot have another adapter");
  }

  LoraAdapter adapter;
  adapter.name = adapter_name;
  adapter.r = r;
  adapter.lora_alpha = lora_alpha;
  adapter.use_rslora = config.use_rslora();
  adapter.scaling = adapter.default_scaling();
  adapter.lora_dropout = config.lora_dropout();

  torch::NoGradGuard no_grad;
  auto factors =
      is_loaded ? zero_factors(base, config, r) : construct_factors(config, r);
  init_function(initializer)(
      factors,
      {config, r, adapter.scaling, base.matrix(), statistics, is_loaded});
  const std::function parameter = [&](const Tensor& value) {
    return as_parameter(value, base.weight(), autocast_adapter_dtype);
  };
  adapter.trains_B = initializer.traits.trains_B;
  adapter.lora_A = make_factor(parameter(factors.A.reshape(base.A_sizes(r))));
  adapter.lora_B = make_factor(
      parameter(factors.B.reshape(base.B_sizes(r))), parameter(factors.bias));
  auto next_base_weight = factors.base_weight;
  const auto& traits = initializer.traits;
  TORCH_CHECK_VALUE(
      !next_base_weight.defined() ||
          (traits.modifies_base && !traits.is_convertible),
      "[update_layer] the initializer ",
      initializer.name,
      " replaces the base weight: register it with the traits modifies_base "
      "and is_convertible = false");
  if (variant) {
    adapter.variant = variant->create(
        {config, base, adapter, parameter, is_loaded}, next_base_weight);
  }
  adapter.changed_base = modifies_base(config);
  const auto in_base_dtype = [&](const Tensor& matrix) {
    return at::empty_like(base.matrix()).copy_(matrix);
  };
  if (next_base_weight.defined()) {
    next_base_weight = in_base_dtype(next_base_weight);
  }
  if (adapter.variant) {
    adapter.variant->reset(
        adapter,
        next_base_weight.defined() ? next_base_weight
            : adapter.changed_base
            ? in_base_dtype(base.matrix() - delta(adapter))
            : unmerged_matrix());
  }
  lora_A_->insert(adapter_name, adapter.lora_A);
  lora_B_->insert(adapter_name, adapter.lora_B);
  adapters_.add(std::move(adapter));
  next_base_weight_ = std::move(next_base_weight);
  register_variants();
}

/// Registers the variants' tensors in the module tree. NOTE: rebuilds their
/// modules, as LibTorch cannot unregister a single buffer.
void LoraLayer::register_variants() {
  for (const auto& child : named_children()) {
    const auto dict = std::dynamic_pointer_cast<AdapterDict>(child.value());
    if (dict && dict != lora_A_ && dict != lora_B_) {
      unregister_module(child.key());
    }
  }
  for (const auto& adapter : adapters()) {
    if (!adapter.variant) {
      continue;
    }
    for (const auto& [name, value, kind] : adapter.variant->tensors()) {
      const auto children = named_children();
      const auto* found = children.find(name);
      const bool are_modules = kind == VariantTensor::kModule;
      const auto dict = found
          ? std::static_pointer_cast<AdapterDict>(*found)
          : register_module(name, std::make_shared<AdapterDict>(are_modules));
      if (kind == VariantTensor::kBuffer) {
        dict->register_buffer(adapter.name, value);
      } else {
        dict->insert(adapter.name, make_factor(value));
      }
    }
  }
}

bool LoraLayer::commit_adapter(const std::string& adapter_name) {
  torch::NoGradGuard no_grad;
  const auto& adapter = adapters_.at(adapter_name, "commit_adapter");
  const auto next = std::exchange(next_base_weight_, Tensor());
  if (next.defined()) {
    base_weight().copy_(next);
  } else if (adapter.changed_base) {
    base_weight().add_(delta(adapter), -1);
  }
  return adapter.changed_base && !next.defined();
}

void LoraLayer::replace_factors(
    const std::string& adapter_name,
    const Tensor& A,
    const Tensor& B,
    double lora_alpha,
    bool use_rslora) {
  torch::NoGradGuard no_grad;
  adapters_.check_not_merged(adapter_name, "replace_factors");
  auto& adapter = adapters_.at(adapter_name, "replace_factors");
  const auto base = base_weight();
  adapter.r = A.size(0) / std::max<int64_t>(base.experts(), 1);
  adapter.lora_alpha = lora_alpha;
  adapter.use_rslora = use_rslora;
  adapter.scaling = adapter.default_scaling();
  const auto replace = [&](auto& factor,
                           AdapterDict& dict,
                           const Tensor& value,
                           const std::vector<int64_t>& sizes) {
    if (factor->weight.sizes() == sizes) {
      factor->weight.copy_(value.reshape(sizes));
      return;
    }
    const auto replacement = make_factor(
        value
            .to(factor->weight.options().requires_grad(false),
                /*non_blocking=*/false,
                /*copy=*/true)
            .reshape(sizes),
        factor->bias);
    train_factor(*replacement, factor->weight.requires_grad());
    dict.erase(adapter_name);
    dict.insert(adapter_name, replacement);
    factor = replacement;
  };
  replace(adapter.lora_A, *lora_A_, A, base.A_sizes(adapter.r));
  replace(adapter.lora_B, *lora_B_, B, base.B_sizes(adapter.r));
  if (adapter.variant) {
    adapter.variant->reset(adapter, unmerged_matrix());
  }
}

void LoraLayer::restore_adapter(const LoraAdapter& before) {
  auto& adapter = adapters_.at(before.name, "restore_adapter");
  for (const auto& [dict, now, then] :
       {std::tuple(lora_A_, adapter.lora_A, before.lora_A),
        std::tuple(lora_B_, adapter.lora_B, before.lora_B)}) {
    if (now != then) {
      dict->erase(before.name);
      dict->insert(before.name, then);
    }
  }
  adapter = before;
}

void LoraLayer::delete_adapter(const std::string& adapter_name) {
  if (!has(adapter_name)) {
    return;
  }
  adapters_.check_not_merged(adapter_name, "delete_adapter");
  lora_A_->erase(adapter_name);
  lora_B_->erase(adapter_name);
  next_base_weight_ = Tensor();
  adapters_.remove(adapter_name);
  register_variants();
}

NamedTensors LoraLayer::adapter_state(const std::string& adapter_name) const {
  return adapters_.at(adapter_name, "adapter_state").tensors(factor_names_);
}

void LoraLayer::set_adapter(
    const std::vector<std::string>& adapter_names,
    bool inference_mode) {
  adapters_.set_active(adapter_names);
  for (const auto& adapter : adapters()) {
    set_requires_grad(
        adapter.name, !inference_mode && states().is_active(adapter.name));
  }
}

void LoraLayer::set_requires_grad(
    const std::string& adapter_name,
    bool requires_grad) {
  const auto* adapter = find_adapter(adapter_name);
  if (!adapter) {
    return;
  }
  train_factor(*adapter->lora_A, requires_grad);
  train_factor(*adapter->lora_B, requires_grad && adapter->trains_B);
  if (adapter->variant) {
    for (const auto& tensor : adapter->variant->tensors()) {
      if (tensor.kind != VariantTensor::kBuffer) {
        tensor.value.set_requires_grad(requires_grad);
      }
    }
  }
}

void LoraLayer::enable_adapters(bool enabled) {
  adapters_.set_enabled(enabled);
}

void LoraLayer::set_lora_dropout(double probability) {
  TORCH_CHECK_VALUE(
      probability >= 0 && probability < 1,
      "[set_lora_dropout] the probability must be at least 0 and less than 1, "
      "found ",
      probability);
  for (auto& adapter : adapters_.all()) {
    adapter.lora_dropout = probability;
  }
}

void LoraLayer::set_scale(const std::string& adapter_name, double scale) {
  check_scale(scale, "set_scale");
  adapters_.check_not_merged(adapter_name, "set_scale");
  if (auto* adapter = adapters_.find(adapter_name)) { // as PEFT: else nothing
    adapter->scaling = scale * adapter->default_scaling();
  }
}

void LoraLayer::scale_layer(double scale) {
  check_scale(scale, "scale_layer");
  for (const auto& name : active_adapters()) {
    adapters_.check_not_merged(name, "scale_layer");
  }
  for (const auto& name : active_adapters()) {
    adapters_.at(name, "scale_layer").scaling *= scale;
  }
}

void LoraLayer::unscale_layer(std::optional<double> scale) {
  check_scale(scale.value_or(1), "unscale_layer");
  TORCH_CHECK_VALUE(
      scale != 0.0,
      "[unscale_layer] the scale is divided by and must not be 0");
  for (const auto& name : active_adapters()) {
    adapters_.check_not_merged(name, "unscale_layer");
  }
  for (const auto& name : active_adapters()) {
    auto& adapter = adapters_.at(name, "unscale_layer");
    adapter.scaling =
        scale ? adapter.scaling / *scale : adapter.default_scaling();
  }
}

} // namespace torchlora
