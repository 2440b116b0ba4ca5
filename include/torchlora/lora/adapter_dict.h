#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <torch/nn/module.h>

namespace torchlora {

/// The modules of one kind (all `lora_A`, say) of a layer's adapters, typed
/// and registered by adapter name: the names come out as PEFT's,
/// `lora_A.default.weight`.
template <class T>
class AdapterDict : public torch::nn::Module {
 public:
  void insert(const std::string& adapter_name, std::shared_ptr<T> module) {
    register_module(adapter_name, module);
    items_.emplace_back(adapter_name, std::move(module));
  }
  void erase(const std::string& adapter_name) {
    unregister_module(adapter_name);
    std::erase_if(
        items_, [&](const auto& item) { return item.first == adapter_name; });
  }
  /// nullptr if there is none.
  T* find(const std::string& adapter_name) const {
    for (const auto& [name, module] : items_) {
      if (name == adapter_name) {
        return module.get();
      }
    }
    return nullptr;
  }
  const std::vector<std::pair<std::string, std::shared_ptr<T>>>& items() const {
    return items_;
  }

 private:
  std::vector<std::pair<std::string, std::shared_ptr<T>>> items_;
};

/// One factor of an update, the parameter `weight`.
class LoraFactor : public torch::nn::Module {
 public:
  explicit LoraFactor(at::Tensor value)
      : torch::nn::Module("torchlora::LoraFactor"),
        weight(register_parameter("weight", std::move(value))) {}
  at::Tensor weight;
};

} // namespace torchlora
