#include <unordered_set>

#include <torch/nn/modules/activation.h>

#include <torchlora/lora/layers/experts.h>

#include "model/sites.h"
#include "model/token_rows.h"

namespace torchlora {
namespace {

std::vector<std::string> adapted_children(Module& layer) {
  if (const auto* redirectable = dynamic_cast<nn::Redirectable*>(&layer)) {
    return redirectable->adapted_children();
  }
  return layer.as<torch::nn::MultiheadAttentionImpl>()
      ? std::vector<std::string>{"out_proj"}
      : std::vector<std::string>();
}

/// The children that are adapted together with a layer.
void visit_parts(
    const std::string& name,
    const std::string& peft_name,
    Module& layer,
    std::vector<TargetSite>& sites) {
  for (const auto& child : adapted_children(layer)) {
    const auto module = layer.named_children()[child];
    TargetSite site{
        name + "." + child,
        module,
        &layer,
        child,
        std::dynamic_pointer_cast<LoraLayer>(module),
        nullptr,
        peft_name + ".base_layer." + child,
        TargetSite::kPart};
    site.type = site.layer ? nullptr : LoraRegistry::global().find(*module);
    sites.push_back(std::move(site));
  }
}

void visit(
    Module& parent,
    const std::string& prefix,
    std::unordered_set<Module*>& seen,
    std::vector<TargetSite>& sites) {
  for (const auto& child : parent.named_children()) {
    if (!seen.insert(child.value().get()).second) {
      continue;
    }
    auto module = child.value();
    while (const auto* layer = dynamic_cast<LoraExperts*>(module.get())) {
      module = layer->base_layer();
    }
    TargetSite site{
        prefix + child.key(),
        module,
        &parent,
        child.key(),
        nullptr,
        nullptr,
        ""};
    site.layer = std::dynamic_pointer_cast<LoraLayer>(module);
    site.type = site.layer ? nullptr : LoraRegistry::global().find(*module);
    const bool is_leaf = site.is_adaptable();
    const auto path = is_leaf ? site.base_weight().path() : "";
    site.peft_name = path.empty() ? site.name : site.name + "." + path;
    sites.push_back(site);
    if (is_leaf) {
      visit_parts(
          site.name,
          site.peft_name,
          site.layer ? *site.layer->base_layer() : *module,
          sites);
    } else {
      visit_parameters(site, child.value(), sites);
      visit(*module, prefix + child.key() + ".", seen, sites);
    }
  }
}

} // namespace

void remove_layer(const TargetSite& site) {
  site.layer->unload();
  auto base_layer = site.layer->base_layer();
  while (const auto* layer = dynamic_cast<LoraLayer*>(base_layer.get())) {
    base_layer = layer->base_layer();
  }
  site.parent->replace_module(site.child_name, base_layer);
}

std::string name_without_layers(
    std::string name,
    const std::vector<TargetSite>& layers) {
  for (const auto& site : layers) {
    const auto prefix = site.prefix();
    const auto base = prefix + "base_layer.";
    if (name.starts_with(base)) {
      name.replace(0, base.size(), prefix);
    } else if (name.starts_with(prefix)) {
      return "";
    }
  }
  return name;
}

std::vector<TargetSite> target_sites(Module& model) {
  std::vector<TargetSite> sites;
  std::unordered_set<Module*> seen{&model};
  // An adapted layer that has another name too is there still as itself.
  for (const auto& module : model.modules(/*include_self=*/false)) {
    if (const auto* layer = dynamic_cast<LoraLayer*>(module.get())) {
      seen.insert(layer->base_layer().get());
    }
  }
  visit(model, "", seen, sites);
  return sites;
}

std::vector<TargetSite> lora_sites(Module& model) {
  auto sites = target_sites(model);
  std::erase_if(sites, [](const auto& site) { return !site.layer; });
  return sites;
}

std::vector<TunerSite> tuner_layers(Module& model) {
  std::vector<TunerSite> result;
  for (const auto& site : lora_sites(model)) {
    result.push_back({site.name, site.peft_name, site.layer});
  }
  for (auto& site : token_sites(model)) {
    result.push_back(std::move(site));
  }
  return result;
}

std::vector<TunerSite> token_sites(Module& model) {
  std::vector<TunerSite> result;
  for (const auto& [name, tokens] : token_adapters(model)) {
    result.push_back({name + "." + TrainableTokens::kName, name, tokens});
  }
  return result;
}

} // namespace torchlora
