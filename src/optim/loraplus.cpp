#include <torchlora/optim/loraplus.h>

#include <array>
#include <cmath>
#include <unordered_map>
#include <unordered_set>

#include <c10/util/Exception.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/normalization.h>

#include <torchlora/lora/layer.h>
#include <torchlora/lora/layers/embedding.h>
#include <torchlora/lora/variant.h>
#include <torchlora/optim/weight_decay.h>

namespace torchlora {
namespace {

enum Speed { kSlow, kEmbedding, kFast, kSpeeds };

struct Place {
  Speed speed;
  bool decays;
  bool is_adapter;
};

using Places = std::unordered_map<const at::TensorImpl*, Place>;

void place_adapters(const LoraLayer& layer, Places& places) {
  const bool is_embedding = dynamic_cast<const LoraTable*>(&layer);
  const auto place = [&](const at::Tensor& tensor, Speed speed, bool decays) {
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

bool is_norm(const torch::nn::Module& module) {
  return module.as<torch::nn::LayerNorm>() ||
      module.as<torch::nn::GroupNorm>() ||
      module.as<torch::nn::BatchNorm1d>() ||
      module.as<torch::nn::BatchNorm2d>() ||
      module.as<torch::nn::BatchNorm3d>();
}

void check(bool holds, const char* option, const char* required, double found) {
  TORCH_CHECK_VALUE(
      holds && std::isfinite(found),
      "[LoraPlusOptions] ",
      option,
      " must be ",
      required,
      ", found ",
      found);
}

} // namespace

void LoraPlusOptions::validate() const {
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

std::vector<LoraPlusGroup> loraplus_param_groups(
    const torch::nn::Module& model,
    double lr,
    const LoraPlusOptions& options) {
  options.validate();
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
  std::array<std::array<std::vector<at::Tensor>, 2>, kSpeeds> params;
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

} // namespace torchlora
