#include <torchlora/model/trainable_tokens.h>

#include <algorithm>
#include <numeric>
#include <unordered_map>

#include <torch/types.h>

#include <torchlora/detail/names.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/linear.h>

#include "lora/check_config.h"
#include "lora/dtypes.h"
#include "nn/memory.h"
#include "nn/weight_member.h"

namespace torchlora {
namespace {

Tensor to_tensor(const std::vector<int64_t>& indices) {
  return torch::tensor(indices, at::kLong);
}

} // namespace

struct TrainableTokens::BoundLayer : nn::RowReplacer {
  BoundLayer(
      const TrainableTokens& tokens_,
      const std::shared_ptr<Module>& module_)
      : tokens(tokens_),
        module(module_),
        embedding(dynamic_cast<nn::EmbeddingImpl*>(module_.get())),
        linear(dynamic_cast<nn::LinearImpl*>(module_.get())),
        layer(dynamic_cast<nn::Redirectable*>(module_.get())) {
    TORCH_INTERNAL_ASSERT(embedding || linear);
    layer->redirect_to(this);
  }
  ~BoundLayer() override {
    // The layer that owns the adapter is half destroyed by now.
    if (module.lock() && layer->redirect_target() == this) {
      layer->redirect_to(nullptr);
    }
  }
  Tensor forward(const Tensor& input) override {
    const auto rows = tokens.replaced_rows();
    if (!rows && embedding && embedding->options.max_norm()) {
      // The layer's own forward would write to the table.
      return nn::forward_with_rows(*embedding, input, {});
    }
    return !rows    ? layer->base_forward(input)
        : embedding ? nn::forward_with_rows(*embedding, input, *rows)
                    : nn::forward_with_rows(*linear, input, *rows);
  }
  std::optional<nn::ReplacedRows> replaced_rows() const override {
    return tokens.replaced_rows();
  }

  const TrainableTokens& tokens;
  std::weak_ptr<Module> module;
  nn::EmbeddingImpl* embedding;
  nn::LinearImpl* linear;
  nn::Redirectable* layer;
};

TrainableTokens::TrainableTokens(
    const std::shared_ptr<Module>& layer,
    std::string layer_name)
    : Module("torchlora::TrainableTokens"),
      layer_name_(std::move(layer_name)),
      layer_(layer),
      deltas_(register_module(
          kDelta,
          std::make_shared<AdapterDict>(/*are_modules=*/false))) {
  train(layer->is_training());
}

TrainableTokens::~TrainableTokens() = default;

void TrainableTokens::bind(const std::shared_ptr<Module>& layer) {
  bound_.push_back(std::make_unique<BoundLayer>(*this, layer));
}

void TrainableTokens::unload() {
  bound_.clear();
  if (const auto layer = layer_.lock()) {
    layer->unregister_module(kName);
  }
}

Tensor TrainableTokens::weight() const {
  const auto layer = layer_.lock();
  TORCH_CHECK(
      layer, "[TrainableTokens] the layer ", layer_name_, " is no more");
  return *nn::weight_member(*layer);
}

Tensor TrainableTokens::base_rows(const std::vector<int64_t>& indices) const {
  const auto table = weight().detach();
  auto rows = table.index_select(0, to_tensor(indices).to(table.device()));
  for (const auto& name : merged_adapters()) {
    const auto& merged = *find_adapter(name);
    for (size_t i = 0; i < indices.size(); ++i) {
      const auto found = std::ranges::find(merged.indices, indices[i]);
      if (found != merged.indices.end()) {
        rows[static_cast<int64_t>(i)].copy_(
            merged.original[found - merged.indices.begin()]);
      }
    }
  }
  return rows;
}

void TrainableTokens::add_adapter(
    const std::string& adapter_name,
    const std::vector<int64_t>& indices,
    bool autocast_adapter_dtype) {
  const torch::NoGradGuard no_grad;
  check_adapter_name(adapter_name, "add_adapter");
  const auto rows = weight().size(0);
  TORCH_CHECK_VALUE(
      !indices.empty(),
      "[trainable_token_indices] there are no indices for \"",
      layer_name_,
      "\"");
  auto sorted = indices;
  std::ranges::sort(sorted);
  const auto bad = std::ranges::find_if(
      sorted, [&](int64_t index) { return index < 0 || index >= rows; });
  TORCH_CHECK_VALUE(
      bad == sorted.end(),
      "[trainable_token_indices] the indices for \"",
      layer_name_,
      "\" must be at least 0 and below ",
      rows,
      ", found ",
      *bad);
  const auto dtype = weight().scalar_type();
  TORCH_CHECK_VALUE(
      is_trainable_dtype(dtype),
      "[trainable_token_indices] the rows of \"",
      layer_name_,
      "\" cannot be trained, as its weight is ",
      dtype);
  const auto twice = std::ranges::adjacent_find(sorted);
  TORCH_CHECK_VALUE(
      twice == sorted.end(),
      "[trainable_token_indices] index ",
      *twice,
      " for \"",
      layer_name_,
      "\" is given twice");
  auto delta = base_rows(indices);
  if (autocast_adapter_dtype &&
      at::isReducedFloatingType(delta.scalar_type())) {
    delta = delta.to(at::kFloat);
  }
  const auto factor = std::make_shared<LoraFactor>(delta);
  deltas_->insert(adapter_name, factor);
  adapters_.add({adapter_name, indices, factor->weight});
}

void TrainableTokens::delete_adapter(const std::string& adapter_name) {
  if (!has(adapter_name)) {
    return;
  }
  adapters_.check_not_merged(adapter_name, "delete_adapter", layer_name_);
  deltas_->erase(adapter_name);
  adapters_.remove(adapter_name);
  if (detail::contains(indexed_, adapter_name)) {
    indexed_.clear();
  }
  update_shown();
}

NamedTensors TrainableTokens::adapter_state(
    const std::string& adapter_name) const {
  return {
      {std::string(kName) + "." + kDelta,
       adapters_.at(adapter_name, "adapter_state").delta}};
}

void TrainableTokens::check_set_adapter(
    const std::vector<std::string>& adapter_names) const {
  std::unordered_map<int64_t, std::string> owners;
  for (const auto& name : adapter_names) {
    const auto* adapter = find_adapter(name);
    if (!adapter) {
      continue;
    }
    for (const auto index : adapter->indices) {
      const auto [owner, is_new] = owners.emplace(index, name);
      TORCH_CHECK_VALUE(
          is_new || owner->second == name,
          "[trainable_token_indices] adapters ",
          owner->second,
          " and ",
          name,
          " both have row ",
          index,
          " of \"",
          layer_name_,
          "\": only disjoint trainable_token_indices go together");
    }
  }
}

void TrainableTokens::set_adapter(
    const std::vector<std::string>& adapter_names,
    bool inference_mode) {
  check_set_adapter(adapter_names);
  adapters_.set_active(adapter_names);
  for (const auto& adapter : adapters()) {
    set_requires_grad(
        adapter.name, !inference_mode && states().is_active(adapter.name));
  }
  update_shown();
}

void TrainableTokens::set_requires_grad(
    const std::string& adapter_name,
    bool requires_grad) {
  if (const auto* adapter = find_adapter(adapter_name)) {
    adapter->delta.set_requires_grad(requires_grad);
  }
}

void TrainableTokens::enable_adapters(bool enabled) {
  adapters_.set_enabled(enabled);
  update_shown();
}

void TrainableTokens::check_mergeable(
    const std::vector<std::string>& adapter_names,
    bool safe_merge) const {
  const auto names = adapters_.not_merged(adapter_names);
  if (!names.empty()) {
    check_writable();
  }
  auto together = merged_adapters();
  together.insert(together.end(), names.begin(), names.end());
  check_set_adapter(together);
  for (const auto& name : names) {
    TORCH_CHECK_VALUE(
        !safe_merge ||
            at::isfinite(find_adapter(name)->delta.to(weight().scalar_type()))
                .all()
                .item<bool>(),
        "[merge_adapter] NaNs detected in the rows for \"",
        layer_name_,
        "\". The adapter ",
        name,
        " seems to be broken");
  }
}

/// ValueError if the table, or one that is tied to it, cannot be changed.
void TrainableTokens::check_writable() const {
  for (const auto& layer : bound_) {
    const auto module = layer->module.lock();
    const auto* reason =
        module ? why_not_writable(*nn::weight_member(*module)) : "";
    TORCH_CHECK_VALUE(
        !*reason,
        "[merge_adapter] the table of \"",
        layer_name_,
        "\", or one that is tied to it, cannot be changed in place: it ",
        reason);
  }
}

void TrainableTokens::write(
    const std::vector<int64_t>& indices,
    const Tensor& rows) {
  const auto index = to_tensor(indices);
  struct Write {
    Tensor table, index, rows;
  };
  std::vector<Write> writes; // made first, so that all are written or none
  // NOTE: to() parts layers that are tied by memory only.
  for (const auto& layer : bound_) {
    if (const auto module = layer->module.lock()) {
      const auto table = nn::weight_member(*module)->detach();
      writes.push_back(
          {table, index.to(table.device()), rows.to(table.options())});
    }
  }
  for (auto& write : writes) {
    write.table.index_copy_(0, write.index, write.rows);
  }
}

void TrainableTokens::merge(const std::vector<std::string>& adapter_names) {
  const torch::NoGradGuard no_grad;
  for (const auto& name : adapters_.not_merged(adapter_names)) {
    auto& adapter = adapters_.at(name, "merge");
    adapter.original = base_rows(adapter.indices);
    write(adapter.indices, adapter.delta);
    adapters_.push_merged(name);
  }
  update_shown();
}

void TrainableTokens::check_unmergeable() const {
  if (merged()) {
    check_writable();
  }
}

void TrainableTokens::unmerge(size_t count) {
  const torch::NoGradGuard no_grad;
  for (; merged_adapters().size() > count; adapters_.pop_merged()) {
    auto& adapter = adapters_.at(merged_adapters().back(), "unmerge");
    write(adapter.indices, adapter.original);
    adapter.original = Tensor();
  }
  update_shown();
}

void TrainableTokens::update_shown() {
  auto shown = !adapters_enabled() ? merged_adapters()
      : merged()                   ? std::vector<std::string>()
                                   : active_adapters();
  // A guard that ends and an undo need no memory: they show none, or those that
  // were shown last.
  if (!shown.empty() && shown != indexed_) {
    const c10::InferenceMode no_inference(false); // a later backward needs them
    std::vector<int64_t> all;
    for (const auto& name : shown) {
      const auto& indices = find_adapter(name)->indices;
      all.insert(all.end(), indices.begin(), indices.end());
    }
    std::vector<int64_t> order(all.size());
    std::iota(order.begin(), order.end(), 0);
    const auto index_at = [&](int64_t i) {
      return all[static_cast<size_t>(i)];
    };
    std::ranges::sort(order, {}, index_at);
    const auto device = weight().device();
    auto sorting =
        std::ranges::is_sorted(all) ? Tensor() : to_tensor(order).to(device);
    std::ranges::sort(all);
    index_ = to_tensor(all).to(device);
    order_ = std::move(sorting);
    indices_ = std::move(all);
    indexed_ = shown;
  }
  shown_ = std::move(shown);
}

std::optional<nn::ReplacedRows> TrainableTokens::replaced_rows() const {
  if (shown_.empty()) {
    return std::nullopt;
  }
  const auto options = weight().options().requires_grad(false);
  std::vector<Tensor> parts;
  for (const auto& name : shown_) {
    const auto& adapter = *find_adapter(name);
    parts.push_back(
        (adapters_enabled() ? adapter.delta : adapter.original).to(options));
  }
  auto values = parts.size() == 1 ? parts[0] : at::cat(parts);
  if (order_.defined()) {
    values = values.index_select(0, order_.to(options.device()));
  }
  return nn::ReplacedRows{indices_, index_.to(options.device()), values};
}

bool TrainableTokens::changes_something() const {
  const torch::NoGradGuard no_grad;
  return std::ranges::any_of(active_adapters(), [&](const auto& name) {
    const auto& adapter = *find_adapter(name);
    const auto base = base_rows(adapter.indices);
    return !at::equal(adapter.delta.to(base.options()), base);
  });
}

} // namespace torchlora
