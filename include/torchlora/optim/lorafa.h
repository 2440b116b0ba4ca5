#pragma once

#include <memory>
#include <tuple>
#include <unordered_map>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/arg.h>
#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>

#include <torchlora/export.h>

namespace torchlora {

/// The names and defaults of PEFT's `LoraFAOptimizer`.
struct TORCHLORA_API LoraFAOptions
    : public torch::optim::OptimizerCloneableOptions<LoraFAOptions> {
  /// The learning rate, the rest as in PEFT.
  LoraFAOptions(double lr = 1e-3) : lr_(lr) {}
  /// Of the two moments.
  using betas_t = std::tuple<double, double>;

  /// @{
  /// As LibTorch's options have them.
  void serialize(torch::serialize::InputArchive& archive) override;
  void serialize(torch::serialize::OutputArchive& archive) const override;
  double get_lr() const override {
    return lr_;
  }
  void set_lr(double lr) override {
    lr_ = lr;
  }
  /// @}

  /// Learning rate.
  TORCH_ARG(double, lr) = 1e-3;
  /// Decays of the moments.
  TORCH_ARG(betas_t, betas) = std::make_tuple(0.9, 0.999);
  /// Added to the root of the second moment.
  TORCH_ARG(double, eps) = 1e-6;
  /// Decoupled, and applied after the step.
  TORCH_ARG(double, weight_decay) = 0;
  /// Whether the moments are corrected for their start at zero.
  TORCH_ARG(bool, correct_bias) = true;
};

/// The factors of an update, and what it is scaled by.
struct LoraFAPair {
  /// @{
  /// The parameters.
  at::Tensor A, B;
  /// @}

  /// The layer's.
  double scaling;
};

/// LoRA-FA: A is frozen, and B steps as if the weight itself did, as far as A
/// lets it:
///
///     g_B ← g_B (A Aᵀ + 1e-8 I)⁻¹ / scaling²
///
/// and AdamW on that. Other parameters take AdamW's step. The projection is
/// computed in fp32 at least, the moments have the parameters' dtype. Saves and
/// loads its state as LibTorch's optimizers do. PEFT's `LoraFAOptimizer`; Zhang
/// et al. 2023, arXiv:2308.03303.
class TORCHLORA_API LoraFA : public torch::optim::Optimizer {
 public:
  /// Of a convolution the factors are taken as matrices. ValueError for
  /// options that cannot be right and for a scaling of zero.
  LoraFA(
      const std::vector<LoraFAPair>& pairs,
      const std::vector<at::Tensor>& others,
      LoraFAOptions options = {});

  /// @{
  /// As `torch::optim::Optimizer`'s.
  at::Tensor step(LossClosure closure = nullptr) override;
  void save(torch::serialize::OutputArchive& archive) const override;
  void load(torch::serialize::InputArchive& archive) override;
  /// @}

 private:
  at::Tensor project(const at::Tensor& parameter, const at::Tensor& grad) const;

  /// By B.
  std::unordered_map<const at::TensorImpl*, LoraFAPair> pairs_;
};

/// Freezes A of every adapter that is being trained and returns the optimizer
/// of all that is left, each layer with its own scaling. The layers then keep
/// A x alone of their activations. ValueError if no adapter is trainable, or if
/// one has an A of zeros, under which B never learns (a fresh adapter of an
/// embedding, MiCA). PEFT's `create_lorafa_optimizer`, without `r` and
/// `lora_alpha`.
TORCHLORA_API std::unique_ptr<LoraFA> create_lorafa_optimizer(
    torch::nn::Module& model,
    const LoraFAOptions& options = {});

} // namespace torchlora
