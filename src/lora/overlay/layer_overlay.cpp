// What a LoRA layer does for a base layer that does not know torchlora.
#include <torchlora/lora/layer.h>

#include <torch/types.h>

#include "lora/overlay/weight_overlay.h"
#include "nn/scoped_value.h"

namespace torchlora {
namespace {

thread_local const WeightOperation* operation_at_work = nullptr;

} // namespace

void LoraLayer::bind() {
  if (overlay_) {
    overlay_->install(*this);
  } else {
    redirectable_->redirect_to(this);
  }
}

void LoraLayer::unbind() {
  if (overlay_) {
    overlay_->remove();
  } else if (redirectable_->redirect_target() == this) {
    redirectable_->redirect_to(nullptr);
  }
}

bool LoraLayer::has_dense_weight() const {
  return overlay_ && overlay_->is_dense();
}

void LoraLayer::refresh_weight() {
  if (has_dense_weight()) {
    overlay_->refresh();
  }
}

void LoraLayer::follow_base() {
  if (overlay_) {
    overlay_->refresh();
  }
}

void LoraLayer::to(
    torch::Device device,
    torch::Dtype dtype,
    bool non_blocking) {
  torch::nn::Module::to(device, dtype, non_blocking);
  follow_base();
}

void LoraLayer::to(torch::Dtype dtype, bool non_blocking) {
  torch::nn::Module::to(dtype, non_blocking);
  follow_base();
}

void LoraLayer::to(torch::Device device, bool non_blocking) {
  torch::nn::Module::to(device, non_blocking);
  follow_base();
}

std::shared_ptr<torch::nn::Module> LoraLayer::clone(
    const std::optional<torch::Device>& /*device*/) const {
  TORCH_CHECK(
      false,
      "[clone] an adapted model does not clone; merge and unload the adapter "
      "first");
}

void LoraLayer::enable_adapters(bool enabled) {
  enabled_ = enabled;
  refresh_weight();
}

void LoraLayer::set_mixed_batch(std::shared_ptr<const MixedBatch> batch) {
  check_overlay(batch != nullptr, "mixed_batch");
  mixed_batch_ = std::move(batch);
}

void LoraLayer::observe(std::function<void(const at::Tensor& rows)> observer) {
  check_overlay(static_cast<bool>(observer), "observe");
  observer_ = std::move(observer);
}

void LoraLayer::check_overlay(bool is_needed, const char* function) const {
  TORCH_CHECK_VALUE(
      !is_needed || !has_dense_weight(),
      "[",
      function,
      "] needs the weight overlay for a ",
      base_layer_->name(),
      ", which holds a dense weight (torchlora/lora/overlay.h); use the layer "
      "of the same name in torchlora::nn");
}

at::Tensor LoraLayer::run(
    const at::Tensor& input,
    const WeightOperation& operation) {
  const nn::ScopedValue<const WeightOperation*> scope(
      operation_at_work, &operation);
  const auto now = start(input);
  if (is_base(now)) {
    return operation.run(
        input, operation.narrow(overlay_->weight()), operation.bias);
  }
  TORCH_CHECK_VALUE(
      operation.rows < 0 || !*why_not_dense(),
      "[LoraLayer] a ",
      base_layer_->name(),
      " uses its weight in parts, which cannot have ",
      why_not_dense(),
      "; use the layer of the same name in torchlora::nn");
  return adapted_forward(input, now);
}

at::Tensor LoraLayer::operation(
    const at::Tensor& input,
    const at::Tensor& weight,
    const at::Tensor& bias) const {
  return operation_at_work->run(input, weight, bias);
}

at::Tensor LoraLayer::rows_of_operation(const at::Tensor& tensor) const {
  return overlay_ ? operation_at_work->narrow(tensor) : tensor;
}

at::Tensor LoraLayer::bias() const {
  return overlay_ ? operation_at_work->bias : base_weight().bias();
}

at::Tensor LoraLayer::adapted_weight() const {
  const auto base = base_weight();
  const auto now = terms();
  if (now.empty()) {
    return base.weight();
  }
  auto matrix = base.matrix();
  for (const auto& term : now) {
    TORCH_CHECK_VALUE(
        !term.rows.defined(),
        "[adapted_weight] a mixed batch has no one weight");
    if (term.merged_scale.defined()) {
      matrix = matrix / term.merged_scale.unsqueeze(1);
    }
    const auto& adapter = *term.adapter;
    matrix = matrix +
        base.product(
            adapter.lora_A->weight, adapter.lora_B->weight * term.scaling);
    if (adapter.lora_magnitude_vector && !term.merged_scale.defined()) {
      matrix = matrix * scale(adapter, base.matrix()).unsqueeze(1);
    }
  }
  return base.from_matrix(matrix).to(base.weight().scalar_type());
}

const char* LoraLayer::why_not_dense() const {
  for (const auto& term : terms()) {
    if (term.rows.defined()) {
      return "a mixed batch";
    }
    if (term.adapter->lora_B->bias.defined()) {
      return "lora_bias";
    }
  }
  return "";
}

} // namespace torchlora
