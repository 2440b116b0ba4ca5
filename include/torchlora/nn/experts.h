#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <torchlora/export.h>
#include <torchlora/nn/redirect.h>

namespace torchlora::nn {

/// x W_eᵀ for the rows of each expert e, by the compute route: `rows` [T, in]
/// sorted by expert, `weight` [experts, out, in] → [T, out]. A product an
/// expert that has rows.
TORCHLORA_API at::Tensor grouped_linear(
    const at::Tensor& rows,
    const at::Tensor& weight,
    at::IntArrayRef rows_per_expert);

/// The order of rows in which those of an expert are together.
struct ExpertOrder {
  /// [N]: for `index_select`.
  at::Tensor order;
  /// How many rows of that order each expert has.
  std::vector<int64_t> rows_per_expert;
};
/// `expert_ids` [N], int64 below `experts`. The one point of a layer where a
/// GPU is waited for.
TORCHLORA_API ExpertOrder
sort_by_expert(const at::Tensor& expert_ids, int64_t experts);

/// What a module with stacked weights of experts inherits beside
/// `torch::nn::Module`, so that `target_parameters` can adapt them: parameters
/// of its own, registered with it, [experts, out_features, in_features] or with
/// `is_transposed` [experts, in_features, out_features], or of one expert
/// [out_features, in_features]. Its forward reaches them by `expert_linear`.
///
///     auto [order, counts] = nn::sort_by_expert(ids, experts);
///     auto x = hidden.index_select(0, order);
///     x = expert_linear("up_proj", x, counts).relu();
///     x = expert_linear("down_proj", x, counts);
class TORCHLORA_API StackedExperts {
 public:
  /// See the class.
  explicit StackedExperts(bool is_transposed = false);
  virtual ~StackedExperts();
  /// An adapted module throws, as a copy would be the base only: `clone()`.
  StackedExperts(const StackedExperts& other);
  /// As the copy.
  StackedExperts& operator=(const StackedExperts& other);

  /// Whether the parameters are [experts, in_features, out_features].
  bool is_transposed() const {
    return is_transposed_;
  }
  /// ValueError if the module has no such parameter of its own.
  at::Tensor expert_parameter(const std::string& parameter_name) const;
  /// What `expert_linear` of a parameter is redirected by.
  Redirectable& expert_product(const std::string& parameter_name);
  /// Of the `expert_linear` at work in this thread; an error outside of one.
  static at::IntArrayRef rows_per_expert();

 protected:
  /// The product of the parameter with `rows` [T, in_features] that are sorted
  /// by expert, T the sum of `rows_per_expert` → [T, out_features].
  at::Tensor expert_linear(
      const std::string& parameter_name,
      const at::Tensor& rows,
      at::IntArrayRef rows_per_expert);

 private:
  class Product;
  Product& product(const std::string& parameter_name);

  bool is_transposed_;
  std::map<std::string, std::unique_ptr<Product>> products_;
};

} // namespace torchlora::nn
