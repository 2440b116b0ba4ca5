#include <torchlora/lora/layer.h>

#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/types.h>

namespace torchlora {
namespace {

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::shared_ptr<LoraFactor> make_factor(
    const at::Tensor& value,
    const at::Tensor& base_weight,
    bool autocast_adapter_dtype) {
  auto tensor = value.to(base_weight.options().requires_grad(false));
  if (autocast_adapter_dtype && tensor.element_size() < 4) {
    tensor = tensor.to(at::kFloat);
  }
  auto factor = std::make_shared<LoraFactor>(tensor);
  factor->weight.set_requires_grad(false);
  return factor;
}

} // namespace

LoraLayer::LoraLayer(
    std::shared_ptr<torch::nn::Module> base_layer,
    BaseWeightAccessor accessor)
    : torch::nn::Module("torchlora::LoraLayer"),
      base_layer_(std::move(base_layer)),
      redirectable_(dynamic_cast<nn::Redirectable*>(base_layer_.get())),
      accessor_(std::move(accessor)) {
  TORCH_CHECK_VALUE(
      redirectable_,
      "[LoraLayer] the base layer must be a torchlora::nn::Redirectable, ",
      base_layer_->name(),
      " is not");
  register_module("base_layer", base_layer_);
  lora_A_ =
      register_module("lora_A", std::make_shared<AdapterDict<LoraFactor>>());
  lora_B_ =
      register_module("lora_B", std::make_shared<AdapterDict<LoraFactor>>());
  if (!base_layer_->is_training()) {
    eval();
  }
}

LoraLayer::~LoraLayer() {
  unbind();
}

void LoraLayer::bind() {
  redirectable_->redirect_to(this);
}

void LoraLayer::unbind() {
  if (redirectable_->redirect_target() == this) {
    redirectable_->redirect_to(nullptr);
  }
}

at::Tensor LoraLayer::forward(const at::Tensor& input) {
  const auto now = terms();
  return now.empty() ? redirectable_->base_forward(input)
                     : adapted_forward(input, now);
}

void LoraLayer::update_layer(
    const std::string& adapter_name,
    int64_t r,
    double lora_alpha,
    const LoraConfig& config,
    bool autocast_adapter_dtype) {
  TORCH_CHECK_VALUE(
      r > 0,
      "[update_layer] `r` should be a positive integer value but the value "
      "passed is ",
      r);
  TORCH_CHECK_VALUE(
      config.lora_dropout() >= 0 && config.lora_dropout() < 1,
      "[update_layer] `lora_dropout` should be at least 0 and less than 1 but "
      "the value passed is ",
      config.lora_dropout());
  TORCH_CHECK_VALUE(
      !find_adapter(adapter_name),
      "[update_layer] adapter with name '",
      adapter_name,
      "' already exists");
  const auto initializer = init::find_initializer(config.init_lora_weights());

  LoraAdapter adapter;
  adapter.name = adapter_name;
  adapter.r = r;
  adapter.lora_alpha = lora_alpha;
  const auto rank = static_cast<double>(r);
  adapter.scaling = lora_alpha / (config.use_rslora() ? std::sqrt(rank) : rank);
  adapter.lora_dropout = config.lora_dropout();

  torch::NoGradGuard no_grad;
  const auto base = base_weight();
  auto factors = construct_factors(r);
  initializer(factors, {config, r, adapter.scaling, base.matrix()});
  adapter.lora_A =
      make_factor(factors.A, base.weight(), autocast_adapter_dtype);
  adapter.lora_B =
      make_factor(factors.B, base.weight(), autocast_adapter_dtype);
  adapter.lora_A->train(is_training());
  adapter.lora_B->train(is_training());
  lora_A_->insert(adapter_name, adapter.lora_A);
  lora_B_->insert(adapter_name, adapter.lora_B);
  adapters_.push_back(std::move(adapter));
}

void LoraLayer::delete_adapter(const std::string& adapter_name) {
  if (!find_adapter(adapter_name)) {
    return;
  }
  TORCH_CHECK_VALUE(
      !contains(merged_adapters_, adapter_name),
      "[delete_adapter] cannot delete adapter '",
      adapter_name,
      "' while it is merged. Please unmerge it first");
  lora_A_->erase(adapter_name);
  lora_B_->erase(adapter_name);
  std::erase(active_adapters_, adapter_name);
  std::erase_if(adapters_, [&](const LoraAdapter& adapter) {
    return adapter.name == adapter_name;
  });
}

const LoraAdapter* LoraLayer::find_adapter(
    const std::string& adapter_name) const {
  for (const auto& adapter : adapters_) {
    if (adapter.name == adapter_name) {
      return &adapter;
    }
  }
  return nullptr;
}

void LoraLayer::set_adapter(
    const std::vector<std::string>& adapter_names,
    bool inference_mode) {
  active_adapters_.clear();
  for (const auto& name : adapter_names) {
    if (find_adapter(name)) {
      active_adapters_.push_back(name);
    }
  }
  for (const auto& adapter : adapters_) {
    const bool trainable =
        !inference_mode && contains(active_adapters_, adapter.name);
    adapter.lora_A->weight.set_requires_grad(trainable);
    adapter.lora_B->weight.set_requires_grad(trainable);
  }
}

std::vector<LoraLayer::Term> LoraLayer::terms() const {
  std::vector<Term> terms;
  if (enabled_ && !merged()) {
    for (const auto& name : active_adapters_) {
      const auto* adapter = find_adapter(name);
      terms.push_back({adapter, adapter->scaling});
    }
  } else if (!enabled_) {
    for (const auto& name : merged_adapters_) {
      const auto* adapter = find_adapter(name);
      terms.push_back({adapter, -adapter->scaling});
    }
  }
  return terms;
}

std::vector<std::string> LoraLayer::not_merged(
    const std::vector<std::string>& adapter_names) const {
  std::vector<std::string> names;
  for (const auto& name :
       adapter_names.empty() ? active_adapters_ : adapter_names) {
    if (find_adapter(name) && !contains(merged_adapters_, name)) {
      names.push_back(name);
    }
  }
  return names;
}

void LoraLayer::check_mergeable(
    const std::vector<std::string>& adapter_names) const {
  auto merged = base_weight().matrix().clone();
  for (const auto& name : adapter_names) {
    merged.add_(delta_weight(name));
    TORCH_CHECK_VALUE(
        at::isfinite(merged).all().item<bool>(),
        "[merge] NaNs detected in the merged weights. The adapter ",
        name,
        " seems to be broken");
  }
}

void LoraLayer::merge(
    bool safe_merge,
    const std::vector<std::string>& adapter_names) {
  merge_layers({this}, safe_merge, adapter_names);
}

void LoraLayer::unmerge() {
  if (!merged()) {
    TORCH_WARN("Already unmerged. Nothing to do.");
    return;
  }
  torch::NoGradGuard no_grad;
  while (merged()) {
    base_weight().add_(delta_weight(merged_adapters_.back()), -1);
    merged_adapters_.pop_back();
  }
}

void LoraLayer::pretty_print(std::ostream& stream) const {
  std::vector<std::string> adapters;
  for (const auto& adapter : adapters_) {
    adapters.push_back(fmt::format(
        "{}: r={}, scaling={}", adapter.name, adapter.r, adapter.scaling));
  }
  stream << fmt::format("torchlora::LoraLayer({})", fmt::join(adapters, "; "));
}

void merge_layers(
    const std::vector<LoraLayer*>& layers,
    bool safe_merge,
    const std::vector<std::string>& adapter_names) {
  torch::NoGradGuard no_grad;
  const LoraLayer* merged = nullptr;
  std::vector<std::string> additional;
  for (const auto* layer : layers) {
    if (layer->merged()) {
      merged = layer;
      for (auto& name : layer->not_merged(adapter_names)) {
        if (!contains(additional, name)) {
          additional.push_back(std::move(name));
        }
      }
    }
    if (safe_merge) {
      layer->check_mergeable(layer->not_merged(adapter_names));
    }
  }
  if (merged && additional.empty()) {
    TORCH_WARN("All adapters are already merged, nothing to do.");
  } else if (merged) {
    TORCH_WARN(fmt::format(
        "Already following adapters were merged {}. You are now additionally "
        "merging {}.",
        fmt::join(merged->merged_adapters(), ","),
        fmt::join(additional, ",")));
  }
  for (auto* layer : layers) {
    for (const auto& name : layer->not_merged(adapter_names)) {
      layer->base_weight().add_(layer->delta_weight(name));
      layer->merged_adapters_.push_back(name);
    }
  }
}

} // namespace torchlora
