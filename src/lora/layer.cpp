#include <torchlora/lora/layer.h>

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/types.h>

#include "lora/overlay/weight_overlay.h"
#include "lora/row_norms.h"
#include "lora/variants/velora.h"

namespace torchlora {

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
  if (!redirectable_) {
    auto* member = accessor_(*base_layer_).member();
    TORCH_CHECK_VALUE(
        member,
        "[LoraLayer] the base layer must be a torchlora::nn::Redirectable, or "
        "its accessor name the member that is its weight "
        "(BaseWeight::member); ",
        base_layer_->name(),
        " is not, and it does not");
    overlay_ = std::make_shared<WeightOverlay>(*base_layer_, *member);
  }
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

BaseWeight LoraLayer::base_weight() const {
  auto base = accessor_(*base_layer_);
  return overlay_ ? std::move(base).with_weight(overlay_->weight()) : base;
}

at::Tensor LoraLayer::forward(const at::Tensor& input) {
  if (overlay_) { // which calls `run`
    TORCH_CHECK_VALUE(
        base_forward_,
        "[LoraLayer] a ",
        base_layer_->name(),
        " does not take one tensor: call the layer itself");
    return base_forward_(*base_layer_, input);
  }
  const auto now = start(input);
  return is_base(now) ? redirectable_->base_forward(input)
                      : adapted_forward(input, now);
}

std::vector<LoraLayer::Term> LoraLayer::start(const at::Tensor& input) const {
  auto now = terms();
  TORCH_CHECK_VALUE(
      !mixed_batch_ || now.empty() || input.size(0) == mixed_batch_->size,
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
  return now;
}

at::Tensor LoraLayer::delta_weight(const std::string& adapter_name) const {
  const auto& adapter = at(adapter_name);
  const auto& A = adapter.lora_A->weight;
  const auto& B = adapter.lora_B->weight;
  // Half-precision products are slow on many CPUs.
  const bool upcast = A.is_cpu() && A.element_size() == 2;
  const auto dtype = upcast ? at::kFloat : A.scalar_type();
  // Scaled while it is small.
  return base_weight()
      .product(A.to(dtype), B.to(dtype) * adapter.scaling)
      .to(A.scalar_type());
}

at::Tensor LoraLayer::weight_input(const at::Tensor& /*input*/) const {
  TORCH_CHECK_VALUE(
      false,
      "[observe] the LoRA layer of a ",
      base_layer_->name(),
      " does not tell what its weight is multiplied by; override weight_input, "
      "or leave the module out by exclude_modules");
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

at::Tensor LoraLayer::with_updates(
    at::Tensor output,
    const at::Tensor& input,
    const std::vector<Term>& terms) {
  const auto dtype = output.scalar_type();
  for (const auto& term : terms) {
    output = output + update(input, term);
  }
  return output.to(dtype);
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
  const auto output = product(input, {}, bias());
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
  if (!terms.empty() && terms.front().rows.defined()) {
    return mixed_forward(input, terms);
  }
  auto bias = this->bias();
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
