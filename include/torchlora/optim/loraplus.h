#pragma once

#include <memory>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/arg.h>
#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>

#include <torchlora/export.h>

namespace torchlora {

/// LoRA+: B learns faster than A. The names and defaults of PEFT's
/// `create_loraplus_optimizer`; Hayou et al. 2024, arXiv:2402.12354.
struct TORCHLORA_API LoraPlusOptions {
  /// The rest as in PEFT.
  explicit LoraPlusOptions(double loraplus_lr_ratio)
      : loraplus_lr_ratio_(loraplus_lr_ratio) {}

  /// ValueError names the option that cannot be right.
  void validate() const;

  /// The learning rate of B over that of A; positive, usually above 1.
  TORCH_ARG(double, loraplus_lr_ratio);
  /// Of all that decays.
  TORCH_ARG(double, loraplus_weight_decay) = 0;
  /// The learning rate of both factors of embeddings.
  TORCH_ARG(double, loraplus_lr_embedding) = 1e-6;
};

/// Parameters that share a learning rate and a decay.
struct LoraPlusGroup {
  /// In the order of the model.
  std::vector<at::Tensor> params;
  /// @{
  /// Of the group.
  double lr;
  double weight_decay;
  /// @}
};

/// The trainable parameters of a model in groups, none of them empty:
///
///     both factors of embeddings         loraplus_lr_embedding
///     B, its bias, DoRA's magnitudes     lr · loraplus_lr_ratio
///     A, and all that is no adapter's    lr
///
/// Biases and norms do not decay. A parameter with two names comes once.
/// ValueError if no adapter of the model is trainable. Unlike in PEFT a bias
/// or a norm that is trained as a whole is not in the fast group.
TORCHLORA_API std::vector<LoraPlusGroup> loraplus_param_groups(
    const torch::nn::Module& model,
    double lr,
    const LoraPlusOptions& options);

/// An optimizer of LibTorch over these groups, everything but learning rates
/// and decay as `optimizer_options` has it:
///
///     auto optimizer =
///         torchlora::create_loraplus_optimizer<torch::optim::AdamW>(
///             *model,
///             torch::optim::AdamWOptions(1e-4),
///             torchlora::LoraPlusOptions(16));
template <class Optimizer, class OptimizerOptions>
std::unique_ptr<Optimizer> create_loraplus_optimizer(
    const torch::nn::Module& model,
    const OptimizerOptions& optimizer_options,
    const LoraPlusOptions& options) {
  const auto groups =
      loraplus_param_groups(model, optimizer_options.get_lr(), options);
  std::vector<torch::optim::OptimizerParamGroup> params;
  for (const auto& group : groups) {
    params.emplace_back(group.params);
  }
  auto optimizer =
      std::make_unique<Optimizer>(std::move(params), optimizer_options);
  // NOTE: not by the constructor, which takes a group's value that equals the
  // class's default (no decay, in Adam and SGD) for one that was not set.
  for (size_t i = 0; i < groups.size(); ++i) {
    auto group_options = std::make_unique<OptimizerOptions>(optimizer_options);
    group_options->set_lr(groups[i].lr);
    group_options->weight_decay(groups[i].weight_decay);
    optimizer->param_groups()[i].set_options(std::move(group_options));
  }
  return optimizer;
}

} // namespace torchlora
