// Construction and forward of a LoRA layer; adapters and merges are in
// layer_adapters.cpp and layer_merge.cpp.
//
// A forward comes from the binding (`lora/binding.h`) as `run`: it collects the
// updates that are active now, and computes the base layer's own function if
// there are none. Otherwise `adapted_forward` puts as many updates as it can
// into one `product` of the layer type: all up to the first whose variant
// changes more than the sum. The variants of the rest change the output in
// turn.
#include <torchlora/lora/layer.h>

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/types.h>

#include <torchlora/lora/variant.h>

#include "lora/mixed_batch.h"
#include "lora/overlay/weight_overlay.h"

namespace torchlora {
namespace {

std::shared_ptr<LayerBinding> make_binding(
    Module& base_layer,
    const BaseWeightAccessor& accessor,
    nn::Redirectable* redirectable) {
  if (!redirectable) {
    redirectable = dynamic_cast<nn::Redirectable*>(&base_layer);
  }
  if (redirectable) {
    return std::make_shared<RedirectBinding>(*redirectable);
  }
  const auto base = accessor(base_layer);
  auto* member = base.member();
  TORCH_CHECK_VALUE(
      member,
      "[LoraLayer] the base layer must be a torchlora::nn::Redirectable, or "
      "its accessor name the member that is its weight "
      "(BaseWeight::member); ",
      base_layer.name(),
      " is not, and it does not");
  TORCH_CHECK_VALUE(
      member->is_same(base.weight()),
      "[LoraLayer] the accessor of a ",
      base_layer.name(),
      " gives one tensor as the weight and another one as its member "
      "(BaseWeight::member), so that the adapter would act on another tensor "
      "than it is merged into; name the member that is the weight");
  return std::make_shared<WeightOverlay>(base_layer, *member);
}

bool is_additive(const ActiveUpdate& update) {
  return update.adapter->is_additive();
}

} // namespace

LoraLayer::LoraLayer(
    std::shared_ptr<Module> base_layer,
    BaseWeightAccessor accessor,
    const FactorNames& factor_names,
    nn::Redirectable* redirectable)
    : Module("torchlora::LoraLayer"),
      base_layer_(std::move(base_layer)),
      accessor_(std::move(accessor)),
      binding_(make_binding(*base_layer_, accessor_, redirectable)),
      factor_names_(factor_names) {
  register_module("base_layer", base_layer_);
  lora_A_ = register_module(
      factor_names.A, std::make_shared<AdapterDict>(factor_names.are_modules));
  lora_B_ = register_module(
      factor_names.B, std::make_shared<AdapterDict>(factor_names.are_modules));
  if (!base_layer_->is_training()) {
    eval();
  }
}

LoraLayer::~LoraLayer() {
  binding_->unbind(*this);
}

BaseWeight LoraLayer::base_weight() const {
  return binding_->with_raw_weight(accessor_(*base_layer_));
}

void LoraLayer::bind() {
  binding_->bind(*this);
}

void LoraLayer::unload() {
  binding_->unbind(*this);
}

void LoraLayer::to(
    torch::Device device,
    torch::Dtype dtype,
    bool non_blocking) {
  Module::to(device, dtype, non_blocking);
  binding_->follow();
}

void LoraLayer::to(torch::Dtype dtype, bool non_blocking) {
  Module::to(dtype, non_blocking);
  binding_->follow();
}

void LoraLayer::to(torch::Device device, bool non_blocking) {
  Module::to(device, non_blocking);
  binding_->follow();
}

std::shared_ptr<Module> LoraLayer::clone(
    const std::optional<torch::Device>& /*device*/) const {
  TORCH_CHECK(
      false,
      "[clone] an adapted model does not clone; merge and unload the adapter "
      "first");
}

Tensor LoraLayer::forward(const Tensor& input) {
  return binding_->forward(*this, input);
}

Tensor LoraLayer::run(const Tensor& input, const WeightOperation* operation) {
  LayerCall call{input, operation ? operation->bias : Tensor(), operation};
  auto updates = active_updates();
  const auto batch = mixed_batch_of(*this);
  TORCH_CHECK_VALUE(
      !batch || updates.empty() || input.size(0) == batch->size,
      "[LoraLayer] Length of `adapter_names` should be the same as the number "
      "of inputs, but got ",
      batch ? batch->size : 0,
      " and ",
      input.size(0),
      " respectively.");
  if (observer_) {
    torch::NoGradGuard no_grad;
    observer_(weight_inputs(call));
  }
  if (is_base(updates)) {
    return binding_->base_forward(call);
  }
  if (!operation) {
    call.bias = base_weight().bias();
  }
  const auto* reason =
      operation && operation->rows >= 0 ? why_not_dense(updates) : "";
  TORCH_CHECK_VALUE(
      !*reason,
      "[LoraLayer] a ",
      base_layer_->name(),
      " uses its weight in parts, which cannot have ",
      reason,
      "; use the layer of the same name in torchlora::nn");
  if (at::isIntegralType(input.scalar_type(), /*includeBool=*/true)) {
    for (auto& update : updates) { // indices are not dropped
      update.dropout = 0;
    }
  }
  return adapted_forward(call, updates);
}

std::vector<ActiveUpdate> LoraLayer::active_updates() const {
  std::vector<ActiveUpdate> updates;
  const auto add = [&](const LoraAdapter& adapter, double sign) -> auto& {
    auto factors = adapter.factors();
    updates.push_back(
        {&adapter,
         std::move(factors.first),
         std::move(factors.second),
         sign * adapter.scaling});
    return updates.back();
  };
  const auto& [active, merged_names, enabled] = states();
  const auto batch = enabled ? mixed_batch_of(*this) : nullptr;
  if (batch) {
    for (const auto& [name, rows] : batch->rows) {
      if (const auto* adapter = find_adapter(name)) {
        add(*adapter, 1).rows = rows;
      }
    }
  } else if (enabled && merged_names.empty()) {
    for (const auto& name : active) {
      const auto& adapter = adapters_.at(name, "forward");
      auto& update = add(adapter, 1);
      update.dropout = is_training() ? adapter.lora_dropout : 0;
      update.compresses = is_training() && at::GradMode::is_enabled() &&
          adapter.variant && adapter.variant->compresses();
    }
  } else if (!enabled) {
    for (auto name = merged_names.rbegin(); name != merged_names.rend();
         ++name) {
      const auto& adapter = adapters_.at(*name, "forward");
      auto& update = add(adapter, -1);
      if (adapter.memory.defined()) {
        update.memory = memory_of(adapter);
      }
    }
  }
  return updates;
}

/// Whether the base layer's forward is the layer's now.
bool LoraLayer::is_base(ActiveUpdates updates) const {
  return updates.empty() && !base_forward_writes();
}

/// Computes one product for the whole batch and one update per adapter.
Tensor LoraLayer::mixed_forward(const LayerCall& call, ActiveUpdates updates)
    const {
  const auto output = product(call, {});
  std::vector<Tensor> rows, changes;
  for (const auto& active : updates) {
    rows.push_back(active.rows.to(call.input.device()));
    auto change =
        update(call.on(call.input.index_select(0, rows.back())), active);
    if (const auto& bias = active.adapter->lora_B->bias; bias.defined()) {
      change = change + per_channel(call, bias * active.scaling);
    }
    changes.push_back(change.to(output.scalar_type()));
  }
  return output.index_add(0, at::cat(rows), at::cat(changes));
}

Tensor LoraLayer::adapted_forward(
    const LayerCall& call,
    ActiveUpdates updates) {
  if (!updates.empty() && updates.front().rows.defined()) {
    return mixed_forward(call, updates);
  }
  auto with_biases = call;
  auto& bias = with_biases.bias;
  for (const auto& update : updates) {
    if (const auto& b = update.adapter->lora_B->bias; b.defined()) {
      bias = bias.defined() ? bias + b * update.scaling : b * update.scaling;
    }
  }
  const auto* next =
      std::find_if_not(updates.begin(), updates.end(), is_additive);
  if (next == updates.end()) {
    return product(with_biases, updates);
  }
  const auto scale = next->adapter->variant->output_scale(*this, *next);
  const auto count =
      static_cast<size_t>(next - updates.begin()) + scale.defined();
  auto output = product(call.on(call.input), updates.slice(0, count));
  const auto dtype = output.scalar_type();
  if (scale.defined()) {
    output = output * per_channel(call, scale);
  }
  for (const auto& update : updates.slice(count)) {
    output = is_additive(update)
        ? output + LoraLayer::update(call, update)
        : update.adapter->variant->forward(*this, call, output, update);
  }
  if (bias.defined()) {
    output = output + per_channel(call, bias);
  }
  return output.to(dtype);
}

/// Why no dense weight can stand for the updates, "" if one can.
const char* LoraLayer::why_not_dense(ActiveUpdates updates) {
  for (const auto& update : updates) {
    if (update.rows.defined()) {
      return "a mixed batch";
    }
    if (update.adapter->lora_B->bias.defined()) {
      return "lora_bias";
    }
  }
  return "";
}

Tensor LoraLayer::adapted_weight() const {
  const auto base = base_weight();
  const auto updates = active_updates();
  if (updates.empty()) {
    return base.weight();
  }
  auto matrix = base.matrix();
  for (const auto& update : updates) {
    TORCH_CHECK_VALUE(
        !update.rows.defined(),
        "[adapted_weight] a mixed batch has no one weight");
    const auto delta = base.product(update.A, update.B * update.scaling);
    if (is_additive(update)) {
      matrix = matrix + delta;
    } else if (update.memory.defined()) {
      matrix = update.adapter->variant->undo(matrix, -delta, update.memory);
    } else {
      matrix = update.adapter->variant
                   ->apply(*update.adapter, matrix, base.matrix(), delta)
                   .weight;
    }
  }
  return base.from_matrix(matrix).to(base.weight().scalar_type());
}

void LoraLayer::pretty_print(std::ostream& stream) const {
  std::vector<std::string> texts;
  for (const auto& adapter : adapters()) {
    texts.push_back(fmt::format(
        "{}: r={}, scaling={}", adapter.name, adapter.r, adapter.scaling));
  }
  stream << fmt::format("torchlora::LoraLayer({})", fmt::join(texts, "; "));
}

} // namespace torchlora
