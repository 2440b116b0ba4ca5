#include <torchlora/lora/combine.h>

#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/types.h>

#include <torchlora/detail/names.h>

namespace torchlora {
namespace {

const std::vector<std::string> kByFactor{
    "linear",
    "magnitude_prune",
    "ties",
    "dare_linear",
    "dare_ties"};
const std::vector<std::string> kByUpdate{
    "cat",
    "svd",
    "magnitude_prune_svd",
    "ties_svd",
    "dare_linear_svd",
    "dare_ties_svd"};

Tensor keep_largest(const Tensor& tensor, double density) {
  const auto k =
      static_cast<int64_t>(density * static_cast<double>(tensor.numel()));
  const auto kept = std::get<1>(at::topk(tensor.abs().reshape(-1), k));
  auto mask = at::zeros({tensor.numel()}, tensor.options());
  return tensor * mask.index_fill_(0, kept, 1).view(tensor.sizes());
}

Tensor keep_random(const Tensor& tensor, double density) {
  return tensor * at::bernoulli(at::full_like(tensor, density)) / density;
}

/// The values of each place whose sign is that of most, averaged.
Tensor
elect(const Tensor& tasks, const Tensor& weights, const std::string& method) {
  const auto sign = tasks.sign();
  const auto votes = (method == "total" ? tasks : sign).sum(0);
  const auto majority = at::where(votes.ge(0), 1, -1);
  const auto agrees = sign.eq(majority);
  return (tasks * weights * agrees).sum(0) / agrees.sum(0).clamp_min(1);
}

/// Tensors of the same sizes, by a kind without its "_svd".
Tensor mix(
    const std::vector<Tensor>& tensors,
    const std::vector<double>& weights,
    const std::string& kind,
    const CombinationOptions& options) {
  std::vector<Tensor> tasks;
  const double density = options.density().value_or(1);
  for (const auto& tensor : tensors) {
    tasks.push_back(
        density == 1                   ? tensor
            : kind.starts_with("dare") ? keep_random(tensor, density)
            : options.prunes()         ? keep_largest(tensor, density)
                                       : tensor);
  }
  const auto stack = at::stack(tasks);
  std::vector<int64_t> sizes(stack.dim(), 1);
  sizes[0] = -1;
  const auto w =
      torch::tensor(weights, stack.options().requires_grad(false)).view(sizes);
  return kind.ends_with("ties")
      ? elect(stack, w, options.majority_sign_method())
      : (stack * w).sum(0);
}

/// B A approximated by `rank`, the singular values with B.
CombinedUpdate approximate(
    const Tensor& U,
    const Tensor& S,
    const Tensor& Vh,
    const CombinationOptions& options,
    int64_t rank) {
  const auto r = std::min(rank, S.size(0));
  auto B = U.narrow(1, 0, r) * S.narrow(0, 0, r);
  auto A = Vh.narrow(0, 0, r);
  if (const auto quantile = options.svd_clamp()) {
    const auto high =
        at::quantile(at::cat({B.flatten(), A.flatten()}), *quantile);
    B = B.clamp(-high, high);
    A = A.clamp(-high, high);
  }
  return {A, B};
}

CombinedUpdate concatenate(const std::vector<WeightedUpdate>& updates) {
  std::vector<Tensor> As, Bs;
  for (const auto& update : updates) {
    As.push_back(update.A * (update.weight * update.scaling));
    Bs.push_back(update.B);
  }
  return {at::cat(As), at::cat(Bs, 1)};
}

/// Σ weight · scaling · B A is of low rank, so its SVD is that of a small
/// matrix.
CombinedUpdate approximate_sum(
    const std::vector<WeightedUpdate>& updates,
    const CombinationOptions& options,
    int64_t rank) {
  const auto [A, B] = concatenate(updates);
  const auto [Qb, Rb] = at::linalg_qr(B);
  const auto [Qa, Ra] = at::linalg_qr(A.t());
  const auto [U, S, Vh] =
      at::linalg_svd(at::mm(Rb, Ra.t()), /*full_matrices=*/false);
  return approximate(at::mm(Qb, U), S, at::mm(Vh, Qa.t()), options, rank);
}

} // namespace

bool CombinationOptions::prunes() const {
  return combination_type_ != "linear" && combination_type_ != "cat" &&
      combination_type_ != "svd";
}

bool CombinationOptions::is_by_factor() const {
  return detail::contains(kByFactor, combination_type_);
}

void CombinationOptions::validate() const {
  TORCH_CHECK_VALUE(
      is_by_factor() || detail::contains(kByUpdate, combination_type_),
      "[add_weighted_adapter] Invalid combination_type: ",
      combination_type_,
      "; it must be one of ",
      fmt::format(
          "{}, {}", fmt::join(kByFactor, ", "), fmt::join(kByUpdate, ", ")));
  TORCH_CHECK_VALUE(
      !prunes() || (density_ && *density_ > 0 && *density_ <= 1),
      "[add_weighted_adapter] ",
      combination_type_,
      " needs a density, the share of values to keep, in (0, 1], found ",
      density_ ? c10::str(*density_) : "none");
  TORCH_CHECK_VALUE(
      majority_sign_method_ == "total" || majority_sign_method_ == "frequency",
      "[add_weighted_adapter] majority_sign_method must be total or "
      "frequency, found ",
      majority_sign_method_);
  TORCH_CHECK_VALUE(
      !svd_rank_ || *svd_rank_ > 0,
      "[add_weighted_adapter] svd_rank must be positive, found ",
      svd_rank_.value_or(0));
  TORCH_CHECK_VALUE(
      !svd_clamp_ || (*svd_clamp_ >= 0 && *svd_clamp_ <= 1),
      "[add_weighted_adapter] svd_clamp must be a quantile in [0, 1], found ",
      svd_clamp_.value_or(0));
}

CombinedUpdate combine_updates(
    const std::vector<WeightedUpdate>& updates,
    const CombinationOptions& options,
    int64_t rank,
    WeightLayout layout) {
  torch::NoGradGuard no_grad;
  const auto& type = options.combination_type();
  if (type == "cat") {
    return concatenate(updates);
  }
  if (type == "svd") {
    return approximate_sum(updates, options, rank);
  }
  std::vector<Tensor> As, Bs, products;
  std::vector<double> signed_roots, roots, weights;
  for (const auto& [A, B, scaling, weight] : updates) {
    As.push_back(A);
    Bs.push_back(B);
    roots.push_back(std::sqrt(std::abs(weight * scaling)));
    // The sign on one side only, or it would be lost.
    signed_roots.push_back(std::copysign(roots.back(), weight));
    if (!options.is_by_factor()) {
      const auto product = at::mm(B, A) * scaling;
      products.push_back(
          layout == WeightLayout::kInOut ? product.t() : product);
      weights.push_back(weight);
    }
  }
  if (options.is_by_factor()) {
    auto A = mix(As, signed_roots, type, options);
    return {A, mix(Bs, roots, type, options)};
  }
  const auto kind = type.substr(0, type.size() - std::string("_svd").size());
  auto update = mix(products, weights, kind, options);
  update = layout == WeightLayout::kInOut ? update.t() : update;
  const auto [U, S, Vh] = at::linalg_svd(update, /*full_matrices=*/false);
  return approximate(U, S, Vh, options, rank);
}

} // namespace torchlora
