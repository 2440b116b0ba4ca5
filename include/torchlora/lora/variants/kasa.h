#pragma once

#include <algorithm>

#include <ATen/Functions.h>

#include <torchlora/init/detail/decompose.h>
#include <torchlora/lora/layer.h>
#include <torchlora/lora/variant.h>

namespace torchlora {

/// KaSA, knowledge-aware singular-value adaptation. When the adapter is
/// created, the layer removes the r smallest singular components from the base
/// weight W = Σ σᵢ uᵢ vᵢᵀ. A trained diagonal d [r] scales the rows of A:
///
///     W ← Σ_{i ≤ k - r} σᵢ uᵢ vᵢᵀ        W' = W + scaling · B diag(d) A
///
/// with k = min(in_features, out_features). The base weight stays truncated
/// while the adapter is disabled and after `unload`. A layer with such an
/// adapter cannot have another one. Wang et al. 2024, arXiv:2412.06071. PEFT's
/// `KasaLinearVariant`.
class TORCHLORA_API KasaVariant : public LoraVariant {
 public:
  /// Stores the weights of the regularizers and the diagonal d, [r].
  KasaVariant(KasaConfig config, Tensor diag)
      : config_(std::move(config)), diag_(std::move(diag)) {}
  ~KasaVariant() override;

  /// Returns the entry of KaSA in the table of variants.
  static LoraVariantType type() {
    return {
        .name = "kasa_config",
        .matches =
            [](const LoraConfig& config) {
              return config.kasa_config().has_value();
            },
        .check =
            [](const LoraConfig& config) {
              const auto& traits = init::traits_of(config);
              TORCH_CHECK_VALUE(
                  !config.use_dora() && !config.velora_config() &&
                      !traits.modifies_base && traits.trains_B,
                  "[update_layer] kasa_config is not supported with use_dora, "
                  "velora_config or an initializer that changes the base "
                  "weight or freezes B");
            },
        .specs = [](const BaseWeight& /*base*/,
                    int64_t r,
                    const LoraConfig& /*config*/)
            -> std::vector<AdapterTensorSpec> { return {{"lora_diag", {r}}}; },
        .create = [](const VariantArguments& arguments,
                     Tensor& base_weight) -> std::shared_ptr<LoraVariant> {
          const auto r = arguments.adapter.r;
          base_weight = truncate(arguments.base.matrix(), r);
          return std::make_shared<KasaVariant>(
              *arguments.config.kasa_config(),
              arguments.as_parameter(
                  arguments.is_loaded ? at::zeros({r}) : at::randn({r})));
        },
        .is_linear_only = true,
        .modifies_base = true,
        .is_convertible = false};
  }

  std::vector<VariantTensor> tensors() const override {
    return {{"lora_diag", diag_, VariantTensor::kParameter}};
  }
  std::pair<Tensor, Tensor> factors(const LoraAdapter& adapter) const override {
    return {
        adapter.lora_A->weight * diag_.unsqueeze(1), adapter.lora_B->weight};
  }
  bool excludes_others() const override {
    return true;
  }

  /// Returns `matrix` without its `r` smallest singular components, as fp32 or
  /// fp64. ValueError if no component would be left.
  static Tensor truncate(const Tensor& matrix, int64_t r) {
    const auto k = std::min(matrix.size(0), matrix.size(1));
    TORCH_CHECK_VALUE(
        r < k,
        "[update_layer] KaSA requires `r` (",
        r,
        ") to be smaller than min(in_features, out_features) (",
        k,
        ") so that at least one singular component of the base weight is "
        "preserved after truncation; set rank_pattern");
    const auto wide =
        matrix.to(c10::promoteTypes(matrix.scalar_type(), at::kFloat));
    const auto last = init::last_triplets(wide, r);
    return at::addmm(wide, last.U * last.S, last.V.t(), 1, -1);
  }

  /// Returns KaSA's regularizer of one adapter, beta ‖d‖² + gamma (‖Bᵀ B − I‖ +
  /// ‖A Aᵀ − I‖), a scalar in at least fp32.
  Tensor loss(const LoraAdapter& adapter) const {
    const auto dtype = c10::promoteTypes(diag_.scalar_type(), at::kFloat);
    const auto d = diag_.to(dtype);
    const auto A = adapter.lora_A->weight.to(dtype);
    const auto B = adapter.lora_B->weight.to(dtype);
    const auto eye = at::eye(d.size(0), d.options().requires_grad(false));
    return config_.beta() * d.square().sum() +
        config_.gamma() *
        (at::norm(at::mm(B.t(), B) - eye) + at::norm(at::mm(A, A.t()) - eye));
  }

 private:
  KasaConfig config_;
  Tensor diag_;
};

/// Returns KaSA's regularizer summed over the active adapters of all LoRA
/// layers in `model`. It penalizes large diagonals d and factors whose B
/// columns and A rows are not orthonormal. Add it to the loss of your task.
/// Undefined if no active adapter uses KaSA. PEFT's `_get_kasa_loss`.
inline Tensor kasa_loss(const Module& model) {
  Tensor sum;
  for (const auto& module : model.modules()) {
    const auto* layer = dynamic_cast<const LoraLayer*>(module.get());
    if (!layer) {
      continue;
    }
    for (const auto& name : layer->active_adapters()) {
      const auto* adapter = layer->find_adapter(name);
      const auto* kasa = adapter
          ? dynamic_cast<const KasaVariant*>(adapter->variant.get())
          : nullptr;
      if (kasa) {
        const auto loss = kasa->loss(*adapter);
        sum = sum.defined() ? sum + loss : loss;
      }
    }
  }
  return sum;
}

} // namespace torchlora
