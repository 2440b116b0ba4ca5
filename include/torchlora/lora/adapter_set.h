#pragma once

#include <list>
#include <utility>

#include <c10/util/Exception.h>

#include <torchlora/detail/names.h>

namespace torchlora {

/// The state of a layer's adapters, by adapter name: which are active, which
/// are merged, and whether the layer uses adapters at all.
struct AdapterStates {
  /// The active adapters, in the order in which their updates are applied.
  std::vector<std::string> active;
  /// The adapters whose updates the base weight contains, in the order in which
  /// they were merged.
  std::vector<std::string> merged;
  /// Whether the layer's forward uses its adapters. False: it computes what the
  /// base layer did before any merge.
  bool enabled = true;

  /// @{
  /// Returns whether the adapter is in `active`, or in `merged`.
  bool is_active(const std::string& adapter_name) const {
    return detail::contains(active, adapter_name);
  }
  bool is_merged(const std::string& adapter_name) const {
    return detail::contains(merged, adapter_name);
  }
  /// @}
};

/// The adapters of one layer in the order in which they were added, with their
/// states. `Adapter` is a struct with a member `name`. A pointer to an adapter
/// is valid until `remove` deletes it.
template <class Adapter>
class AdapterSet {
 public:
  /// @{
  /// Returns all adapters in the order in which they were added.
  const std::list<Adapter>& all() const {
    return adapters_;
  }
  std::list<Adapter>& all() {
    return adapters_;
  }
  /// @}
  /// Returns the names of all adapters in the order in which they were added.
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

  /// Returns the adapter of this name, or nullptr if the layer has none.
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
  /// Returns the adapter of this name. Throws ValueError, which names
  /// `function`, if the layer has none.
  const Adapter& at(const std::string& adapter_name, const char* function)
      const {
    const auto* adapter = find(adapter_name);
    TORCH_CHECK_VALUE(
        adapter, "[", function, "] Adapter ", adapter_name, " not found.");
    return *adapter;
  }
  Adapter& at(const std::string& adapter_name, const char* function) {
    return const_cast<Adapter&>(
        std::as_const(*this).at(adapter_name, function));
  }

  /// Appends an adapter, inactive, and returns a reference to it. The caller
  /// checks that the name is new.
  Adapter& add(Adapter adapter) {
    return adapters_.emplace_back(std::move(adapter));
  }
  /// Removes the adapter of this name and deactivates it. Does nothing for an
  /// unknown name. Does not check whether the adapter is merged: call
  /// `check_not_merged` first.
  void remove(const std::string& adapter_name) {
    std::erase(states_.active, adapter_name);
    std::erase_if(adapters_, [&](const auto& adapter) {
      return adapter.name == adapter_name;
    });
  }

  /// Makes exactly `adapter_names` the active adapters, in this order. Skips
  /// names that this layer does not have and repeated names.
  void set_active(const std::vector<std::string>& adapter_names) {
    states_.active = detail::each_once(
        adapter_names, [&](const auto& name) { return find(name); });
  }
  /// Sets `AdapterStates::enabled`.
  void set_enabled(bool enabled) {
    states_.enabled = enabled;
  }
  /// Records that an adapter has been merged. The caller has changed the base
  /// weight.
  void push_merged(const std::string& adapter_name) {
    states_.merged.push_back(adapter_name);
  }
  /// Removes the record of the adapter that was merged last. The caller has
  /// changed the base weight.
  void pop_merged() {
    states_.merged.pop_back();
  }

  /// Returns the adapters among `adapter_names` (default: the active adapters)
  /// that this layer has and that are not merged yet.
  std::vector<std::string> not_merged(
      const std::vector<std::string>& adapter_names) const {
    return detail::each_once(
        adapter_names.empty() ? states_.active : adapter_names,
        [&](const auto& name) {
          return find(name) && !states_.is_merged(name);
        });
  }
  /// Throws ValueError if the adapter is merged. The message says that
  /// `function` cannot change the adapter while it is merged into `layer_name`.
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
