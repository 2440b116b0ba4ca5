#include <algorithm>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/types.h>

#include <torchlora/error.h>
#include <torchlora/io/atomic_file.h>
#include <torchlora/io/peft.h>
#include <torchlora/io/safetensors.h>
#include <torchlora/model.h>

#include "io/adapter_file.h"
#include "io/saved_config.h"
#include "io/weight_conversion.h"
#include "model_state.h"

namespace torchlora {
namespace fs = std::filesystem;

namespace {

constexpr auto kWeightsFile = "adapter_model.safetensors";
constexpr auto kPrefix = "base_model.model.";

std::string file_key(const std::string& module, const std::string& tensor) {
  return kPrefix + module + "." + tensor;
}

/// The tensors of an adapter in a layer, as the files call them.
std::vector<AdapterTensorSpec>
specs_of(const ModuleSite& site, int64_t r, const LoraConfig& config) {
  return adapter_tensor_specs(
      site.layer ? site.layer->factor_names() : site.type->factor_names,
      site.base_weight(),
      r,
      config);
}

/// Embedding tables and output heads that PEFT saves beside an adapter that
/// targets them: taken out of `unexpected`, and added to what the adapter owns
/// where they are not the base model's.
void match_tables(
    const io::AdapterFile& file,
    torch::nn::Module& model,
    std::set<std::string>& unexpected,
    std::vector<OwnedTensor>& owned) {
  for (const auto& site : module_sites(model)) {
    if (!site.layer && !site.type) {
      continue;
    }
    const auto weight = site.base_weight().weight();
    for (const char* name : {"base_layer.weight", "weight"}) {
      const auto key = file_key(site.peft_name, name);
      if (!unexpected.contains(key) ||
          file.tensors.at(key).sizes() != weight.sizes()) {
        continue;
      }
      unexpected.erase(key);
      auto value = file.tensors.at(key).to(weight.options());
      if (!at::equal(value, weight.detach())) {
        owned.push_back(
            {site.peft_name + "." + name, weight, value, /*trains=*/false});
      }
    }
  }
}

/// The tensors of a file for a plan's layers, in the order of
/// `LoraAdapter::tensors`, layer by layer; those that the adapter owns are put
/// into the plan.
std::vector<at::Tensor> match_tensors(
    const io::AdapterFile& file,
    torch::nn::Module& model,
    InjectionPlan& plan) {
  std::vector<at::Tensor> tensors;
  std::vector<std::string> missing, misshaped;
  std::set<std::string> unexpected;
  for (const auto& item : file.tensors) {
    unexpected.insert(item.first);
  }
  const auto take = [&](const std::string& key, at::IntArrayRef sizes) {
    const auto found = file.tensors.find(key);
    if (found == file.tensors.end()) {
      missing.push_back(key);
      return at::Tensor();
    }
    unexpected.erase(key);
    if (found->second.sizes() != sizes) {
      misshaped.push_back(fmt::format(
          "{} is [{}], expected [{}]",
          key,
          fmt::join(found->second.sizes(), ", "),
          fmt::join(sizes, ", ")));
      return at::Tensor();
    }
    return found->second;
  };
  for (const auto& target : plan.targets) {
    const auto& site = target.site;
    for (const auto& [name, sizes] : specs_of(site, target.r, plan.config)) {
      const auto other = file_key(site.name, name);
      tensors.push_back(take(
          file.tensors.contains(other) ? other : file_key(site.peft_name, name),
          sizes));
    }
  }
  for (auto& owned : plan.owned) {
    owned.value = take(kPrefix + owned.key, owned.tensor.sizes());
  }
  if (plan.config.bias() == "all") {
    // NOTE: PEFT's files have the biases of modules_to_save three times.
    std::erase_if(unexpected, [](const std::string& key) {
      return key.ends_with(".original_module.bias") ||
          key.ends_with(".modules_to_save.bias");
    });
  }
  match_tables(file, model, unexpected, plan.owned);
  const auto list = [](const auto& keys, const char* what) {
    std::vector<std::string> shown(
        keys.begin(),
        std::next(
            keys.begin(),
            std::min<std::ptrdiff_t>(
                8, static_cast<std::ptrdiff_t>(keys.size()))));
    return keys.empty() ? std::string()
                        : fmt::format(
                              "\n  {} ({}): {}{}",
                              what,
                              keys.size(),
                              fmt::join(shown, ", "),
                              keys.size() > shown.size() ? ", …" : "");
  };
  TORCHLORA_CHECK_DATA(
      missing.empty() && misshaped.empty() && unexpected.empty(),
      "[load_adapter] ",
      file.path.string(),
      " does not fit this model and its adapter_config.json:",
      list(missing, "missing"),
      list(unexpected, "unexpected"),
      list(misshaped, "of other sizes"));
  return tensors;
}

/// Adds the adapter of a folder, inactive and frozen, but for the tensors it
/// owns.
InjectionPlan inject_from_folder(
    torch::nn::Module& model,
    const fs::path& directory,
    const std::string& adapter_name,
    bool autocast_adapter_dtype) {
  auto config = io::load_adapter_config(directory);
  const auto& init = config.init_lora_weights();
  TORCHLORA_CHECK_DATA(
      !init::changes_the_base_for_good(config),
      "[load_adapter] the adapter in ",
      directory.string(),
      " was initialised by ",
      init.name(),
      ", which changed the base weights as well and cannot be repeated; ",
      init.name() == "loftq"
          ? "with the quantised base, set init_lora_weights to true in its "
            "adapter_config.json"
          : "save it with path_initial_model_for_weight_conversion, then it "
            "fits the original base");
  const auto file = io::read_adapter_file(directory);
  auto plan = plan_injection(model, config, adapter_name);
  plan.is_loaded = true;
  const auto tensors = match_tensors(file, model, plan);
  const auto layers = inject(plan, adapter_name, autocast_adapter_dtype);
  torch::NoGradGuard no_grad;
  auto next = tensors.begin();
  for (const auto& layer : layers) {
    for (auto& tensor : layer->find_adapter(adapter_name)->tensors()) {
      tensor.copy_(*next++);
    }
  }
  return plan;
}

} // namespace

torch::OrderedDict<std::string, torch::Tensor> PeftModel::state_dict(
    const std::string& adapter_name) const {
  const auto& config = state_->at(adapter_name).config;
  torch::OrderedDict<std::string, torch::Tensor> tensors;
  for (const auto& site : lora_sites(*state_->model)) {
    if (const auto* adapter = site.layer->find_adapter(adapter_name)) {
      auto values = adapter->tensors();
      auto next = values.begin();
      for (const auto& spec : specs_of(site, adapter->r, config)) {
        tensors.insert(file_key(site.peft_name, spec.key), *next++);
      }
    }
  }
  for (const auto& [key, tensor] : state_->versions.tensors(adapter_name)) {
    tensors.insert(kPrefix + key, tensor);
  }
  return tensors;
}

void PeftModel::save_pretrained(
    const fs::path& directory,
    const std::vector<std::string>& selected_adapters,
    const fs::path& path_initial_model_for_weight_conversion) const {
  for (const auto& name :
       selected_adapters.empty() ? adapter_names() : selected_adapters) {
    const auto& adapter = state_->at(name);
    const auto folder = name == "default" ? directory : directory / name;
    std::error_code error;
    fs::create_directories(folder, error);
    TORCH_CHECK(
        !error,
        "[save_pretrained] cannot make the folder ",
        folder.string(),
        ": ",
        error.message());
    std::vector<std::pair<std::string, at::Tensor>> tensors;
    for (const auto& item : state_dict(name)) {
      tensors.emplace_back(item.key(), item.value());
    }
    std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
      return a.first < b.first;
    });
    auto config = io::saved_config(*state_->model, adapter);
    config.inference_mode(true);
    if (!path_initial_model_for_weight_conversion.empty()) {
      TORCH_CHECK_VALUE(
          !(config.init_lora_weights() == InitLoraWeights("loftq")),
          "[save_pretrained] an adapter by loftq cannot be converted: without "
          "the quantised base it is another model; save it as it is");
      TORCH_CHECK_VALUE(
          config.target_parameters().empty(),
          "[save_pretrained] adapter ",
          name,
          " has target_parameters, whose initialisers leave the base as it is: "
          "save it without path_initial_model_for_weight_conversion");
      io::convert_to_plain_lora(
          tensors, config, path_initial_model_for_weight_conversion);
    } else if (init::changes_the_base_for_good(config)) {
      const auto& init = config.init_lora_weights().name();
      TORCH_WARN(
          "[save_pretrained] ",
          init,
          " changed the base weights in a way that cannot be repeated: what is "
          "saved fits them only, not the original base",
          init == "loftq" ? ""
                          : "; pass path_initial_model_for_weight_conversion");
    }
    io::save_safetensors(folder / kWeightsFile, tensors);
    io::write_file_atomic(
        folder / "adapter_config.json", io::adapter_config_json(config));
  }
}

void PeftModel::load_adapter(
    const fs::path& directory,
    const std::string& adapter_name,
    bool is_trainable) {
  TORCH_CHECK_VALUE(
      !state_->find(adapter_name),
      "[load_adapter] Adapter with name '",
      adapter_name,
      "' already exists.");
  auto plan = inject_from_folder(
      *state_->model, directory, adapter_name, state_->autocast_adapter_dtype);
  plan.config.inference_mode(!is_trainable);
  state_->versions.add(adapter_name, plan.owned);
  state_->adapters.push_back({adapter_name, std::move(plan.config)});
}

PeftModel PeftModel::from_pretrained(
    torch::nn::Module& model,
    const fs::path& directory,
    const std::string& adapter_name,
    bool is_trainable) {
  auto peft = adapt(model, adapter_name, [&] {
    return inject_from_folder(
        model, directory, adapter_name, /*autocast_adapter_dtype=*/true);
  });
  peft.state_->adapters.back().config.inference_mode(!is_trainable);
  peft.set_adapter({adapter_name}, /*inference_mode=*/!is_trainable);
  model.train(is_trainable);
  return peft;
}

} // namespace torchlora
