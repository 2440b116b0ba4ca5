#include "model/replicate.h"

#include <mutex>
#include <typeinfo>

#include <ATen/CPUGeneratorImpl.h>
#include <torch/types.h>

#include "model/sites.h"
#include "model/ties.h"

namespace torchlora {
namespace {

std::shared_ptr<Module> child_of(
    const Module& module,
    const std::string& name) {
  const auto children = module.named_children();
  const auto* child = children.find(name);
  return child ? *child : nullptr;
}

/// Where PEFT looks for a Llama's, a Bert's and a Falcon's layers.
std::shared_ptr<torch::nn::ModuleListImpl> find_layers(Module& model) {
  auto inner = model.shared_from_this();
  while (const auto child = child_of(*inner, "model")) {
    inner = child;
  }
  if (const auto bert = child_of(*inner, "bert")) {
    inner = bert;
  }
  auto layers = child_of(*inner, "layers");
  if (const auto encoder = child_of(*inner, "encoder"); !layers && encoder) {
    layers = child_of(*encoder, "layer");
  }
  if (!layers) {
    layers = child_of(*inner, "h");
  }
  auto list = std::dynamic_pointer_cast<torch::nn::ModuleListImpl>(layers);
  TORCH_CHECK_VALUE(
      list,
      "[layer_replication] Could not locate the layers attribute in the model. "
      "Expected Llama, Bert or Falcon compatible architectures: a "
      "torch::nn::ModuleList called layers, encoder.layer or h",
      layers ? ", found a " + layers->name() : "");
  return list;
}

void refuse_layer(const Module& layer, const std::string& why) {
  TORCH_CHECK_VALUE(
      false,
      "[layer_replication] a layer of type ",
      layer.name(),
      " cannot be replicated: ",
      why);
}

/// NOTE: by `set_data`, as a layer's typed members are out of reach.
void share_parameters(Module& layer, Module& copy, const Module& whole) {
  const auto targets = copy.named_parameters(/*recurse=*/false);
  for (const auto& item : layer.named_parameters(/*recurse=*/false)) {
    const auto* target = targets.find(item.key());
    if (!target) {
      refuse_layer(whole, "its clone has no " + item.key());
    }
    target->set_data(item.value().detach());
    target->set_requires_grad(item.value().requires_grad());
  }
}

std::shared_ptr<Module> replica(Module& layer) {
  std::shared_ptr<Module> copy;
  try {
    copy = layer.clone();
  } catch (const c10::Error& e) {
    refuse_layer(layer, e.what_without_backtrace());
  }
  const auto copies = copy->named_modules("", /*include_self=*/true);
  for (const auto& item : layer.named_modules("", /*include_self=*/true)) {
    const auto* found = copies.find(item.key());
    const auto& original = *item.value();
    const auto& cloned = found ? **found : original;
    if (!found || typeid(cloned) != typeid(original)) {
      refuse_layer(
          layer,
          "its clone has another type of module at \"" + item.key() +
              "\"; a type that derives from torchlora::nn::Adaptable names "
              "itself as Self");
    }
    if (assigned_weight(*item.value())) {
      refuse_layer(
          layer,
          "\"" + item.key() +
              "\" computes with a weight that is not its registered "
              "parameter");
    }
    share_parameters(*item.value(), **found, layer);
  }
  return copy;
}

/// Gives the generator the state back that it had: a clone draws the parameters
/// that it then drops, and adapters must not depend on that.
class GeneratorGuard {
 public:
  GeneratorGuard() : state_(read()) {}
  ~GeneratorGuard() {
    std::lock_guard lock(generator_.mutex());
    generator_.set_state(state_);
  }
  GeneratorGuard(const GeneratorGuard&) = delete;
  GeneratorGuard& operator=(const GeneratorGuard&) = delete;

 private:
  Tensor read() {
    std::lock_guard lock(generator_.mutex());
    return generator_.get_state();
  }

  at::Generator generator_ = at::detail::getDefaultCPUGenerator();
  Tensor state_;
};

} // namespace

Replication::Replication(
    Module& model,
    const LoraConfig& config,
    const InjectOptions& options) {
  if (config.layer_replication().empty()) {
    return;
  }
  TORCH_CHECK_VALUE(
      lora_sites(model).empty(),
      "[layer_replication] the model is adapted already; its first adapter "
      "tells how it is built");
  TORCH_CHECK_VALUE(
      options.init_statistics().empty(),
      "[layer_replication] the statistics of the initializer are of the model "
      "as it was");
  const auto list = find_layers(model);
  const Layers original(list->begin(), list->end());
  const auto size = static_cast<int64_t>(original.size());
  torch::NoGradGuard no_grad;
  const GeneratorGuard generator;
  Layers layers;
  std::vector<bool> is_used(original.size());
  for (const auto& [start, end] : config.layer_replication()) {
    TORCH_CHECK_VALUE(
        0 <= start && start < end && end <= size,
        "[layer_replication] the ranges must be [start, end) of the model's ",
        size,
        " layers, found [",
        start,
        ", ",
        end,
        "]");
    for (auto i = static_cast<size_t>(start); i < static_cast<size_t>(end);
         ++i) {
      layers.push_back(is_used[i] ? replica(*original[i]) : original[i]);
      is_used[i] = true;
    }
  }
  replace(*list, layers);
  list_ = list;
  original_ = original;
}

Replication::~Replication() {
  if (list_) {
    replace(*list_, original_);
  }
}

/// The list is the object that the model's typed member points at.
void Replication::replace(
    torch::nn::ModuleListImpl& list,
    const Layers& layers) {
  torch::nn::ModuleListImpl empty;
  empty.train(list.is_training());
  list = static_cast<const torch::nn::ModuleListImpl&>(empty);
  list.extend(layers);
}

LoraConfig for_replicated(
    LoraConfig config,
    const LoraConfig::LayerRanges& layer_replication) {
  TORCH_CHECK_VALUE(
      config.layer_replication().empty() ||
          config.layer_replication() == layer_replication,
      "[layer_replication] only the first adapter of a model tells how it is "
      "built; another one has the same layer_replication or none");
  return config.layer_replication(layer_replication);
}

} // namespace torchlora
