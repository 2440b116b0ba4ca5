#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <numeric>

#include <torch/types.h>

#include <torchlora/detail/scoped_value.h>
#include <torchlora/nn/compute.h>
#include <torchlora/nn/redirect.h>

// Mixtures of experts keep the weights of all experts in one parameter. A token
// goes through the experts that the router chose for it, so an expert sees a
// part of the rows. `sort_by_expert` brings the rows of each expert together
// and `StackedExperts::expert_linear` computes one product per expert that has
// rows. The redirection of a layer takes one tensor; the counts of rows travel
// beside it as a value of the thread, for the time of one `expert_linear`.

namespace torchlora::nn {

/// Returns `function(e, x)` of the rows x of each expert e that has rows, one
/// below the other; if there are no rows, `function(0, rows)`. `rows` [T, *] is
/// sorted by expert and `rows_per_expert` has the number of rows of each.
template <class Function>
Tensor for_each_expert(
    const Tensor& rows,
    at::IntArrayRef rows_per_expert,
    const Function& function) {
  const auto inputs = rows.split_with_sizes(rows_per_expert);
  std::vector<Tensor> outputs;
  for (size_t e = 0; e < inputs.size(); ++e) {
    if (inputs[e].size(0) > 0) {
      outputs.push_back(function(e, inputs[e]));
    }
  }
  return outputs.empty() ? function(0, rows) : at::cat(outputs);
}

/// Computes x W_eᵀ for the rows x of each expert e: `rows` [T, in], sorted by
/// expert, and `weight` [experts, out, in] → [T, out]. `rows_per_expert` has
/// the number of rows of each expert; the numbers add up to T. Calls
/// `nn::linear` once per expert that has rows.
inline Tensor grouped_linear(
    const Tensor& rows,
    const Tensor& weight,
    at::IntArrayRef rows_per_expert) {
  return for_each_expert(rows, rows_per_expert, [&](size_t e, const Tensor& x) {
    return nn::linear(x, weight.select(0, static_cast<int64_t>(e)));
  });
}

/// An order of N rows in which the rows of each expert are adjacent.
struct ExpertOrder {
  /// The permutation [N] of the N rows: `rows.index_select(0, order)` makes the
  /// rows of each expert adjacent. Rows of the same expert keep their order.
  Tensor order;
  /// How many of the N rows belong to each expert: one number per expert.
  std::vector<int64_t> rows_per_expert;
};

/// Returns the order that sorts N rows by expert, and the number of rows of
/// each expert. `expert_ids` [N] (int64) names the expert of each row;
/// ValueError if an id is not below `experts`. On a GPU this is the one place
/// where a layer of experts waits for the device.
inline ExpertOrder sort_by_expert(const Tensor& expert_ids, int64_t experts) {
  const auto counts =
      at::bincount(expert_ids, {}, experts).to(at::kCPU).contiguous();
  TORCH_CHECK_VALUE(
      counts.size(0) == experts,
      "[sort_by_expert] the ids of experts must be below ",
      experts,
      ", found ",
      counts.size(0) - 1);
  const auto* data = counts.const_data_ptr<int64_t>();
  return {
      at::argsort(expert_ids, /*stable=*/true, /*dim=*/0),
      std::vector<int64_t>(data, data + experts)};
}

/// A base class for modules that stack the weights of all experts in one
/// parameter, so that `target_parameters` can adapt it. Inherit it beside
/// `torch::nn::Module`. The module registers its parameters itself:
/// [experts, out_features, in_features], or
/// [experts, in_features, out_features] with `is_transposed`, or one expert
/// [out_features, in_features]. Its forward multiplies by them through
/// `expert_linear`:
///
///     auto [order, counts] = nn::sort_by_expert(ids, experts);
///     auto x = hidden.index_select(0, order);
///     x = expert_linear("up_proj", x, counts).relu();
///     x = expert_linear("down_proj", x, counts);
class TORCHLORA_API StackedExperts {
 public:
  /// Sets the layout of the module's parameters:
  /// [experts, in_features, out_features] if `is_transposed`, otherwise
  /// [experts, out_features, in_features].
  explicit StackedExperts(bool is_transposed = false)
      : is_transposed_(is_transposed) {}
  virtual ~StackedExperts();
  /// Copies the layout of `other`. Throws c10::Error if an adapter is attached
  /// to a parameter of `other`, because the copy would lack it. `clone()` of a
  /// module copies it through this constructor.
  StackedExperts(const StackedExperts& other)
      : is_transposed_(other.is_transposed_) {
    for (const auto& [name, product] : other.products_) {
      TORCH_CHECK(
          !product->redirect_target(),
          "[clone] the parameter ",
          name,
          " is adapted and a copy would be the base layer only; merge and "
          "unload the adapter first");
    }
  }
  /// Copies the layout (`is_transposed`) of `other`. Adapters stay attached to
  /// this module.
  StackedExperts& operator=(const StackedExperts& other) {
    is_transposed_ = other.is_transposed_;
    return *this;
  }

  /// Returns whether the module's parameters are
  /// [experts, in_features, out_features] instead of
  /// [experts, out_features, in_features].
  bool is_transposed() const {
    return is_transposed_;
  }

  /// Returns the module's own parameter `parameter_name`. ValueError if there
  /// is none of this name, or if it does not have 2 or 3 dimensions.
  Tensor expert_parameter(const std::string& parameter_name) const {
    const auto* module = dynamic_cast<const Module*>(this);
    const auto parameters = module ? module->named_parameters(/*recurse=*/false)
                                   : torch::OrderedDict<std::string, Tensor>();
    const auto* parameter = parameters.find(parameter_name);
    TORCH_CHECK_VALUE(
        parameter && (parameter->dim() == 2 || parameter->dim() == 3),
        "[StackedExperts] ",
        parameter_name,
        " must be a parameter of the module itself with 2 or 3 dimensions, "
        "found ",
        parameter ? std::to_string(parameter->dim()) : "none");
    return *parameter;
  }

  /// Returns the object that computes `expert_linear` for the parameter
  /// `parameter_name`. The LoRA layer of that parameter takes over its forward.
  Redirectable& expert_product(const std::string& parameter_name) {
    return product(parameter_name);
  }

  /// Returns the number of rows of each expert in the `expert_linear` call that
  /// this thread is running. The LoRA layer of a parameter asks for them.
  /// c10::Error if no such call is running.
  static at::IntArrayRef rows_per_expert() {
    const auto& rows = running_rows();
    TORCH_CHECK(
        rows,
        "[StackedExperts] the product of a stacked parameter needs to know the "
        "rows of each expert: call expert_linear");
    return *rows;
  }

 protected:
  /// Multiplies `rows` [T, in_features], sorted by expert, by the parameter
  /// `parameter_name` and its adapters; returns [T, out_features].
  /// `rows_per_expert` has the number of rows of each expert. ValueError if
  /// there is not one number per expert or they do not add up to T. The forward
  /// of the derived module calls it.
  Tensor expert_linear(
      const std::string& parameter_name,
      const Tensor& rows,
      at::IntArrayRef rows_per_expert) {
    const auto weight = expert_parameter(parameter_name);
    const auto experts = weight.dim() == 2 ? 1 : weight.size(0);
    const auto sum = std::accumulate(
        rows_per_expert.begin(), rows_per_expert.end(), int64_t{0});
    TORCH_CHECK_VALUE(
        rows.dim() == 2 &&
            static_cast<int64_t>(rows_per_expert.size()) == experts &&
            rows.size(0) == sum,
        "[expert_linear] ",
        parameter_name,
        " of ",
        experts,
        " experts needs rows [T, in_features] and as many counts that add up "
        "to T, found rows ",
        rows.sizes(),
        " and counts ",
        rows_per_expert);
    const detail::ScopedValue guard(
        running_rows(), std::optional<at::IntArrayRef>(rows_per_expert));
    // NOTE: nothing is inserted here: several threads may run a forward.
    const auto found = products_.find(parameter_name);
    return found != products_.end()
        ? found->second->forward(rows)
        : Product(*this, parameter_name).forward(rows);
  }

 private:
  /// The product of rows with one parameter. The LoRA layer of the parameter
  /// takes over its forward.
  class TORCHLORA_API Product : public Redirectable {
   public:
    Product(StackedExperts& owner, std::string parameter_name)
        : owner_(owner), parameter_name_(std::move(parameter_name)) {}
    ~Product() override;

    Tensor forward(const Tensor& rows) {
      return redirected_forward(rows);
    }
    Tensor base_forward(const Tensor& rows) override {
      const auto weight = owner_.expert_parameter(parameter_name_);
      return grouped_linear(
          rows,
          weight.dim() == 2            ? weight.unsqueeze(0)
              : owner_.is_transposed() ? weight.transpose(1, 2)
                                       : weight,
          rows_per_expert());
    }

   private:
    StackedExperts& owner_;
    std::string parameter_name_;
  };

  /// The `rows_per_expert` of the `expert_linear` call that this thread is
  /// running.
  static std::optional<at::IntArrayRef>& running_rows();

  Product& product(const std::string& parameter_name) {
    auto& entry = products_[parameter_name];
    if (!entry) {
      entry = std::make_unique<Product>(*this, parameter_name);
    }
    return *entry;
  }

  bool is_transposed_;
  std::map<std::string, std::unique_ptr<Product>> products_;
};

} // namespace torchlora::nn
