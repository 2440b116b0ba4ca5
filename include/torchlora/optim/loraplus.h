#pragma once

#include <array>
#include <cmath>
#include <unordered_map>
#include <unordered_set>

#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/normalization.h>
#include <torch/optim/optimizer.h>

#include <torchlora/detail/arg.h>
#include <torchlora/lora/layer.h>
#include <torchlora/lora/layers/embedding.h>
#include <torchlora/lora/variant.h>
#include <torchlora/optim/weight_decay.h>

namespace torchlora {

/// Options of LoRA+, in which B has a larger learning rate than A. Names and
/// defaults are those of PEFT's `create_loraplus_optimizer`; Hayou et al. 2024,
/// arXiv:2402.12354.
struct LoraPlusOptions {
  /// Sets the ratio of the learning rates. Each other option has PEFT's
  /// default.
  explicit LoraPlusOptions(double loraplus_lr_ratio)
      : loraplus_lr_ratio_(loraplus_lr_ratio) {}

  /// Checks all options. ValueError names the first option with an invalid
  /// value.
  void validate() const {
    const auto check =
        [](bool holds, const char* option, const char* required, double found) {
          TORCH_CHECK_VALUE(
              holds && std::isfinite(found),
              "[LoraPlusOptions] ",
              option,
              " must be ",
              required,
              ", found ",
              found);
        };
    check(
        loraplus_lr_ratio_ > 0,
        "loraplus_lr_ratio",
        "positive",
        loraplus_lr_ratio_);
    check(
        loraplus_weight_decay_ >= 0,
        "loraplus_weight_decay",
        "not negative",
        loraplus_weight_decay_);
    check(
        loraplus_lr_embedding_ >= 0,
        "loraplus_lr_embedding",
        "not negative",
        loraplus_lr_embedding_);
  }

  /// The learning rate of B divided by that of A: positive, usually above 1.
  TORCHLORA_ARG(double, loraplus_lr_ratio);
  /// The weight decay of the trainable parameters. Biases and norms have none.
  TORCHLORA_ARG(double, loraplus_weight_decay) = 0;
  /// The learning rate of A and B in the adapters of embeddings.
  TORCHLORA_ARG(double, loraplus_lr_embedding) = 1e-6;
};

/// A parameter group for an optimizer: parameters that share a learning rate
/// and a weight decay.
struct LoraPlusGroup {
  /// The parameters of the group, in the order of `model.parameters()`.
  std::vector<Tensor> params;
  double lr;
  double weight_decay;
};

/// Not public: helpers with which `loraplus_param_groups` sorts parameters.
namespace detail::loraplus {

/// Which of the three learning rates a parameter has.
enum Speed { kSlow, kEmbedding, kFast, kSpeeds };

/// The place of a parameter: its learning rate, whether it has weight decay,
/// and whether it belongs to an adapter.
struct Place {
  Speed speed;
  bool decays;
  bool is_adapter;
};

/// A map from each parameter to its place: its learning rate, and whether it
/// decays and belongs to an adapter.
using Places = std::unordered_map<const at::TensorImpl*, Place>;

/// Adds the place of every adapter parameter of `layer` to `places`.
inline void place_adapters(const LoraLayer& layer, Places& places) {
  const bool is_embedding = dynamic_cast<const LoraTable*>(&layer);
  const auto place = [&](const Tensor& tensor, Speed speed, bool decays) {
    if (tensor.defined()) {
      places[tensor.unsafeGetTensorImpl()] = {speed, decays, true};
    }
  };
  for (const auto& adapter : layer.adapters()) {
    place(adapter.lora_A->weight, is_embedding ? kEmbedding : kSlow, true);
    place(adapter.lora_B->weight, is_embedding ? kEmbedding : kFast, true);
    place(adapter.lora_B->bias, kFast, false);
    if (adapter.variant) {
      for (const auto& tensor : adapter.variant->tensors()) {
        place(tensor.value, kFast, true);
      }
    }
  }
}

/// Returns whether `module` is LibTorch's LayerNorm, GroupNorm or BatchNorm.
/// Its parameters have no weight decay. `has_weight_decay` recognizes other
/// norms by name.
inline bool is_norm(const Module& module) {
  return module.as<torch::nn::LayerNorm>() ||
      module.as<torch::nn::GroupNorm>() ||
      module.as<torch::nn::BatchNorm1d>() ||
      module.as<torch::nn::BatchNorm2d>() ||
      module.as<torch::nn::BatchNorm3d>();
}

} // namespace detail::loraplus

/// Returns the trainable parameters of `model` in groups that share a learning
/// rate and a weight decay. No group is empty. The learning rates are:
///
///     A and B of embeddings                loraplus_lr_embedding
///     B, its bias, tensors of a variant    lr · loraplus_lr_ratio
///     A, and parameters outside adapters   lr
///
/// Biases and norms have no weight decay. A parameter with two names comes
/// once. ValueError if no adapter of the model is trainable. PEFT differs in
/// one point: it puts a bias or a norm that is trained as a whole into the fast
/// group.
inline std::vector<LoraPlusGroup> loraplus_param_groups(
    const Module& model,
    double lr,
    const LoraPlusOptions& options) {
  options.validate();
  using namespace detail::loraplus;
  Places places;
  for (const auto& module : model.modules(/*include_self=*/false)) {
    if (const auto* layer = dynamic_cast<const LoraLayer*>(module.get())) {
      place_adapters(*layer, places);
    } else if (is_norm(*module)) {
      for (const auto& parameter : module->parameters(/*recurse=*/false)) {
        places[parameter.unsafeGetTensorImpl()] = {kSlow, false, false};
      }
    }
  }
  std::array<std::array<std::vector<Tensor>, 2>, kSpeeds> params;
  std::unordered_set<const at::TensorImpl*> seen;
  bool trains_adapters = false;
  for (const auto& item : model.named_parameters()) {
    const auto& parameter = item.value();
    const auto* impl = parameter.unsafeGetTensorImpl();
    if (!parameter.requires_grad() || !seen.insert(impl).second) {
      continue;
    }
    const auto found = places.find(impl);
    const auto place = found == places.end()
        ? Place{kSlow, has_weight_decay(item.key()), false}
        : found->second;
    trains_adapters |= place.is_adapter;
    params[place.speed][place.decays].push_back(parameter);
  }
  TORCH_CHECK_VALUE(
      trains_adapters,
      "[loraplus_param_groups] no adapter of the model is trainable; make one "
      "active by set_adapter");
  const std::array<double, kSpeeds> rates{
      lr, options.loraplus_lr_embedding(), lr * options.loraplus_lr_ratio()};
  std::vector<LoraPlusGroup> groups;
  for (int speed = 0; speed < kSpeeds; ++speed) {
    for (const bool decays : {true, false}) {
      if (auto& group = params[speed][decays]; !group.empty()) {
        groups.push_back(
            {std::move(group),
             rates[speed],
             decays ? options.loraplus_weight_decay() : 0});
      }
    }
  }
  return groups;
}

/// Creates an optimizer of LibTorch for the groups of `loraplus_param_groups`.
/// Takes every option except learning rates and weight decay from
/// `optimizer_options`, whose learning rate is that of A:
///
///     auto optimizer =
///         torchlora::create_loraplus_optimizer<torch::optim::AdamW>(
///             *model,
///             torch::optim::AdamWOptions(1e-4),
///             torchlora::LoraPlusOptions(16));
template <class Optimizer, class OptimizerOptions>
std::unique_ptr<Optimizer> create_loraplus_optimizer(
    const Module& model,
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
  // NOTE: the options are set here and not in the constructor. The constructor
  // treats a value that equals the class's default (no decay, in Adam and SGD)
  // as one that was not set.
  for (size_t i = 0; i < groups.size(); ++i) {
    auto group_options = std::make_unique<OptimizerOptions>(optimizer_options);
    group_options->set_lr(groups[i].lr);
    group_options->weight_decay(groups[i].weight_decay);
    optimizer->param_groups()[i].set_options(std::move(group_options));
  }
  return optimizer;
}

} // namespace torchlora
