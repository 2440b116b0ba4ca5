#pragma once

#include <list>
#include <utility>

#include <c10/util/Exception.h>

#include <torchlora/detail/names.h>

namespace torchlora {

/// What a layer does with its adapters, by their names.
struct AdapterStates {
  /// In the order in which they act.
  std::vector<std::string> active;
  /// In the order in which they were merged.
  std::vector<std::string> merged;
  /// Whether the forward has adapters in it.
  bool enabled = true;

  bool is_active(const std::string& adapter_name) const {
    return detail::contains(active, adapter_name);
  }
  bool is_merged(const std::string& adapter_name) const {
    return detail::contains(merged, adapter_name);
  }
};

/// The adapters of one layer, in the order in which they were added, and their
/// states. `Adapter` has a `name`; a pointer to one is valid until it is
/// removed.
template <class Adapter>
class AdapterSet {
 public:
  const std::list<Adapter>& all() const {
    return adapters_;
  }
  std::list<Adapter>& all() {
    return adapters_;
  }
  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const auto& adapter : adapters_) {
      result.push_back(adapter.name);
    }
    return result;
  }
  const AdapterStates& states() const {
    return states_;
  }

  /// nullptr if there is none.
  const Adapter* find(const std::string& adapter_name) const {
    const auto found = std::find_if(
        adapters_.begin(), adapters_.end(), [&](const auto& adapter) {
          return adapter.name == adapter_name;
        });
    return found == adapters_.end() ? nullptr : &*found;
  }
  Adapter* find(const std::string& adapter_name) {
    return const_cast<Adapter*>(std::as_const(*this).find(adapter_name));
  }
  /// ValueError if there is none.
  const Adapter& at(const std::string& adapter_name) const {
    const auto* adapter = find(adapter_name);
    TORCH_CHECK_VALUE(adapter, "Adapter ", adapter_name, " not found.");
    return *adapter;
  }
  Adapter& at(const std::string& adapter_name) {
    return const_cast<Adapter&>(std::as_const(*this).at(adapter_name));
  }

  Adapter& add(Adapter adapter) {
    return adapters_.emplace_back(std::move(adapter));
  }
  /// The adapter must not be merged.
  void remove(const std::string& adapter_name) {
    std::erase(states_.active, adapter_name);
    std::erase_if(adapters_, [&](const auto& adapter) {
      return adapter.name == adapter_name;
    });
  }

  /// Skips names that the layer does not have.
  void set_active(const std::vector<std::string>& adapter_names) {
    states_.active = detail::each_once(
        adapter_names, [&](const auto& name) { return find(name); });
  }
  void set_enabled(bool enabled) {
    states_.enabled = enabled;
  }
  void push_merged(const std::string& adapter_name) {
    states_.merged.push_back(adapter_name);
  }
  void pop_merged() {
    states_.merged.pop_back();
  }

  /// Returns those of `adapter_names` (default: the active adapters) that
  /// exist in this layer and are not merged yet.
  std::vector<std::string> not_merged(
      const std::vector<std::string>& adapter_names) const {
    return detail::each_once(
        adapter_names.empty() ? states_.active : adapter_names,
        [&](const auto& name) {
          return find(name) && !states_.is_merged(name);
        });
  }
  /// ValueError if the adapter is merged.
  void check_not_merged(
      const std::string& adapter_name,
      const char* function,
      const std::string& layer_name = "a layer") const {
    TORCH_CHECK_VALUE(
        !states_.is_merged(adapter_name),
        "[",
        function,
        "] cannot change adapter '",
        adapter_name,
        "' while it is merged into ",
        layer_name,
        ". Please unmerge it first");
  }

 private:
  std::list<Adapter> adapters_;
  AdapterStates states_;
};

} // namespace torchlora
