#pragma once

#include <c10/core/TensorImpl.h>
#include <torch/types.h>

#include "lora/overlay/weight_overlay.h"

namespace torchlora {

/// The dispatch key that was taken; Undefined before `overlay_is_registered`.
extern c10::DispatchKey overlay_key;

/// The stand-in for a weight, or for its transpose or some of its rows. It has
/// no storage: whatever reads memory past the dispatcher throws.
struct OverlayImpl final : c10::TensorImpl {
  OverlayImpl(
      std::shared_ptr<const WeightOverlay> overlay_,
      bool is_transposed_,
      int64_t first_row_,
      int64_t rows_)
      : TensorImpl(
            (overlay_->last_weight().key_set() -
             c10::autograd_dispatch_keyset) |
                c10::DispatchKeySet(overlay_key),
            overlay_->last_weight().dtype(),
            overlay_->last_weight().device()),
        overlay(std::move(overlay_)),
        is_transposed(is_transposed_),
        first_row(first_row_),
        rows(rows_) {
    auto sizes = overlay->last_weight().sizes().vec();
    auto strides = overlay->last_weight().strides().vec();
    if (rows >= 0) {
      sizes[0] = rows;
    }
    if (is_transposed) {
      std::swap(sizes[0], sizes[1]);
      std::swap(strides[0], strides[1]);
    }
    set_sizes_and_strides(sizes, strides);
    set_storage_access_should_throw();
  }

  c10::intrusive_ptr<TensorImpl> shallow_copy_and_detach(
      const c10::VariableVersion& /*version*/,
      bool /*allow_change*/) const override {
    return copy();
  }
  c10::intrusive_ptr<TensorImpl> shallow_copy_and_detach(
      c10::VariableVersion&& /*version*/,
      bool /*allow_change*/) const override {
    return copy();
  }
  void shallow_copy_from(
      const c10::intrusive_ptr<TensorImpl>& /*impl*/) override {
    TORCH_CHECK(
        false,
        "[set_data] the weight is adapted; merge or unload the adapter first");
  }
  // Part of the message of who asks for the storage, torch::save for one.
  const char* tensorimpl_type_name() const override {
    return "an adapted weight (torchlora::WeightOverlay), which has none; "
           "merge or unload the adapter first, or take "
           "LoraLayer::adapted_weight()";
  }

  c10::intrusive_ptr<TensorImpl> copy() const {
    return c10::make_intrusive<OverlayImpl>(
        overlay, is_transposed, first_row, rows);
  }
  Tensor transpose() const {
    return Tensor(c10::make_intrusive<OverlayImpl>(
        overlay, !is_transposed, first_row, rows));
  }
  /// The part of a tensor like the weight that this one stands for.
  Tensor part(const Tensor& weight) const {
    const auto narrowed = rows < 0 ? weight : weight.narrow(0, first_row, rows);
    return is_transposed ? narrowed.t() : narrowed;
  }
  Tensor dense() const {
    return part(overlay->adapted_weight());
  }
  Tensor run(
      const Tensor& input,
      const Tensor& bias,
      c10::function_ref<Tensor(const Tensor&, const Tensor&, const Tensor&)>
          operation) const {
    return overlay->run(input, {operation, bias, first_row, rows});
  }

  std::shared_ptr<const WeightOverlay> overlay;
  bool is_transposed;
  int64_t first_row, rows;
};

/// nullptr for a tensor that is none.
inline OverlayImpl* overlay_of(const Tensor& tensor) {
  return tensor.defined() && tensor.key_set().has(overlay_key)
      ? static_cast<OverlayImpl*>(tensor.unsafeGetTensorImpl())
      : nullptr;
}

} // namespace torchlora
