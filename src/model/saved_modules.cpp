#include "model/saved_modules.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/types.h>

#include "lora/dtypes.h"

namespace torchlora {

/// The position of an adapter's version; 0 if it has none.
size_t SavedModules::Slot::find(const std::string& adapter) const {
  const auto found = std::ranges::find(versions, adapter, &Version::adapter);
  return found == versions.end() || adapter.empty()
      ? 0
      : static_cast<size_t>(found - versions.begin());
}

void SavedModules::Slot::make_current(size_t index) {
  if (index != current) {
    auto& old = versions[current];
    auto& next = versions[index];
    old.value = tensor.detach();
    if (old.requires_grad) {
      old.value.set_requires_grad(true);
    }
    old.grad = tensor.grad();
    // The model may have been moved since.
    tensor.set_data(next.value.detach().to(tensor.options()));
    tensor.mutable_grad() = next.grad.defined()
        ? next.grad.to(tensor.options().requires_grad(false))
        : Tensor();
    next.value = Tensor();
    next.grad = Tensor();
    current = index;
  }
  show_requires_grad();
}

void SavedModules::Slot::show_requires_grad() const {
  if (is_trainable_dtype(tensor.scalar_type())) {
    tensor.set_requires_grad(versions[current].requires_grad);
  }
}

void SavedModules::add(
    const std::string& adapter,
    const std::vector<SavedTensor>& tensors) {
  for (const auto& [key, tensor, value, trains] : tensors) {
    auto slot = std::ranges::find_if(slots_, [&](const Slot& other) {
      return other.tensor.is_same(tensor);
    });
    if (slot == slots_.end()) {
      slots_.push_back({tensor, {Version{}}});
      slot = std::prev(slots_.end());
    }
    slot->versions.push_back(
        {adapter,
         key,
         trains,
         /*requires_grad=*/false,
         (value.defined() ? value : base(tensor))
             .to(tensor.options().requires_grad(false),
                 /*non_blocking=*/false,
                 /*copy=*/true)});
  }
}

void SavedModules::delete_adapter(const std::string& adapter) {
  for (auto& slot : slots_) {
    if (const auto index = slot.find(adapter)) {
      if (slot.current == index) {
        slot.make_current(0);
      }
      slot.versions.erase(slot.versions.begin() + static_cast<int64_t>(index));
      slot.current -= slot.current > index ? 1 : 0;
    }
  }
  std::erase(states_.active, adapter);
  std::erase_if(
      slots_, [](const Slot& slot) { return slot.versions.size() == 1; });
}

bool SavedModules::has(const std::string& adapter) const {
  return std::ranges::any_of(
      slots_, [&](const Slot& slot) { return slot.find(adapter) > 0; });
}

bool SavedModules::holds(const Tensor& tensor) const {
  return std::ranges::any_of(
      slots_, [&](const Slot& slot) { return slot.tensor.is_same(tensor); });
}

Tensor SavedModules::base(const Tensor& tensor) const {
  for (const auto& slot : slots_) {
    if (slot.tensor.is_same(tensor) && slot.current != 0) {
      return slot.versions[0].value;
    }
  }
  return tensor.detach();
}

void SavedModules::check_set_adapter(
    const std::vector<std::string>& adapters) const {
  for (const auto& slot : slots_) {
    std::vector<std::string> owners;
    for (const auto& adapter : adapters) {
      if (slot.find(adapter)) {
        owners.push_back(adapter);
      }
    }
    TORCH_CHECK_VALUE(
        owners.size() < 2,
        fmt::format(
            "[set_adapter] only one of the adapters {} can be active: each has "
            "its own {}",
            fmt::join(owners, ", "),
            slot.versions.back().key));
  }
}

void SavedModules::show(const std::vector<std::string>& adapters) {
  for (auto& slot : slots_) {
    size_t index = 0;
    for (const auto& adapter : adapters) {
      index = std::max(index, slot.find(adapter));
    }
    slot.make_current(index);
  }
}

void SavedModules::show() {
  show(states_.enabled ? states_.active : std::vector<std::string>());
}

void SavedModules::keep(const std::vector<std::string>& adapters) {
  for (const auto& adapter : adapter_names()) {
    set_requires_grad(adapter, false);
  }
  show(adapters);
  slots_.clear();
  states_ = {};
}

void SavedModules::set_adapter(
    const std::vector<std::string>& adapters,
    bool inference_mode) {
  states_.active = adapters;
  for (const auto& adapter : adapter_names()) {
    set_requires_grad(adapter, !inference_mode && states_.is_active(adapter));
  }
  show();
}

void SavedModules::set_requires_grad(
    const std::string& adapter,
    bool requires_grad) {
  for (auto& slot : slots_) {
    if (const auto index = slot.find(adapter)) {
      auto& version = slot.versions[index];
      version.requires_grad = requires_grad && version.trains;
      if (slot.current == index) {
        slot.show_requires_grad();
      } else if (is_trainable_dtype(version.value.scalar_type())) {
        version.value.set_requires_grad(version.requires_grad);
      }
    }
  }
}

void SavedModules::enable_adapters(bool enabled) {
  states_.enabled = enabled;
  show();
}

void SavedModules::check_mergeable(
    const std::vector<std::string>& adapters,
    bool /*safe_merge*/) const {
  for (const auto& name : adapters) {
    TORCH_CHECK_VALUE(
        !has(name) || states_.is_active(name),
        "[merge_adapter] adapter ",
        name,
        " has modules_to_save or biases of its own; make it active first");
  }
}

std::vector<std::string> SavedModules::adapter_names() const {
  std::set<std::string> names;
  for (const auto& slot : slots_) {
    for (const auto& version : slot.versions) {
      names.insert(version.adapter);
    }
  }
  names.erase(""); // the base model's
  return {names.begin(), names.end()};
}

NamedTensors SavedModules::adapter_state(const std::string& adapter) const {
  NamedTensors result;
  for (const auto& slot : slots_) {
    if (const auto index = slot.find(adapter)) {
      const auto& version = slot.versions[index];
      result.emplace_back(
          version.key, slot.current == index ? slot.tensor : version.value);
    }
  }
  return result;
}

} // namespace torchlora
