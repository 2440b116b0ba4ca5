#include <torchlora/nn/experts.h>

#include <numeric>
#include <optional>

#include <torch/types.h>

#include <torchlora/nn/compute.h>

#include "nn/scoped_value.h"

namespace torchlora::nn {
namespace {

/// A LoRA layer takes one tensor and no more.
thread_local std::optional<at::IntArrayRef> rows_at_work;

} // namespace

class StackedExperts::Product : public Redirectable {
 public:
  Product(StackedExperts& owner, std::string parameter_name)
      : owner_(owner), parameter_name_(std::move(parameter_name)) {}

  at::Tensor forward(const at::Tensor& rows) {
    return redirected_forward(rows);
  }
  at::Tensor base_forward(const at::Tensor& rows) override {
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

at::Tensor grouped_linear(
    const at::Tensor& rows,
    const at::Tensor& weight,
    at::IntArrayRef rows_per_expert) {
  const auto inputs = rows.split_with_sizes(rows_per_expert);
  std::vector<at::Tensor> outputs;
  for (size_t e = 0; e < inputs.size(); ++e) {
    if (inputs[e].size(0) > 0) {
      outputs.push_back(
          nn::linear(inputs[e], weight.select(0, static_cast<int64_t>(e))));
    }
  }
  return outputs.empty() ? nn::linear(rows, weight.select(0, 0))
                         : at::cat(outputs);
}

ExpertOrder sort_by_expert(const at::Tensor& expert_ids, int64_t experts) {
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

StackedExperts::StackedExperts(bool is_transposed)
    : is_transposed_(is_transposed) {}

StackedExperts::~StackedExperts() = default;

StackedExperts::StackedExperts(const StackedExperts& other)
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

StackedExperts& StackedExperts::operator=(const StackedExperts& other) {
  is_transposed_ = other.is_transposed_;
  return *this;
}

at::Tensor StackedExperts::expert_parameter(
    const std::string& parameter_name) const {
  const auto* module = dynamic_cast<const torch::nn::Module*>(this);
  const auto parameters = module
      ? module->named_parameters(/*recurse=*/false)
      : torch::OrderedDict<std::string, at::Tensor>();
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

StackedExperts::Product& StackedExperts::product(
    const std::string& parameter_name) {
  auto& entry = products_[parameter_name];
  if (!entry) {
    entry = std::make_unique<Product>(*this, parameter_name);
  }
  return *entry;
}

Redirectable& StackedExperts::expert_product(
    const std::string& parameter_name) {
  return product(parameter_name);
}

at::IntArrayRef StackedExperts::rows_per_expert() {
  TORCH_CHECK(
      rows_at_work,
      "[StackedExperts] the product of a stacked parameter needs to know the "
      "rows of each expert: call expert_linear");
  return *rows_at_work;
}

at::Tensor StackedExperts::expert_linear(
    const std::string& parameter_name,
    const at::Tensor& rows,
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
      " experts needs rows [T, in_features] and as many counts that add up to "
      "T, found rows ",
      rows.sizes(),
      " and counts ",
      rows_per_expert);
  const ScopedValue guard(
      rows_at_work, std::optional<at::IntArrayRef>(rows_per_expert));
  return product(parameter_name).forward(rows);
}

} // namespace torchlora::nn
