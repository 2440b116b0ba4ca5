#include "model/untie.h"

#include <algorithm>

#include <c10/util/Exception.h>
#include <torch/types.h>

namespace torchlora {
namespace {

/// The parameters that a module registers itself, to change.
torch::OrderedDict<std::string, at::Tensor>& parameters_of(
    torch::nn::Module& module) {
  struct Access : torch::nn::Module {
    static auto member() {
      return &Access::parameters_;
    }
  };
  return module.*Access::member();
}

std::shared_ptr<torch::nn::Module> base_layer_of(const TargetSite& site) {
  auto module = site.layer->base_layer();
  while (const auto* layer = dynamic_cast<LoraLayer*>(module.get())) {
    module = layer->base_layer();
  }
  return module;
}

/// The module in a base layer that has the tensors.
std::shared_ptr<torch::nn::Module> owner_in(
    const std::shared_ptr<torch::nn::Module>& base_layer,
    const std::string& path) {
  return path.empty() ? base_layer : base_layer->named_modules()[path];
}

/// nullptr if it is not registered.
at::Tensor* registered(torch::nn::Module& owner, const at::Tensor& tensor) {
  for (auto& item : parameters_of(owner)) {
    if (item.value().is_same(tensor)) {
      return &item.value();
    }
  }
  return nullptr;
}

/// For its lifetime every base layer has its own tensors as its members, where
/// an overlay stands in for them.
class Unbound {
 public:
  explicit Unbound(torch::nn::Module& model) : sites_(lora_sites(model)) {
    for (const auto& site : sites_) {
      site.layer->unbind();
    }
  }
  ~Unbound() {
    for (const auto& site : sites_) {
      site.layer->bind();
    }
  }
  Unbound(const Unbound&) = delete;
  Unbound& operator=(const Unbound&) = delete;

 private:
  std::vector<TargetSite> sites_;
};

} // namespace

Untied::Untied(
    torch::nn::Module& model,
    const std::vector<WrittenTensor>& written)
    : model_(model) {
  const Unbound unbound(model);
  try {
    for (const auto& item : written) {
      untie(item);
    }
  } catch (...) {
    undo();
    throw;
  }
}

Untied::~Untied() {
  undo();
}

void Untied::undo() noexcept {
  if (undo_.empty()) {
    return;
  }
  const Unbound unbound(model_);
  for (; !undo_.empty(); undo_.pop_back()) {
    undo_.back()();
  }
}

/// A weight that was assigned past its registered parameter becomes that.
void Untied::enter_assigned(torch::nn::Module& module) {
  const auto* weight = assigned_weight(module);
  auto* entry = weight ? parameters_of(module).find("weight") : nullptr;
  if (entry) {
    undo_.push_back([entry, owner = module.shared_from_this(), old = *entry] {
      *entry = old;
    });
    *entry = *weight;
  }
}

void Untied::untie(const WrittenTensor& written) {
  const auto& site = written.site;
  const auto tensor = written.tensor();
  const auto ties = ties_of(model_, *site.layer, tensor);
  const auto base_layer = base_layer_of(site);
  const auto owner = owner_in(base_layer, site.base_weight().path());
  enter_assigned(*owner);
  if (ties.empty()) {
    return;
  }
  for (const auto& tie : ties) {
    if (tie.module) {
      enter_assigned(*tie.module);
    }
  }
  const auto copy =
      tensor.detach().clone().set_requires_grad(tensor.requires_grad());
  auto* entry = registered(*owner, tensor);
  if (entry && std::ranges::none_of(ties, &Tie::is_same)) {
    undo_.push_back(
        [tensor, shared = tensor.detach()] { tensor.set_data(shared); });
    tensor.set_data(copy);
  } else {
    const auto type = site.kind != TargetSite::kParameter
        ? LoraRegistry::global().find(*base_layer)
        : nullptr;
    const auto member = type && type->rebind
        ? type->rebind(*base_layer, tensor, copy)
        : std::string();
    TORCH_CHECK_VALUE(
        !member.empty(),
        "[untie_weights] \"",
        site.name,
        "\" and \"",
        ties.front().name,
        "\" are one tensor, which a ",
        base_layer->name(),
        " does not let go of; give one of them a copy of its own");
    undo_.push_back([type, base_layer, tensor, copy] {
      type->rebind(*base_layer, copy, tensor);
    });
    entry = entry ? entry : parameters_of(*owner).find(member);
    if (entry) {
      undo_.push_back([entry, owner, old = *entry] { *entry = old; });
      *entry = copy;
    }
  }
  const auto rest = ties_of(model_, *site.layer, written.tensor());
  TORCH_CHECK_VALUE(
      rest.empty(),
      "[untie_weights] \"",
      site.name,
      "\" cannot be untied from \"",
      rest.empty() ? "" : rest.front().name,
      "\", which computes from its tensor wherever that is");
}

} // namespace torchlora
