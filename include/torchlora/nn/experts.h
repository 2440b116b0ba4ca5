#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <numeric>

#include <torch/nn/module.h>
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

/// Computes x W_eᵀ for the rows of each expert e: `rows` [T, in] sorted by
/// expert, `weight` [experts, out, in] → [T, out]. One product per expert that
/// has rows, by the compute route.
inline Tensor grouped_linear(
    const Tensor& rows,
    const Tensor& weight,
    at::IntArrayRef rows_per_expert) {
  const auto inputs = rows.split_with_sizes(rows_per_expert);
  std::vector<Tensor> outputs;
  for (size_t e = 0; e < inputs.size(); ++e) {
    if (inputs[e].size(0) > 0) {
      outputs.push_back(
          nn::linear(inputs[e], weight.select(0, static_cast<int64_t>(e))));
    }
  }
  return outputs.empty() ? nn::linear(rows, weight.select(0, 0))
                         : at::cat(outputs);
}

/// An order of rows in which the rows of each expert are adjacent.
struct ExpertOrder {
  /// [N]: for `index_select`.
  Tensor order;
  /// The number of rows per expert.
  std::vector<int64_t> rows_per_expert;
};

/// Sorts the rows of a layer by expert: `expert_ids` [N], int64 below
/// `experts`. On a GPU this is the one place where a layer waits for the
/// device. ValueError for an id that is too large.
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

/// A base class for modules with stacked expert weights, so that
/// `target_parameters` can adapt them. Inherit it beside `torch::nn::Module`.
/// The module registers the parameters itself: [experts, out_features,
/// in_features], or [experts, in_features, out_features] with `is_transposed`,
/// or one expert [out_features, in_features]. Its forward uses them through
/// `expert_linear`.
///
///     auto [order, counts] = nn::sort_by_expert(ids, experts);
///     auto x = hidden.index_select(0, order);
///     x = expert_linear("up_proj", x, counts).relu();
///     x = expert_linear("down_proj", x, counts);
class TORCHLORA_API StackedExperts {
 public:
  /// `is_transposed`: the parameters are [experts, in_features, out_features].
  explicit StackedExperts(bool is_transposed = false)
      : is_transposed_(is_transposed) {}
  virtual ~StackedExperts();
  /// Throws if `other` is adapted, as the copy would be the base only:
  /// `clone()`.
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
  /// Assigns the layout; the products of this module stay.
  StackedExperts& operator=(const StackedExperts& other) {
    is_transposed_ = other.is_transposed_;
    return *this;
  }

  /// Whether the parameters are [experts, in_features, out_features].
  bool is_transposed() const {
    return is_transposed_;
  }

  /// Returns a parameter of the module. ValueError if the module itself has no
  /// such parameter of 2 or 3 dimensions.
  Tensor expert_parameter(const std::string& parameter_name) const {
    const auto* module = dynamic_cast<const torch::nn::Module*>(this);
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

  /// Returns the object that redirects `expert_linear` of a parameter.
  Redirectable& expert_product(const std::string& parameter_name) {
    return product(parameter_name);
  }

  /// Returns the counts that were passed to the `expert_linear` that is running
  /// in this thread. `c10::Error` outside of one.
  static at::IntArrayRef rows_per_expert() {
    const auto& rows = running_rows();
    TORCH_CHECK(
        rows,
        "[StackedExperts] the product of a stacked parameter needs to know the "
        "rows of each expert: call expert_linear");
    return *rows;
  }

 protected:
  /// Multiplies `rows` [T, in_features], which are sorted by expert, by the
  /// parameter → [T, out_features]. `rows_per_expert` adds up to T.
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
    return product(parameter_name).forward(rows);
  }

 private:
  /// The product of one parameter with rows; what a LoRA layer takes over.
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

  /// A value of the thread: the counts of the `expert_linear` that is running.
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
