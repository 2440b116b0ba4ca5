#include "adapter_files/match_tensors.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/nn/modules/embedding.h>

#include <torchlora/config/targets.h>
#include <torchlora/error.h>
#include <torchlora/nn/pretrained.h>

#include "nn/weight_member.h"
#include "text/first_few.h"

namespace torchlora {
namespace {

std::string file_key(const std::string& module, const std::string& tensor) {
  return kFilePrefix + module + "." + tensor;
}

/// Returns names, as in files, and sizes of the tensors of an adapter in a
/// layer.
std::vector<AdapterTensorSpec>
specs_of(const TargetSite& site, int64_t r, const LoraConfig& config) {
  return adapter_tensor_specs(
      site.layer ? site.layer->factor_names() : site.type->factor_names,
      site.base_weight(),
      r,
      config);
}

/// Whether a tensor of the file can be taken for one of the model: integers are
/// no factors, and a complex number is no real one.
bool is_of_kind(at::ScalarType found, at::ScalarType expected) {
  return at::isComplexType(expected)
      ? at::isComplexType(found) || at::isFloatingType(found)
      : !at::isComplexType(found) &&
          at::isFloatingType(found) == at::isFloatingType(expected);
}

bool is_table(Module& model, const TargetSite& site) {
  const auto& module = site.layer ? site.layer->base_layer() : site.module;
  std::vector<std::string> heads{"lm_head"};
  if (const auto* pretrained = dynamic_cast<nn::PretrainedModel*>(&model)) {
    heads = pretrained->output_embeddings();
  }
  return module->as<torch::nn::EmbeddingImpl>() ||
      std::ranges::any_of(heads, [&](const auto& head) {
           return names_module(head, site.name);
         });
}

/// Handles embedding tables and output heads, which PEFT saves beside an
/// adapter that targets them: removes them from `unexpected` and adds those
/// that differ from the base model's to the adapter's saved tensors.
void match_tables(
    const AdapterFile& file,
    Module& model,
    const SavedModules& versions,
    std::set<std::string>& unexpected,
    std::vector<SavedTensor>& saved) {
  if (unexpected.empty()) {
    return;
  }
  for (const auto& site : target_sites(model)) {
    if (!site.is_adaptable() || !is_table(model, site)) {
      continue;
    }
    const auto weight = site.base_weight().weight();
    for (const char* name :
         {"base_layer.weight", "token_adapter.base_layer.weight", "weight"}) {
      const auto key = file_key(site.peft_name, name);
      if (!unexpected.contains(key) ||
          file.tensors.at(key).sizes() != weight.sizes() ||
          !is_of_kind(
              file.tensors.at(key).scalar_type(), weight.scalar_type())) {
        continue;
      }
      unexpected.erase(key);
      auto value = file.tensors.at(key).to(weight.options());
      const bool is_saved = std::ranges::any_of(
          saved, [&](const auto& one) { return one.tensor.is_same(weight); });
      if (!is_saved &&
          !at::equal(value, versions.base(weight).to(weight.options()))) {
        saved.push_back(
            {site.peft_name + "." + name, weight, value, /*trains=*/false});
      }
    }
  }
}

/// Says why tensors are unexpected that PEFT took by the end of a name.
std::string note_of_saved_modules(
    const std::set<std::string>& unexpected,
    const LoraConfig& config) {
  for (const auto& entry : config.modules_to_save()) {
    for (const auto& key : unexpected) {
      const auto begin = key.starts_with(kFilePrefix)
          ? std::string_view(kFilePrefix).size()
          : 0;
      for (auto dot = key.find('.', begin); dot != std::string::npos;
           dot = key.find('.', dot + 1)) {
        const auto module = key.substr(begin, dot - begin);
        if (module.ends_with(entry) && !names_module(entry, module)) {
          return fmt::format(
              "\n  PEFT looks at the end of a name only, so that its "
              "modules_to_save \"{}\" took \"{}\" too: name both in "
              "adapter_config.json",
              entry,
              module);
        }
      }
    }
  }
  return "";
}

} // namespace

std::vector<Tensor> match_tensors(
    const AdapterFile& file,
    const SavedModules& versions,
    InjectionPlan& plan,
    bool strict) {
  std::vector<Tensor> tensors;
  std::vector<std::string> missing, misshaped, mistyped;
  std::set<std::string> unexpected;
  for (const auto& item : file.tensors) {
    unexpected.insert(item.first);
  }
  const auto take =
      [&](const std::string& key, at::IntArrayRef sizes, at::ScalarType dtype) {
        const auto found = file.tensors.find(key);
        if (found == file.tensors.end()) {
          missing.push_back(key);
          return Tensor();
        }
        unexpected.erase(key);
        if (found->second.sizes() != sizes) {
          misshaped.push_back(fmt::format(
              "{} is [{}], expected [{}]",
              key,
              fmt::join(found->second.sizes(), ", "),
              fmt::join(sizes, ", ")));
          return Tensor();
        }
        if (const auto found_dtype = found->second.scalar_type();
            !is_of_kind(found_dtype, dtype)) {
          mistyped.push_back(fmt::format(
              "{} is {}, expected {}",
              key,
              c10::toString(found_dtype),
              c10::toString(dtype)));
          return Tensor();
        }
        return found->second;
      };
  for (const auto& target : plan.targets) {
    const auto& site = target.site;
    const auto dtype = site.base_weight().weight().scalar_type();
    for (const auto& [name, sizes] : specs_of(site, target.r, plan.config)) {
      const auto other = file_key(site.name, name);
      tensors.push_back(take(
          file.tensors.contains(other) ? other : file_key(site.peft_name, name),
          sizes,
          dtype));
    }
  }
  for (const auto& target : plan.tokens) {
    tensors.push_back(take(
        kFilePrefix + target.key(),
        target.sizes(),
        nn::weight_member(*target.layer)->scalar_type()));
  }
  for (auto& saved : plan.saved) {
    saved.value = take(
        kFilePrefix + saved.key,
        saved.tensor.sizes(),
        saved.tensor.scalar_type());
  }
  if (plan.config.bias() == "all") {
    // NOTE: PEFT's files have the biases of modules_to_save three times.
    std::erase_if(unexpected, [](const std::string& key) {
      return key.ends_with(".original_module.bias") ||
          key.ends_with(".modules_to_save.bias");
    });
  }
  match_tables(file, *plan.model, versions, unexpected, plan.saved);
  const auto list = [](const auto& keys, const char* what) {
    return keys.empty() ? std::string()
                        : fmt::format(
                              "\n  {} ({}): {}",
                              what,
                              keys.size(),
                              detail::first_few({keys.begin(), keys.end()}));
  };
  const auto complaint = list(missing, "missing") +
      list(unexpected, "unexpected") + list(misshaped, "of other sizes") +
      list(mistyped, "of another kind of number");
  const auto message = "[load_adapter] " + file.path.string() +
      " does not fit this model and its adapter_config.json:" + complaint +
      note_of_saved_modules(unexpected, plan.config);
  TORCHLORA_CHECK_DATA(complaint.empty() || !strict, message);
  if (!complaint.empty()) {
    TORCH_WARN(message);
  }
  return tensors;
}

} // namespace torchlora
