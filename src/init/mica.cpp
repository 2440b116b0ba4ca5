#include <torch/types.h>

#include "init/decompose.h"

namespace torchlora::init {

void mica_init(Factors& factors, const Arguments& arguments) {
  factors.trains_B = false;
  if (arguments.is_loaded) {
    return;
  }
  const auto weight = weight_to_decompose(arguments, "mica");
  const auto U = std::get<0>(at::linalg_svd(weight, /*full_matrices=*/false));
  factors.B = U.narrow(1, U.size(1) - arguments.r, arguments.r);
  factors.A = at::zeros_like(factors.A);
}

} // namespace torchlora::init
