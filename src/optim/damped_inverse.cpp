#include "optim/damped_inverse.h"

#include <optional>

#include <torch/types.h>

namespace torchlora {

at::Tensor damped_inverse(const at::Tensor& factor, double damping) {
  const auto F =
      factor.detach().to(c10::promoteTypes(factor.scalar_type(), at::kFloat));
  const auto gram =
      at::mm(F, F.t()).add_(at::eye(F.size(0), F.options()), damping);
  const std::optional<double> tolerance;
  return at::linalg_pinv(gram, tolerance, tolerance, /*hermitian=*/true);
}

} // namespace torchlora
