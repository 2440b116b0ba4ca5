#include "init/incremental_pca.h"

#include <algorithm>
#include <cmath>

#include <torch/types.h>

#include <torchlora/init/detail/decompose.h>

namespace torchlora::init {
namespace {

constexpr uint64_t kSeed = 42;

} // namespace

Tensor IncrementalPca::explained_variance_ratio() const {
  return singular_values_.square() / deviation_;
}

void IncrementalPca::fit(const Tensor& rows) {
  const auto n = rows.size(0);
  TORCH_CHECK_VALUE(
      n_components_ <= rows.size(1),
      "[initialize_lora_eva_weights] ",
      n_components_,
      " components (round(r · rho)) of rows with ",
      rows.size(1),
      " features; take a smaller `r` or `rho`");
  if (n < n_components_) {
    return;
  }
  const auto x = rows.to(c10::promoteTypes(rows.scalar_type(), at::kFloat));
  const auto mean = x.mean(0, /*keepdim=*/false, at::kDouble);
  auto centered = (x - mean).to(x.scalar_type());
  const auto deviation = centered.square().sum(at::kDouble);
  const bool is_first = !components_.defined();
  if (is_first) {
    mean_ = mean;
    deviation_ = deviation;
  } else {
    const auto old_n = static_cast<double>(n_rows_);
    const auto new_n = static_cast<double>(n);
    const auto share = old_n * new_n / (old_n + new_n);
    const auto shift = mean_ - mean;
    deviation_ = deviation_ + deviation + share * shift.square().sum();
    centered = at::cat(
        {singular_values_.unsqueeze(1) * components_,
         centered,
         (std::sqrt(share) * shift).to(x.scalar_type()).unsqueeze(0)});
    mean_ = (old_n * mean_ + new_n * mean) / (old_n + new_n);
  }
  n_rows_ += n;

  // The draw is in the dtype that PEFT computes in.
  const auto q = 2 * n_components_;
  const auto test_matrix = randn_seeded(
      {std::min(centered.size(0), centered.size(1)), q},
      kSeed,
      is_first ? centered : mean);
  const auto found = svd_lowrank(
      centered, q, /*niter=*/4, test_matrix.to(centered.scalar_type()));
  const auto V = found.V.narrow(1, 0, n_components_).t();
  // The largest element of a component is positive.
  const auto largest = V.abs().argmax(1, /*keepdim=*/true);
  const auto components = V * at::sign(V.gather(1, largest));
  if (!is_first) {
    cosines_ =
        at::cosine_similarity(components, components_.to(V.scalar_type()));
  }
  components_ = components;
  singular_values_ = found.S.narrow(0, 0, n_components_);
}

} // namespace torchlora::init
