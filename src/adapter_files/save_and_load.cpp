#include <algorithm>

#include <torch/types.h>

#include <torchlora/adapter_files/adapter_config.h>
#include <torchlora/error.h>
#include <torchlora/io/atomic_file.h>
#include <torchlora/io/safetensors.h>
#include <torchlora/lora/variant.h>
#include <torchlora/model.h>

#include "adapter_files/adapter_file.h"
#include "adapter_files/blame_file.h"
#include "adapter_files/match_tensors.h"
#include "adapter_files/out_proj.h"
#include "adapter_files/saved_config.h"
#include "adapter_files/weight_conversion.h"
#include "lora/check_config.h"
#include "model/inject.h"
#include "model/replicate.h"
#include "model/state.h"

namespace torchlora {
namespace fs = std::filesystem;

namespace {

constexpr auto kWeightsFile = "adapter_model.safetensors";

/// Adds the adapter of a folder, inactive and frozen, and calls `finish` with
/// its plan before its tensors are filled. `state` is nullptr for a model that
/// is not adapted.
void inject_from_folder(
    const char* function,
    Module& model,
    const PeftState* state,
    SavedModules& saved,
    const fs::path& directory,
    const std::string& adapter_name,
    const InjectOptions& options,
    const LoadOptions& load_options,
    const Finish& finish) {
  check_adapter_name(adapter_name, function);
  auto config = load_adapter_config(directory);
  const auto& initializer = init::find_initializer(config.init_lora_weights());
  TORCHLORA_CHECK_DATA(
      init::is_repeatable(config),
      "[",
      function,
      "] the adapter in ",
      directory.string(),
      " was initialized by ",
      config.init_lora_weights().name(),
      ", which changed the base weights as well and cannot be repeated; ",
      initializer.traits.is_convertible
          ? "save it with path_initial_model_for_weight_conversion, then it "
            "fits the original base"
          : "with the base that it made, set init_lora_weights to true in its "
            "adapter_config.json");
  auto file = read_adapter_file(directory);
  std::optional<Replication> replication;
  blame_file(function, directory, [&] {
    if (state) {
      config = for_replicated(config, state->layer_replication);
    } else {
      replication.emplace(model, config);
    }
  });
  config.inference_mode(!load_options.is_trainable());
  auto plan = blame_file(function, directory, [&] {
    return plan_injection(
        model, config, adapter_name, options, /*is_loaded=*/true);
  });
  check_is_base(saved, plan);
  read_out_proj(file, plan, load_options.peft_multihead_attention(), function);
  auto tensors = match_tensors(file, saved, plan, load_options.strict());
  std::vector<Tensor> targets;
  inject(plan, adapter_name, saved, [&](const Layers& layers) {
    for (const auto& layer : layers) {
      for (auto& [key, tensor] : layer->adapter_state(adapter_name)) {
        targets.push_back(std::move(tensor));
      }
    }
    for (const auto& target : plan.tokens) {
      targets.push_back(
          tokens_of(*target.layer)->find_adapter(adapter_name)->delta);
    }
    for (size_t i = 0; i < targets.size(); ++i) {
      if (tensors[i].defined()) { // so that copying cannot fail
        tensors[i] = tensors[i].to(targets[i].options().requires_grad(false));
      }
    }
    finish(plan);
  });
  torch::NoGradGuard no_grad;
  for (size_t i = 0; i < targets.size(); ++i) {
    if (tensors[i].defined()) {
      targets[i].copy_(tensors[i]);
    }
  }
  if (replication) {
    replication->keep();
  }
}

} // namespace

torch::OrderedDict<std::string, Tensor> PeftModel::state_dict(
    const std::string& adapter_name) const {
  state_->adapters.at(adapter_name, "state_dict");
  torch::OrderedDict<std::string, Tensor> tensors;
  for (const auto& site : state_->tuner_layers()) {
    if (site.layer->has(adapter_name)) {
      const auto prefix = site.peft_name.empty() ? "" : site.peft_name + ".";
      for (const auto& [key, tensor] :
           site.layer->adapter_state(adapter_name)) {
        tensors.insert(kFilePrefix + prefix + key, tensor);
      }
    }
  }
  return tensors;
}

void PeftModel::save_pretrained(
    const fs::path& directory,
    const std::vector<std::string>& selected_adapters,
    const fs::path& path_initial_model_for_weight_conversion) const {
  save_pretrained(
      directory,
      SaveOptions()
          .selected_adapters(selected_adapters)
          .path_initial_model_for_weight_conversion(
              path_initial_model_for_weight_conversion));
}

void PeftModel::save_pretrained(
    const fs::path& directory,
    const SaveOptions& options) const {
  state_->check_not_empty("save_pretrained");
  const auto& initial = options.path_initial_model_for_weight_conversion();
  const auto names = options.selected_adapters().empty()
      ? adapter_names()
      : options.selected_adapters();
  for (const auto& name : names) {
    state_->adapters.at(name, "save_pretrained");
  }
  for (const auto& name : names) {
    const auto& adapter = state_->adapters.at(name, "save_pretrained");
    const auto folder = name == "default" ? directory : directory / name;
    std::error_code error;
    fs::create_directories(folder, error);
    TORCH_CHECK(
        !error,
        "[save_pretrained] cannot make the folder ",
        folder.string(),
        ": ",
        error.message());
    NamedTensors tensors;
    for (const auto& item : state_dict(name)) {
      tensors.emplace_back(item.key(), item.value());
    }
    std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
      return a.first < b.first;
    });
    auto config = saved_config(*state_->model, adapter);
    config.inference_mode(true);
    const auto& initializer =
        init::find_initializer(config.init_lora_weights());
    if (!initial.empty()) {
      TORCH_CHECK_VALUE(
          initializer.traits.is_convertible,
          "[save_pretrained] an adapter by ",
          config.init_lora_weights().name(),
          " cannot be converted: without the base that it made it is another "
          "model; save it as it is");
      const auto* variant = find_variant(config);
      TORCH_CHECK_VALUE(
          !variant || variant->is_convertible,
          "[save_pretrained] an adapter with ",
          variant->name,
          " cannot be converted; save it as it is");
      TORCH_CHECK_VALUE(
          config.target_parameters().empty(),
          "[save_pretrained] adapter ",
          name,
          " has target_parameters, whose initializers leave the base as it is: "
          "save it without path_initial_model_for_weight_conversion");
      convert_to_plain_lora(tensors, config, initial);
    } else if (init::is_unknown_to_peft(config.init_lora_weights())) {
      TORCH_CHECK_VALUE(
          !initializer.traits.modifies_base,
          "[save_pretrained] the initializer ",
          config.init_lora_weights().name(),
          " changed the base weights, which adapter_config.json cannot say, as "
          "PEFT does not know the name; ",
          initializer.traits.is_convertible
              ? "pass path_initial_model_for_weight_conversion, a folder whose "
                "adapter_model.safetensors is the adapter's state_dict before "
                "training (io::save_safetensors)"
              : "save state_dict() by io::save_safetensors, with the base that "
                "it made");
    } else if (!init::is_repeatable(config)) {
      TORCH_WARN(
          "[save_pretrained] ",
          config.init_lora_weights().name(),
          " changed the base weights in a way that cannot be repeated: what is "
          "saved fits them only, not the original base",
          initializer.traits.is_convertible
              ? "; pass path_initial_model_for_weight_conversion"
              : "");
    }
    std::map<std::string, std::string> metadata{{"format", "pt"}};
    write_out_proj(
        *state_->model,
        name,
        options.peft_multihead_attention(),
        tensors,
        metadata);
    io::save_safetensors(folder / kWeightsFile, tensors, metadata);
    io::write_file_atomic(
        folder / "adapter_config.json", adapter_config_json(config));
  }
}

void PeftModel::load_adapter(
    const fs::path& directory,
    const std::string& adapter_name,
    const LoadOptions& options) {
  TORCH_CHECK_VALUE(
      !state_->adapters.find(adapter_name),
      "[load_adapter] Adapter with name '",
      adapter_name,
      "' already exists.");
  const DisableAdapterGuard base(*this);
  LoraConfig config;
  in_function("load_adapter", [&] {
    inject_from_folder(
        "load_adapter",
        *state_->model,
        state_.get(),
        *state_->saved,
        directory,
        adapter_name,
        InjectOptions().autocast_adapter_dtype(state_->autocast_adapter_dtype),
        options,
        [&](const InjectionPlan& plan) {
          for (const auto& site : state_->tuner_layers()) {
            site.layer->set_requires_grad(adapter_name, options.is_trainable());
          }
          state_->warn_of_running_statistics(plan, "load_adapter");
          config = plan.config;
        });
  });
  state_->adapters.add({adapter_name, std::move(config)});
}

PeftModel PeftModel::from_pretrained(
    Module& model,
    const fs::path& directory,
    const std::string& adapter_name,
    const LoadOptions& options) {
  auto peft = adapt(
      "from_pretrained",
      model,
      adapter_name,
      [&](SavedModules& saved, const Finish& finish) {
        inject_from_folder(
            "from_pretrained",
            model,
            /*state=*/nullptr,
            saved,
            directory,
            adapter_name,
            InjectOptions(),
            options,
            finish);
      });
  model.train(options.is_trainable());
  return peft;
}

} // namespace torchlora
