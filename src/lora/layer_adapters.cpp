#include <torchlora/lora/layer.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include <torch/nn/init.h>
#include <torch/types.h>

#include "config/names.h"
#include "lora/changes_base.h"
#include "lora/variants/velora.h"

namespace torchlora {
namespace {

/// Rounded to the base weight's dtype, then in the adapter's.
at::Tensor as_parameter(
    const at::Tensor& value,
    const at::Tensor& base_weight,
    bool autocast_adapter_dtype) {
  if (!value.defined()) {
    return value;
  }
  auto tensor = value.to(base_weight.options().requires_grad(false));
  return autocast_adapter_dtype && tensor.element_size() < 4
      ? tensor.to(at::kFloat)
      : tensor;
}

double scaling_of(int64_t r, double lora_alpha, bool use_rslora) {
  const auto rank = static_cast<double>(r);
  return lora_alpha / (use_rslora ? std::sqrt(rank) : rank);
}

void train_factor(const std::shared_ptr<LoraFactor>& factor, bool trainable) {
  if (factor) {
    for (auto& parameter : factor->parameters()) {
      parameter.set_requires_grad(trainable);
    }
  }
}

std::shared_ptr<LoraFactor> make_factor(
    at::Tensor value,
    at::Tensor bias = {}) {
  auto factor =
      std::make_shared<LoraFactor>(value.contiguous(), std::move(bias));
  train_factor(factor, false);
  return factor;
}

} // namespace

void check_is_first(const LoraLayer& layer, const LoraConfig& config) {
  const auto& adapters = layer.adapters();
  const auto& init = config.init_lora_weights();
  TORCH_CHECK_VALUE(
      adapters.empty(),
      "[update_layer] the initialiser ",
      init.is_name() ? init.name() : "",
      " changes the base weight, which adapter '",
      adapters.empty() ? "" : adapters.front().name,
      "' is one of: make its adapter the first, or load it converted to a "
      "plain LoRA (path_initial_model_for_weight_conversion)");
}

void LoraLayer::update_layer(
    const std::string& adapter_name,
    int64_t r,
    double lora_alpha,
    const LoraConfig& config,
    bool autocast_adapter_dtype) {
  prepare_adapter(adapter_name, r, lora_alpha, config, autocast_adapter_dtype);
  commit_adapter(adapter_name);
}

void LoraLayer::prepare_adapter(
    const std::string& adapter_name,
    int64_t r,
    double lora_alpha,
    const LoraConfig& config,
    bool autocast_adapter_dtype,
    const at::Tensor& statistics,
    bool is_loaded) {
  TORCH_CHECK_VALUE(
      r > 0,
      "[update_layer] `r` should be a positive integer value but the value "
      "passed is ",
      r);
  TORCH_CHECK_VALUE(
      config.lora_dropout() >= 0 && config.lora_dropout() < 1,
      "[update_layer] `lora_dropout` should be at least 0 and less than 1 but "
      "the value passed is ",
      config.lora_dropout());
  TORCH_CHECK_VALUE(
      !config.lora_bias() ||
          (!config.init_lora_weights().is_name() && !config.use_dora()),
      "[update_layer] `lora_bias` is supported with init_lora_weights=true or "
      "false and without use_dora");
  TORCH_CHECK_VALUE(
      !find_adapter(adapter_name),
      "[update_layer] adapter with name '",
      adapter_name,
      "' already exists");
  check_overlay(config.lora_dropout() > 0, "lora_dropout");
  check_overlay(config.lora_bias(), "lora_bias");
  check_overlay(config.velora_config().has_value(), "velora_config");
  check_config(config);
  const auto initializer = find_initializer(config.init_lora_weights());
  if (init::changes_the_base(config)) {
    check_is_first(*this, config);
  }
  if (const auto& velora = config.velora_config()) {
    velora->validate();
    TORCH_CHECK_VALUE(
        supports_velora(),
        "[update_layer] velora_config is supported for linear layers, not for ",
        base_layer_->name(),
        "; leave it out by exclude_modules");
    TORCH_CHECK_VALUE(
        !config.use_dora() && initializer != init::mica_init,
        "[update_layer] velora_config is not supported with use_dora or "
        "init_lora_weights=mica");
  }

  LoraAdapter adapter;
  adapter.name = adapter_name;
  adapter.r = r;
  adapter.lora_alpha = lora_alpha;
  adapter.scaling = scaling_of(r, lora_alpha, config.use_rslora());
  adapter.lora_dropout = config.lora_dropout();

  torch::NoGradGuard no_grad;
  const auto base = base_weight();
  auto factors =
      is_loaded ? zero_factors(config, r) : construct_factors(config, r);
  initializer(
      factors,
      {config, r, adapter.scaling, base.matrix(), statistics, is_loaded});
  adapter.trains_B = factors.trains_B;
  adapter.changed_base = factors.subtract || factors.base_weight.defined();
  if (adapter.changed_base) {
    check_is_first(*this, config);
  }
  next_base_weight_ = factors.base_weight;
  const auto parameter = [&](const at::Tensor& value) {
    return as_parameter(value, base.weight(), autocast_adapter_dtype);
  };
  adapter.lora_A = make_factor(parameter(factors.A.reshape(base.A_sizes(r))));
  adapter.lora_B = make_factor(
      parameter(factors.B.reshape(base.B_sizes(r))), parameter(factors.bias));
  if (config.use_dora()) {
    const auto dtype = adapter.lora_A->weight.scalar_type();
    adapter.lora_magnitude_vector = make_factor(at::empty(
        base.magnitude_sizes(),
        base.weight().options().dtype(dtype).requires_grad(false)));
    lora_magnitude_vector_->insert(adapter_name, adapter.lora_magnitude_vector);
  }
  if (const auto& velora = config.velora_config()) {
    adapter.velora = std::make_shared<LoraVelora>(LoraVelora{
        *velora,
        parameter(initial_velora_embed(
            velora_group_size(base.in_features(), *velora),
            *velora,
            base.weight().options().requires_grad(false)))});
  }
  lora_A_->insert(adapter_name, adapter.lora_A);
  lora_B_->insert(adapter_name, adapter.lora_B);
  adapters_.push_back(std::move(adapter));
  register_velora();
}

/// NOTE: rebuilds the module, as LibTorch's cannot give up a single buffer.
void LoraLayer::register_velora() {
  if (named_children().contains(kVeloraEmbed)) {
    unregister_module(kVeloraEmbed);
  }
  std::shared_ptr<torch::nn::Module> embeds;
  for (const auto& adapter : adapters_) {
    if (adapter.velora) {
      if (!embeds) {
        embeds = register_module(kVeloraEmbed, std::make_shared<AdapterDict>());
      }
      embeds->register_buffer(adapter.name, adapter.velora->embed);
    }
  }
}

void LoraLayer::commit_adapter(const std::string& adapter_name) {
  torch::NoGradGuard no_grad;
  const auto& adapter = at(adapter_name);
  const auto base = base_weight();
  if (next_base_weight_.defined()) {
    base.copy_(std::exchange(next_base_weight_, at::Tensor()));
  } else if (adapter.changed_base) {
    base.add_(delta_weight(adapter_name), -1);
  }
  reset_magnitude(adapter);
  refresh_weight();
}

void LoraLayer::reset_magnitude(const LoraAdapter& adapter) {
  if (adapter.lora_magnitude_vector) {
    auto& magnitude = adapter.lora_magnitude_vector->weight;
    magnitude.copy_(
        norms(adapter, unmerged_matrix()).reshape(magnitude.sizes()));
  }
}

void LoraLayer::replace_factors(
    const std::string& adapter_name,
    const at::Tensor& A,
    const at::Tensor& B,
    double lora_alpha,
    bool use_rslora) {
  torch::NoGradGuard no_grad;
  check_not_merged(adapter_name, "replace_factors");
  at(adapter_name);
  auto& adapter =
      *std::ranges::find(adapters_, adapter_name, &LoraAdapter::name);
  const auto base = base_weight();
  adapter.r = A.size(0) / std::max<int64_t>(base.experts(), 1);
  adapter.lora_alpha = lora_alpha;
  adapter.scaling = scaling_of(adapter.r, lora_alpha, use_rslora);
  const auto replace = [&](auto& factor,
                           AdapterDict& dict,
                           const at::Tensor& value,
                           const std::vector<int64_t>& sizes) {
    if (factor->weight.sizes() == sizes) {
      factor->weight.copy_(value.reshape(sizes));
      return;
    }
    const bool trains = factor->weight.requires_grad();
    auto replacement = make_factor(
        value
            .to(factor->weight.options().requires_grad(false),
                /*non_blocking=*/false,
                /*copy=*/true)
            .reshape(sizes),
        factor->bias);
    train_factor(replacement, trains);
    dict.erase(adapter_name);
    dict.insert(adapter_name, replacement);
    factor = replacement;
  };
  replace(adapter.lora_A, *lora_A_, A, base.A_sizes(adapter.r));
  replace(adapter.lora_B, *lora_B_, B, base.B_sizes(adapter.r));
  reset_magnitude(adapter);
  refresh_weight();
}

void LoraLayer::check_not_merged(
    const std::string& adapter_name,
    const char* function) const {
  TORCH_CHECK_VALUE(
      !contains(merged_adapters_, adapter_name),
      "[",
      function,
      "] cannot change adapter '",
      adapter_name,
      "' while it is merged. Please unmerge it first");
}

void LoraLayer::delete_adapter(const std::string& adapter_name) {
  if (!find_adapter(adapter_name)) {
    return;
  }
  check_not_merged(adapter_name, "delete_adapter");
  lora_A_->erase(adapter_name);
  lora_B_->erase(adapter_name);
  if (find_adapter(adapter_name)->lora_magnitude_vector) {
    lora_magnitude_vector_->erase(adapter_name);
  }
  next_base_weight_ = at::Tensor();
  std::erase(active_adapters_, adapter_name);
  std::erase_if(adapters_, [&](const LoraAdapter& adapter) {
    return adapter.name == adapter_name;
  });
  register_velora();
  refresh_weight();
}

const LoraAdapter* LoraLayer::find_adapter(
    const std::string& adapter_name) const {
  for (const auto& adapter : adapters_) {
    if (adapter.name == adapter_name) {
      return &adapter;
    }
  }
  return nullptr;
}

void LoraLayer::set_adapter(
    const std::vector<std::string>& adapter_names,
    bool inference_mode) {
  active_adapters_ = each_once(
      adapter_names, [&](const auto& name) { return find_adapter(name); });
  for (const auto& adapter : adapters_) {
    const bool trainable =
        !inference_mode && contains(active_adapters_, adapter.name);
    train_factor(adapter.lora_A, trainable);
    train_factor(adapter.lora_B, trainable && adapter.trains_B);
    train_factor(adapter.lora_magnitude_vector, trainable);
  }
  refresh_weight();
}

const LoraAdapter& LoraLayer::at(const std::string& adapter_name) const {
  const auto* adapter = find_adapter(adapter_name);
  TORCH_CHECK_VALUE(
      adapter, "[LoraLayer] there is no adapter \"", adapter_name, "\"");
  return *adapter;
}

init::Factors LoraLayer::zero_factors(const LoraConfig& config, int64_t r)
    const {
  const auto base = base_weight();
  return {
      at::zeros(base.A_sizes(r)).flatten(1),
      at::zeros(base.B_sizes(r)).flatten(1),
      config.lora_bias() ? at::zeros({base.out_features()}) : at::Tensor()};
}

init::Factors LoraLayer::construct_factors(const LoraConfig& config, int64_t r)
    const {
  const auto matrix = base_weight().matrix();
  init::Factors factors{
      at::empty({r, matrix.size(1)}, at::kFloat),
      at::empty({matrix.size(0), r}, at::kFloat)};
  torch::nn::init::kaiming_uniform_(factors.A, std::sqrt(5.0));
  torch::nn::init::kaiming_uniform_(factors.B, std::sqrt(5.0));
  if (config.lora_bias()) {
    const double bound = 1 / std::sqrt(static_cast<double>(r));
    factors.bias = at::empty({matrix.size(0)}, at::kFloat);
    torch::nn::init::uniform_(factors.bias, -bound, bound);
  }
  return factors;
}

init::Initializer LoraLayer::find_initializer(
    const InitLoraWeights& value) const {
  return init::find_initializer(value);
}

} // namespace torchlora
