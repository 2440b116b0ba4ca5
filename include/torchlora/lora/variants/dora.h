#pragma once

#include <ATen/Functions.h>

#include <torchlora/detail/dropout.h>
#include <torchlora/detail/row_norms.h>
#include <torchlora/lora/layer.h>
#include <torchlora/lora/variant.h>

namespace torchlora {

/// DoRA, weight-decomposed LoRA. A trained magnitude m [out_features] sets the
/// norm of each row (output channel) of the adapted weight:
///
///     W' = c · (W + scaling · B A),   c = m / ‖W₀ + scaling · B A‖
///
/// W₀ is the base weight without any update; W may already contain the updates
/// of earlier adapters. The norm is taken per row and has no gradient. A row
/// whose norm is 0 has c = 1, so that its B learns (PEFT divides by 0). In
/// training with dropout the layer computes
///
///     W x + (c − 1) W₀ x̃ + c · scaling · B A x̃,   x̃ = dropout(x)
///
/// Liu et al. 2024, arXiv:2402.09353. PEFT's `DoraLinearVariant` and its
/// siblings.
class TORCHLORA_API DoraVariant : public LoraVariant {
 public:
  /// Stores the magnitude m, [out_features], for a convolution [1,
  /// out_features, 1…].
  explicit DoraVariant(Tensor magnitude) : magnitude_(std::move(magnitude)) {}
  ~DoraVariant() override;

  /// Returns the entry of DoRA in the table of variants.
  static LoraVariantType type() {
    return {
        .name = "use_dora",
        .matches = [](const LoraConfig& config) { return config.use_dora(); },
        .check = [](const LoraConfig& /*config*/) {},
        .specs =
            [](const BaseWeight& base,
               int64_t /*r*/,
               const LoraConfig& /*config*/) -> std::vector<AdapterTensorSpec> {
          return {{"lora_magnitude_vector", base.magnitude_sizes()}};
        },
        .create = [](const VariantArguments& arguments,
                     Tensor& /*base_weight*/) -> std::shared_ptr<LoraVariant> {
          const auto& base = arguments.base;
          return std::make_shared<DoraVariant>(at::empty(
              base.magnitude_sizes(),
              base.weight()
                  .options()
                  .dtype(arguments.adapter.lora_A->weight.scalar_type())
                  .requires_grad(false)));
        }};
  }

  std::vector<VariantTensor> tensors() const override {
    return {{"lora_magnitude_vector", magnitude_, VariantTensor::kModule}};
  }
  /// Sets the magnitude to the current row norms, so that c = 1: a new adapter
  /// with B = 0 then computes what the base layer does.
  void reset(const LoraAdapter& adapter, const Tensor& base_weight) override {
    magnitude_.copy_(norms(adapter, base_weight).reshape(magnitude_.sizes()));
  }

  bool is_additive() const override {
    return false;
  }
  Applied apply(
      const LoraAdapter& adapter,
      const Tensor& weight,
      const Tensor& base_weight,
      const Tensor& delta) const override {
    const auto c = scale(adapter, base_weight).unsqueeze(1);
    return {(weight + delta) * c, memory_of(c.detach(), weight.detach())};
  }
  Tensor undo(const Tensor& weight, const Tensor& delta, const Tensor& memory)
      const override {
    return holds_weight(memory) ? weight_in(memory).clone()
                                : weight / memory - delta;
  }
  Tensor forward(
      const LayerFunction& layer,
      const LayerCall& call,
      const Tensor& output,
      const ActiveUpdate& update) const override {
    if (update.memory.defined()) {
      return without(layer, call, output, update);
    }
    const auto c = layer.per_channel(
        call, scale(*update.adapter, layer.base_weight().matrix()));
    if (update.dropout == 0) {
      return c * (output + layer.update(call, update));
    }
    const auto dropped = call.on(detail::dropout(call.input, update.dropout));
    auto rest = update;
    rest.dropout = 0;
    return output + (c - 1) * layer.product(dropped, {}) +
        c * layer.update(dropped, rest);
  }
  Tensor output_scale(const LayerFunction& layer, const ActiveUpdate& update)
      const override {
    return update.dropout == 0 && !update.memory.defined()
        ? scale(*update.adapter, layer.base_weight().matrix())
        : Tensor();
  }

 private:
  static Tensor norms(const LoraAdapter& adapter, const Tensor& weight) {
    return detail::row_norms(
        weight,
        adapter.lora_A->weight.flatten(1),
        adapter.lora_B->weight.flatten(1),
        adapter.scaling);
  }
  /// Returns c = m / ‖weight + scaling · B A‖ per row, 1 where the norm is 0,
  /// [out_features], differentiable by m. `weight` is W₀.
  Tensor scale(const LoraAdapter& adapter, const Tensor& weight) const {
    const auto norm = norms(adapter, weight);
    const auto is_zero = norm.eq(0);
    // NOTE: the gradient of a division by 0 is NaN even where it is not used.
    return at::where(
        is_zero, 1, magnitude_.flatten() / norm.masked_fill(is_zero, 1));
  }

  /// @{
  /// What a merge keeps: the column c, [out_features, 1]. A small c (a
  /// magnitude that was trained to 0) cannot be divided out again; then the
  /// columns of the weight before the merge follow.
  static Tensor memory_of(const Tensor& c, const Tensor& weight) {
    constexpr double kSmallest = 1.0 / 64;
    return c.abs().lt(kSmallest).any().item<bool>() ? at::cat({c, weight}, 1)
                                                    : c;
  }
  static bool holds_weight(const Tensor& memory) {
    return memory.size(1) > 1;
  }
  static Tensor weight_in(const Tensor& memory) {
    return memory.narrow(1, 1, memory.size(1) - 1);
  }
  /// @}

  /// Returns `output` without a merged update.
  static Tensor without(
      const LayerFunction& layer,
      const LayerCall& call,
      const Tensor& output,
      const ActiveUpdate& update) {
    if (holds_weight(update.memory)) {
      const auto base = layer.base_weight();
      const auto weight = base.from_matrix(weight_in(update.memory))
                              .to(base.weight().scalar_type());
      return layer.operate(call.on(call.input), weight, {});
    }
    return output / layer.per_channel(call, update.memory.flatten()) +
        layer.update(call, update);
  }

  Tensor magnitude_;
};

} // namespace torchlora
