#include "io/match_tensors.h"

#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/types.h>

#include <torchlora/error.h>

namespace torchlora::io {

std::string file_key(const std::string& module, const std::string& tensor) {
  return kFilePrefix + module + "." + tensor;
}

std::vector<AdapterTensorSpec>
specs_of(const ModuleSite& site, int64_t r, const LoraConfig& config) {
  return adapter_tensor_specs(
      site.layer ? site.layer->factor_names() : site.type->factor_names,
      site.base_weight(),
      r,
      config);
}

namespace {

/// Embedding tables and output heads that PEFT saves beside an adapter that
/// targets them: taken out of `unexpected`, and added to what the adapter owns
/// where they are not the base model's.
void match_tables(
    const AdapterFile& file,
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

} // namespace

std::vector<at::Tensor> match_tensors(
    const AdapterFile& file,
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
    owned.value = take(kFilePrefix + owned.key, owned.tensor.sizes());
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

} // namespace torchlora::io
