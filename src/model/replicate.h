#pragma once

#include <memory>

#include <torch/nn/modules/container/modulelist.h>

#include <torchlora/config/inject_options.h>
#include <torchlora/config/lora_config.h>

namespace torchlora {

/// A model whose layers are stacked as `config.layer_replication()` asks, for
/// its lifetime or for good. Of layers that occur again the first is the
/// original, the others are clones whose parameters share its memory; buffers
/// are copies. ValueError where the model does not allow it.
class Replication {
 public:
  Replication(
      Module& model,
      const LoraConfig& config,
      const InjectOptions& options = {});
  ~Replication();
  Replication(const Replication&) = delete;
  Replication& operator=(const Replication&) = delete;

  void keep() noexcept {
    list_ = nullptr;
  }

 private:
  using Layers = std::vector<std::shared_ptr<Module>>;
  static void replace(torch::nn::ModuleListImpl& list, const Layers& layers);

  std::shared_ptr<torch::nn::ModuleListImpl> list_;
  Layers original_;
};

/// The configuration of a further adapter of a model that was built by
/// `layer_replication`, with that; ValueError if it has another one.
LoraConfig for_replicated(
    LoraConfig config,
    const LoraConfig::LayerRanges& layer_replication);

} // namespace torchlora
