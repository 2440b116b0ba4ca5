// EVA by an incremental principal component analysis of each layer's input.
//
// Layers are observed while the caller runs batches. Those that see the same
// input (q_proj, k_proj and v_proj, say) form a group with one analysis; the
// input's fingerprint in the first batch finds it. After each batch the ranks
// are distributed again over all layers by explained variance, and a group has
// converged when its first `rank` components turn no further than `tau` allows.
// All of it happens on observed layers only: the adapter changes at the end, so
// that an error leaves it alone.
#include <algorithm>
#include <cmath>

#include <torch/types.h>

#include <torchlora/init/eva.h>
#include <torchlora/tools/preprocess.h>

#include "init/incremental_pca.h"
#include "model/remember.h"
#include "model/requirements.h"
#include "tools/observe.h"

namespace torchlora {
namespace {

using init::IncrementalPca;

/// Layers with the same input, which share one decomposition.
struct Group {
  IncrementalPca pca;
  /// `fingerprint_of` the first input.
  double fingerprint = 0;
  /// In the order of the model.
  std::vector<size_t> members;
  bool converged = false;
};

struct Layer {
  TargetSite site;
  LoraAdapter before;
  int64_t n_components;
  /// The new rank.
  int64_t rank;
  Group* group = nullptr;
};

/// Returns the projection of the rows on a fixed direction per axis: equal for
/// equal inputs, and in practice for no others.
double fingerprint_of(const Tensor& rows) {
  const auto wide = rows.to(at::kDouble);
  const auto along = [&](int64_t dim) {
    return at::arange(1, wide.size(dim) + 1, wide.options()).sqrt();
  };
  return at::dot(along(0), at::mv(wide, along(1))).item<double>();
}

class Eva {
 public:
  Eva(PeftModel& peft,
      const std::string& adapter_name,
      const PrepareLayerInputs& prepare_layer_inputs)
      : prepare_layer_inputs_(prepare_layer_inputs),
        config_(
            peft.peft_config(adapter_name).eva_config().value_or(EvaConfig())) {
    for (auto& site : lora_sites(peft.base_model())) {
      if (const auto* adapter = site.layer->find_adapter(adapter_name)) {
        const auto n = static_cast<int64_t>(
            std::nearbyint(static_cast<double>(adapter->r) * config_.rho()));
        budget_ += adapter->r;
        layers_.push_back({std::move(site), *adapter, n, n});
      }
    }
  }

  /// Whether all components that are needed have converged.
  bool run(const std::function<bool()>& run_batch) {
    std::vector<ObservedModule> observed;
    for (size_t i = 0; i < layers_.size(); ++i) {
      observed.emplace_back(
          layers_[i].site, [this, i](const Tensor& rows) { see(i, rows); });
    }
    while (!converged()) {
      if (!run_batch()) {
        return false;
      }
      is_first_batch_ = false;
      order_groups();
      const bool all = std::ranges::all_of(layers_, [](const auto& layer) {
        return layer.group && layer.group->pca.components().defined();
      });
      if (all) {
        redistribute();
      }
    }
    return true;
  }

  const std::vector<Layer>& layers() const {
    return layers_;
  }

  /// Returns the new A of a layer, [rank, in_features].
  Tensor A(const Layer& layer) const {
    TORCH_CHECK_VALUE(
        layer.group && layer.group->pca.components().defined(),
        "[initialize_lora_eva_weights] run_batch must run every adapted module "
        "on at least round(r * rho) rows, ",
        layer.site.name,
        " needs ",
        layer.n_components);
    const auto& pca = layer.group->pca;
    const auto components = pca.components().narrow(0, 0, layer.rank);
    const auto S = pca.singular_values().narrow(0, 0, layer.rank);
    // An input of fewer dimensions than components has values of 0.
    return config_.whiten()
        ? components / at::where(S > 0, S, 1).sqrt().unsqueeze(1)
        : components;
  }

 private:
  void see(size_t i, const Tensor& input) {
    auto& layer = layers_[i];
    auto* group = layer.group;
    if (group && (group->members.front() != i || group->converged)) {
      return;
    }
    const auto rows = prepare_layer_inputs_
        ? prepare_layer_inputs_(input, layer.site.name)
        : input;
    if (rows.numel() == 0) {
      return; // Inputs without rows are not the same input.
    }
    TORCH_CHECK_VALUE(
        !rows.is_complex(),
        "[initialize_lora_eva_weights] the input of ",
        layer.site.name,
        " is ",
        rows.scalar_type(),
        ", whose components are not supported; leave it out by "
        "exclude_modules");
    if (!group) {
      if (!is_first_batch_) {
        return; // It will not get components, which `A` reports.
      }
      group = find_group(i, rows);
      if (group->members.front() != i) {
        return;
      }
    }
    group->pca.fit(rows);
  }

  /// Finds or makes the group of a layer that is seen for the first time. If
  /// the layer needs more components than the members so far, the group starts
  /// again: it has seen only this input yet.
  Group* find_group(size_t i, const Tensor& rows) {
    auto& layer = layers_[i];
    const double fingerprint = fingerprint_of(rows);
    const auto found = std::ranges::find_if(groups_, [&](const auto& group) {
      return group.fingerprint == fingerprint &&
          layers_[group.members.front()].site.base_weight().A_sizes(1) ==
          layer.site.base_weight().A_sizes(1);
    });
    if (found == groups_.end()) {
      groups_.push_back({IncrementalPca(layer.n_components), fingerprint, {i}});
      layer.group = &groups_.back();
      return layer.group;
    }
    layer.group = &*found;
    found->members.push_back(i);
    if (layer.n_components > found->pca.n_components()) {
      found->pca = IncrementalPca(layer.n_components);
      found->pca.fit(rows);
    }
    return layer.group;
  }

  void order_groups() {
    for (auto& group : groups_) {
      std::ranges::sort(group.members);
      for (const auto i : group.members) {
        layers_[i].n_components = group.pca.n_components();
        layers_[i].rank =
            is_ranked_ ? layers_[i].rank : layers_[i].n_components;
      }
    }
    groups_.sort([](const auto& a, const auto& b) {
      return a.members.front() < b.members.front();
    });
  }

  bool converged() {
    bool all = !is_first_batch_;
    for (auto& group : groups_) {
      const auto& cosines = group.pca.cosines();
      const auto rank = layers_[group.members.front()].rank;
      group.converged = rank == 0 ||
          (cosines.defined() &&
           (cosines.narrow(0, 0, rank) >= config_.tau()).all().item<bool>());
      all = all && group.converged;
    }
    return all && std::ranges::all_of(layers_, [](const auto& layer) {
             return layer.group != nullptr;
           });
  }

  /// Distributes the sum of the ranks over the components that explain most.
  /// Among layers with the same input the first gets the highest rank.
  void redistribute() {
    std::vector<size_t> order, owners;
    for (const auto& group : groups_) {
      order.push_back(group.members.front());
    }
    for (const auto& group : groups_) {
      order.insert(order.end(), group.members.begin() + 1, group.members.end());
    }
    std::vector<Tensor> ratios;
    for (const auto i : order) {
      ratios.push_back(
          layers_[i].group->pca.explained_variance_ratio().to(at::kDouble));
      owners.insert(
          owners.end(), static_cast<size_t>(ratios.back().size(0)), i);
      layers_[i].rank = 0;
    }
    const auto best = std::get<1>(at::sort(
                                      at::cat(ratios),
                                      /*stable=*/true,
                                      /*dim=*/0,
                                      /*descending=*/true))
                          .to(at::kCPU);
    const auto* index = best.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < std::min(budget_, best.size(0)); ++i) {
      ++layers_[owners[static_cast<size_t>(index[i])]].rank;
    }
    for (const auto& group : groups_) {
      for (const auto i : group.members) {
        auto& first = layers_[group.members.front()].rank;
        if (first < layers_[i].rank) {
          std::swap(first, layers_[i].rank);
        }
      }
    }
    // A file has one rank for an attention and its out_proj.
    for (size_t i = 1; i < layers_.size(); ++i) {
      if (layers_[i].site.kind == TargetSite::kPart) {
        layers_[i].rank =
            std::min(layers_[i - 1].rank, layers_[i].n_components);
        layers_[i - 1].rank = layers_[i].rank;
      }
    }
    is_ranked_ = true;
  }

  PrepareLayerInputs prepare_layer_inputs_;
  EvaConfig config_;
  std::vector<Layer> layers_;
  std::list<Group> groups_;
  int64_t budget_ = 0;
  bool is_first_batch_ = true, is_ranked_ = false;
};

LoraConfig::Pattern pattern_of(
    const std::vector<Layer>& layers,
    double otherwise,
    const std::function<double(const LoraAdapter&)>& value) {
  LoraConfig::Pattern pattern;
  for (const auto& layer : layers) {
    const auto* adapter = layer.site.layer->find_adapter(layer.before.name);
    if (adapter && value(*adapter) != otherwise) {
      pattern.emplace_back("^" + layer.site.peft_name, value(*adapter));
    }
  }
  return pattern;
}

} // namespace

void initialize_lora_eva_weights(
    PeftModel& peft,
    const std::function<bool()>& run_batch,
    const std::string& adapter_name,
    const PrepareLayerInputs& prepare_layer_inputs) {
  auto& config = StateAccess::of(peft)
                     .adapters.at(adapter_name, "initialize_lora_eva_weights")
                     .config;
  TORCH_CHECK_VALUE(
      init::is_eva(config),
      "[initialize_lora_eva_weights] can only be used with "
      "init_lora_weights=\"eva\"");
  require(
      Requirement::kNothingMerged,
      "initialize_lora_eva_weights",
      StateAccess::of(peft),
      lora_sites(peft.base_model()),
      adapter_name,
      "; call unmerge_adapter first");
  Eva eva(peft, adapter_name, prepare_layer_inputs);
  std::vector<Tensor> factors;
  {
    const TrainingModeGuard mode(peft.base_model(), /*training=*/false);
    const auto disabled = peft.disable_adapter();
    torch::NoGradGuard no_grad;
    if (!eva.run(run_batch)) {
      TORCH_WARN(
          "[initialize_lora_eva_weights] the data ended before the components "
          "of every layer had converged; give it more batches, or a smaller "
          "tau");
    }
    for (const auto& layer : eva.layers()) {
      factors.push_back(eva.A(layer));
    }
  }
  const bool loses_layers = std::ranges::any_of(
      factors, [](const Tensor& A) { return A.size(0) == 0; });
  TORCH_CHECK_VALUE(
      !loses_layers || config.bias() == "none",
      "[initialize_lora_eva_weights] some layers would lose their adapter and "
      "not their bias; set bias to none, or rho to 1");
  const auto options = config.eva_config().value_or(EvaConfig());
  const bool adjust = options.adjust_scaling_factors();
  all_or_nothing([&](Undo& undo) {
    for (size_t i = 0; i < factors.size(); ++i) {
      const auto& layer = eva.layers()[i];
      const auto& A = factors[i];
      const auto growth =
          static_cast<double>(A.size(0)) / static_cast<double>(layer.before.r);
      if (growth > 0) {
        remember_adapter(undo, layer.site, adapter_name);
        layer.site.layer->replace_factors(
            adapter_name,
            A,
            at::zeros(
                {layer.site.base_weight().out_features(), A.size(0)},
                A.options()),
            layer.before.lora_alpha * (adjust ? growth : 1),
            config.use_rslora());
      }
    }
  });
  for (size_t i = 0; i < factors.size(); ++i) {
    const auto& site = eva.layers()[i].site;
    if (factors[i].size(0) == 0) {
      site.layer->delete_adapter(adapter_name);
      if (site.layer->adapters().empty()) {
        remove_layer(site);
      }
    }
  }
  if (loses_layers) {
    std::vector<std::string> left;
    for (const auto& layer : eva.layers()) {
      if (layer.site.kind != TargetSite::kPart &&
          layer.site.layer->find_adapter(adapter_name)) {
        left.push_back(layer.site.peft_name);
      }
    }
    config.target_modules(left)
        .exclude_modules({})
        .layers_to_transform({})
        .layers_pattern({});
  }
  config.rank_pattern(pattern_of(
      eva.layers(),
      static_cast<double>(config.r()),
      [](const LoraAdapter& adapter) {
        return static_cast<double>(adapter.r);
      }));
  config.alpha_pattern(pattern_of(
      eva.layers(), config.lora_alpha(), [](const LoraAdapter& adapter) {
        return adapter.lora_alpha;
      }));
}

} // namespace torchlora
