#include <torchlora/lora/layer.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/nn/init.h>
#include <torch/types.h>

#include "lora/contains.h"
#include "lora/row_norms.h"
#include "lora/velora.h"

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

LoraLayer::LoraLayer(
    std::shared_ptr<torch::nn::Module> base_layer,
    BaseWeightAccessor accessor,
    const FactorNames& factor_names,
    nn::Redirectable* redirectable)
    : torch::nn::Module("torchlora::LoraLayer"),
      base_layer_(std::move(base_layer)),
      redirectable_(
          redirectable ? redirectable
                       : dynamic_cast<nn::Redirectable*>(base_layer_.get())),
      accessor_(std::move(accessor)),
      factor_names_(factor_names) {
  TORCH_CHECK_VALUE(
      redirectable_,
      "[LoraLayer] the base layer must be a torchlora::nn::Redirectable, ",
      base_layer_->name(),
      " is not");
  register_module("base_layer", base_layer_);
  lora_A_ = register_module(
      factor_names.A, std::make_shared<AdapterDict>(factor_names.are_modules));
  lora_B_ = register_module(
      factor_names.B, std::make_shared<AdapterDict>(factor_names.are_modules));
  lora_magnitude_vector_ =
      register_module("lora_magnitude_vector", std::make_shared<AdapterDict>());
  if (!base_layer_->is_training()) {
    eval();
  }
}

LoraLayer::~LoraLayer() {
  unbind();
}

void LoraLayer::bind() {
  redirectable_->redirect_to(this);
}

void LoraLayer::unbind() {
  if (redirectable_->redirect_target() == this) {
    redirectable_->redirect_to(nullptr);
  }
}

at::Tensor LoraLayer::forward(const at::Tensor& input) {
  TORCH_CHECK_VALUE(
      !mixed_batch_ || input.size(0) == mixed_batch_->size,
      "[LoraLayer] Length of `adapter_names` should be the same as the number "
      "of inputs, but got ",
      mixed_batch_ ? mixed_batch_->size : 0,
      " and ",
      input.size(0),
      " respectively.");
  if (observer_) {
    torch::NoGradGuard no_grad;
    observer_(weight_input(input));
  }
  const auto now = terms();
  return now.empty() ? redirectable_->base_forward(input)
                     : adapted_forward(input, now);
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
  check_config(config);
  const auto initializer = find_initializer(config.init_lora_weights());
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
  adapter.r = A.size(0);
  adapter.lora_alpha = lora_alpha;
  adapter.scaling = scaling_of(adapter.r, lora_alpha, use_rslora);
  const auto replace = [&](auto& factor,
                           AdapterDict& dict,
                           const at::Tensor& value,
                           const std::vector<int64_t>& sizes) {
    const bool trains = factor->weight.requires_grad();
    auto replacement = make_factor(
        value.to(factor->weight.options()).reshape(sizes), factor->bias);
    train_factor(replacement, trains);
    dict.erase(adapter_name);
    dict.insert(adapter_name, replacement);
    factor = replacement;
  };
  replace(adapter.lora_A, *lora_A_, A, base.A_sizes(adapter.r));
  replace(adapter.lora_B, *lora_B_, B, base.B_sizes(adapter.r));
  reset_magnitude(adapter);
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
  active_adapters_.clear();
  for (const auto& name : adapter_names) {
    if (find_adapter(name)) {
      active_adapters_.push_back(name);
    }
  }
  for (const auto& adapter : adapters_) {
    const bool trainable =
        !inference_mode && contains(active_adapters_, adapter.name);
    train_factor(adapter.lora_A, trainable);
    train_factor(adapter.lora_B, trainable && adapter.trains_B);
    train_factor(adapter.lora_magnitude_vector, trainable);
  }
}

const LoraAdapter& LoraLayer::at(const std::string& adapter_name) const {
  const auto* adapter = find_adapter(adapter_name);
  TORCH_CHECK_VALUE(
      adapter, "[LoraLayer] there is no adapter \"", adapter_name, "\"");
  return *adapter;
}

at::Tensor LoraLayer::delta_weight(const std::string& adapter_name) const {
  const auto& adapter = at(adapter_name);
  const auto& A = adapter.lora_A->weight;
  const auto& B = adapter.lora_B->weight;
  // Half-precision products are slow on many CPUs.
  const bool upcast = A.is_cpu() && A.element_size() == 2;
  const auto dtype = upcast ? at::kFloat : A.scalar_type();
  return base_weight()
      .product(A.to(dtype), B.to(dtype))
      .mul_(adapter.scaling)
      .to(A.scalar_type());
}

init::Factors LoraLayer::zero_factors(const LoraConfig& config, int64_t r)
    const {
  const auto base = base_weight();
  return {
      at::zeros(base.A_sizes(r)).flatten(1),
      at::zeros(base.B_sizes(r)).flatten(1),
      config.lora_bias() ? at::zeros({base.out_features()}) : at::Tensor()};
}

at::Tensor LoraLayer::weight_input(const at::Tensor& /*input*/) const {
  TORCH_CHECK_VALUE(
      false,
      "[observe] the LoRA layer of a ",
      base_layer_->name(),
      " does not tell what its weight is multiplied by; override weight_input, "
      "or leave the module out by exclude_modules");
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

std::vector<LoraLayer::Term> LoraLayer::terms() const {
  std::vector<Term> terms;
  if (enabled_ && mixed_batch_) {
    for (const auto& [name, rows] : mixed_batch_->rows) {
      if (const auto* adapter = find_adapter(name)) {
        terms.push_back({adapter, adapter->scaling, 0, {}, rows});
      }
    }
  } else if (enabled_ && !merged()) {
    for (const auto& name : active_adapters_) {
      const auto* adapter = find_adapter(name);
      terms.push_back(
          {adapter,
           adapter->scaling,
           is_training() ? adapter->lora_dropout : 0});
    }
  } else if (!enabled_) {
    for (size_t i = merged_adapters_.size(); i-- > 0;) {
      const auto* adapter = find_adapter(merged_adapters_[i]);
      terms.push_back({adapter, -adapter->scaling, 0, merged_scales_[i]});
    }
  }
  return terms;
}

/// ‖W + scaling · B A‖ of each row, [out_features].
at::Tensor LoraLayer::norms(
    const LoraAdapter& adapter,
    const at::Tensor& weight) const {
  return row_norms(
      weight,
      adapter.lora_A->weight.flatten(1),
      adapter.lora_B->weight.flatten(1),
      adapter.scaling);
}

/// DoRA's factor of each row, [out_features], differentiable by the magnitude.
at::Tensor LoraLayer::scale(
    const LoraAdapter& adapter,
    const at::Tensor& weight) const {
  return adapter.lora_magnitude_vector->weight.flatten() /
      norms(adapter, weight);
}

/// `output` is without bias.
at::Tensor LoraLayer::with_term(
    const at::Tensor& output,
    const at::Tensor& input,
    const Term& term) {
  if (term.merged_scale.defined()) {
    return output / per_channel(term.merged_scale) + update(input, term);
  }
  if (!term.adapter->lora_magnitude_vector) {
    return output + update(input, term);
  }
  const auto c = per_channel(scale(*term.adapter, base_weight().matrix()));
  if (term.dropout == 0) {
    return c * (output + update(input, term));
  }
  // The base product of the update sees the input that it sees.
  const auto dropped = at::dropout(input, term.dropout, /*train=*/true);
  const Term rest{term.adapter, term.scaling, 0};
  return output + (c - 1) * product(dropped, {}, {}) +
      c * update(dropped, rest);
}

/// One product for the whole batch, one update an adapter.
at::Tensor LoraLayer::mixed_forward(
    const at::Tensor& input,
    const std::vector<Term>& terms) {
  const auto output = product(input, {}, base_weight().bias());
  std::vector<at::Tensor> rows, updates;
  for (const auto& term : terms) {
    rows.push_back(term.rows.to(input.device()));
    auto change = update(input.index_select(0, rows.back()), term);
    if (const auto& bias = term.adapter->lora_B->bias; bias.defined()) {
      change = change + per_channel(bias * term.scaling);
    }
    updates.push_back(change.to(output.scalar_type()));
  }
  return output.index_add(0, at::cat(rows), at::cat(updates));
}

at::Tensor LoraLayer::adapted_forward(
    const at::Tensor& input,
    const std::vector<Term>& terms) {
  if (terms.front().rows.defined()) {
    return mixed_forward(input, terms);
  }
  auto bias = base_weight().bias();
  for (const auto& term : terms) {
    if (const auto& b = term.adapter->lora_B->bias; b.defined()) {
      bias = bias.defined() ? bias + b * term.scaling : b * term.scaling;
    }
  }
  // What goes into one product: all up to the first that scales its output.
  const auto is_plain = [](const Term& term) {
    return !term.adapter->lora_magnitude_vector;
  };
  auto next = std::find_if_not(terms.begin(), terms.end(), is_plain);
  if (next == terms.end()) {
    return product(input, terms, bias);
  }
  const bool fuses = next->dropout == 0 && !next->merged_scale.defined();
  const auto rest = fuses ? next + 1 : next;
  auto output = product(input, {terms.begin(), rest}, {});
  const auto dtype = output.scalar_type();
  if (fuses) {
    output =
        output * per_channel(scale(*next->adapter, base_weight().matrix()));
  }
  for (next = rest; next != terms.end(); ++next) {
    output = with_term(output, input, *next);
  }
  if (bias.defined()) {
    output = output + per_channel(bias);
  }
  return output.to(dtype);
}

void LoraLayer::pretty_print(std::ostream& stream) const {
  std::vector<std::string> adapters;
  for (const auto& adapter : adapters_) {
    adapters.push_back(fmt::format(
        "{}: r={}, scaling={}", adapter.name, adapter.r, adapter.scaling));
  }
  stream << fmt::format("torchlora::LoraLayer({})", fmt::join(adapters, "; "));
}

} // namespace torchlora
