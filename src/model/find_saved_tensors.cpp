#include <algorithm>
#include <unordered_set>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/types.h>

#include <torchlora/config/targets.h>

#include <torchlora/detail/names.h>

#include "lora/dtypes.h"
#include "model/saved_modules.h"
#include "model/targets.h"
#include "model/ties.h"
#include "model/token_rows.h"

namespace torchlora {
namespace {

/// Heads that PEFT adds to `modules_to_save` by the task type.
std::vector<std::string> heads_of(const std::string& task_type) {
  if (task_type == "SEQ_CLS" || task_type == "TOKEN_CLS") {
    return {"classifier", "score"};
  }
  return task_type == "QUESTION_ANS" ? std::vector<std::string>{"qa_outputs"}
                                     : std::vector<std::string>();
}

class Collector {
 public:
  explicit Collector(Module& model) : ties_(model) {}

  void add(const std::string& key, const Tensor& tensor, bool trains = true) {
    TORCH_CHECK_VALUE(
        !trains || is_trainable_dtype(tensor.scalar_type()),
        "[get_peft_model] \"",
        key,
        "\" cannot be trained, as it is ",
        tensor.scalar_type(),
        "; take its module out of modules_to_save");
    TORCH_CHECK_VALUE(
        !tensor.is_inference(),
        "[get_peft_model] \"",
        key,
        "\" is an inference tensor, which cannot be trained; make the model "
        "outside of InferenceMode");
    if (seen_.insert(tensor.unsafeGetTensorImpl()).second) {
      result_.push_back({key, tensor, {}, trains});
    }
  }

  void add_bias(const std::string& key, const Tensor& bias) {
    for (const auto& tie : ties_.of(/*module=*/nullptr, bias)) {
      TORCH_CHECK_VALUE(
          tie.is_same,
          "[get_peft_model] the bias \"",
          key,
          "\" shares its memory with \"",
          tie.name,
          "\" without being the same tensor, so that the two would be trained "
          "apart; make both the same tensor, or give one of them a copy of its "
          "own");
    }
    add(key, bias);
  }

  /// A module with its parameters and buffers.
  void add_module(const std::string& name, Module& module, bool may_be_tied) {
    for (const auto& inner : module.modules()) {
      TORCH_CHECK_VALUE(
          !std::dynamic_pointer_cast<LoraLayer>(inner),
          "[get_peft_model] \"",
          name,
          "\" is adapted by another adapter (or has a layer that is) and "
          "cannot be in modules_to_save");
      const auto* weight = assigned_weight(*inner);
      TORCH_CHECK_VALUE(
          !weight,
          "[get_peft_model] \"",
          name,
          "\" of modules_to_save computes with a weight that was assigned past "
          "its registered parameter (that of \"",
          weight ? ties_.first_of(&module, *weight).value_or(Tie()).name : "",
          "\"); tie it by register_parameter, or save the other module");
    }
    for (const auto& item : module.named_parameters()) {
      const auto tie = ties_.first_of(&module, item.value());
      TORCH_CHECK_VALUE(
          !tie || (may_be_tied && tie->is_same),
          "[get_peft_model] \"",
          name,
          "\" of modules_to_save is tied to \"",
          tie ? tie->name : "",
          tie && !tie->is_same
              ? "\" by memory only; make both the same tensor"
              : "\", which would be trained too; set ensure_weight_tying if "
                "that is meant",
          ", or give one of them a copy of its own");
      add(name + "." + item.key(), item.value());
    }
    for (const auto& item : module.named_buffers()) {
      add(name + "." + item.key(), item.value(), /*trains=*/false);
    }
  }

  std::vector<SavedTensor> result() && {
    return std::move(result_);
  }

 private:
  Ties ties_;
  std::vector<SavedTensor> result_;
  std::unordered_set<at::TensorImpl*> seen_;
};

/// Names as in PEFT's files, whatever other adapters the model has: the bias
/// of a layer that this one adapts is its base layer's.
void add_biases(
    Module& model,
    const LoraConfig& config,
    const std::vector<TargetSite>& adapted,
    Collector& tensors) {
  for (const auto& site : adapted) {
    // NOTE: PEFT knows a bias by its name, and in_proj_bias not.
    const auto& owner = site.layer ? *site.layer->base_layer() : *site.module;
    const auto bias = site.base_weight().bias();
    for (const auto& item : owner.named_parameters()) {
      if (bias.defined() && item.value().is_same(bias) &&
          names_module("bias", item.key())) {
        tensors.add_bias(site.peft_name + ".base_layer.bias", bias);
      }
    }
  }
  if (config.bias() == "lora_only") {
    return;
  }
  const auto layers = lora_sites(model);
  for (const auto& item : model.named_parameters()) {
    if (const auto name = name_without_layers(item.key(), layers);
        names_module("bias", name)) {
      tensors.add_bias(name, item.value());
    }
  }
}

} // namespace

void add_task_heads(Module& model, LoraConfig& config) {
  for (const auto& head : heads_of(config.task_type())) {
    for (const auto& item : model.named_modules("", /*include_self=*/false)) {
      if (names_module(head, item.key()) &&
          !detail::contains(config.modules_to_save(), head)) {
        config.modules_to_save().push_back(head);
      }
    }
  }
}

std::vector<SavedTensor> find_saved_tensors(
    Module& model,
    const LoraConfig& config,
    const std::vector<TargetSite>& adapted,
    bool is_loaded) {
  if (config.modules_to_save().empty() && config.bias() == "none") {
    return {};
  }
  Collector tensors(model);
  std::vector<std::string> unmatched;
  const auto layers = lora_sites(model);
  for (const auto& entry : config.modules_to_save()) {
    bool found = false;
    for (const auto& item : model.named_modules("", /*include_self=*/false)) {
      const auto& name = item.key();
      const auto layer = std::ranges::find_if(layers, [&](const auto& site) {
        return name.starts_with(site.prefix());
      });
      const bool is_inside = layer != layers.end();
      if (!names_module(entry, name) ||
          (is_inside && !name.starts_with(layer->prefix() + "base_layer"))) {
        continue; // an adapter's tensors are no module of the model
      }
      TORCH_CHECK_VALUE(
          !is_inside,
          "[get_peft_model] \"",
          name,
          "\" is a part of a layer that is adapted by another adapter and "
          "cannot be in modules_to_save");
      tensors.add_module(name, *item.value(), config.ensure_weight_tying());
      found = true;
    }
    if (!found && !detail::contains(heads_of(config.task_type()), entry)) {
      unmatched.push_back(entry);
    }
  }
  TORCH_CHECK_VALUE(
      unmatched.empty() || is_loaded,
      fmt::format(
          "[get_peft_model] modules_to_save names no module of the model by "
          "'{}', which would not be trained; check the names, or leave them "
          "out",
          fmt::join(unmatched, "', '")));
  warn_unused("modules_to_save", unmatched, "are no modules of the model");
  if (config.bias() != "none") {
    add_biases(model, config, adapted, tensors);
  }
  auto saved = std::move(tensors).result();
  for (const auto& [name, tokens] : token_adapters(model)) {
    for (const auto& item : saved) {
      TORCH_CHECK_VALUE(
          !overlap(item.tensor, tokens->weight()),
          "[get_peft_model] \"",
          name,
          "\" has trainable_token_indices by another adapter and cannot be in "
          "modules_to_save");
    }
  }
  const auto half = std::ranges::find_if(saved, [](const SavedTensor& item) {
    return item.trains && at::isReducedFloatingType(item.tensor.scalar_type());
  });
  if (half != saved.end() && !config.inference_mode()) {
    TORCH_WARN(
        half->key,
        " is trained in ",
        half->tensor.scalar_type(),
        ", in which small steps round away; load the model in fp32 to keep "
        "them");
  }
  return saved;
}

} // namespace torchlora
