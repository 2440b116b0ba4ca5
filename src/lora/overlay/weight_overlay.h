#pragma once

#include "lora/binding.h"

namespace torchlora {

/// Stands in for the weight member of an unmodified layer while it is adapted:
/// `bind` puts a tensor in its place that calls `run` where one of
/// LibTorch's operations meets it (`lora/overlay/kernels.h`).
///
/// NOTE: the kernels of the process may be those of another copy of the
/// library. What they call here is virtual, so that it runs in the copy that
/// made the layer.
class WeightOverlay : public LayerBinding,
                      public std::enable_shared_from_this<WeightOverlay> {
 public:
  /// `member` is a member of `module`.
  WeightOverlay(Module& module, Tensor& member);

  /// The raw weight at the last `bind`, also when the layer is gone.
  const Tensor& last_weight() const {
    return weight_;
  }
  /// nullptr if it stands in for nothing any more.
  LoraLayer* layer() const {
    return layer_;
  }
  WeightLayout layout() const {
    return layout_;
  }

  /// Whether a LoRA layer adapts the module through its weight member.
  static bool is_installed_on(const Module& module);

  void bind(LoraLayer& layer) override;
  void unbind(LoraLayer& layer) override;
  void follow() override;
  BaseWeight with_raw_weight(BaseWeight base) const override {
    return std::move(base).with_weight(layer_ ? weight_ : member_);
  }
  void check_in_place(const char* function) const override;
  /// Calls the module's own forward, which meets the stand-in.
  Tensor forward(LoraLayer& layer, const Tensor& input) override;
  Tensor base_forward(const LayerCall& call) override;

  /// Returns the weight with the layer's adapters in it.
  virtual Tensor adapted_weight() const;
  /// Why no dense weight can stand for the layer now, "" if one can.
  virtual const char* why_not_dense() const;
  virtual Tensor run(const Tensor& input, const WeightOperation& operation)
      const;
  /// Whether `use` is how the layer's type uses its weight.
  virtual bool is_used_as(WeightUse use) const {
    return layer_ && use == layer_->weight_use();
  }
  virtual bool has_dropout() const;
  virtual bool has_adapters() const;

 private:
  Module& module_;
  Tensor& member_;
  Tensor weight_, shown_;
  LoraLayer* layer_ = nullptr;
  WeightLayout layout_ = WeightLayout::kOutIn;
};

} // namespace torchlora
