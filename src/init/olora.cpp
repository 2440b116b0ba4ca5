#include <torch/types.h>

#include "init/decompose.h"

namespace torchlora::init {

void olora_init(Factors& factors, const Arguments& arguments) {
  const auto weight = weight_to_decompose(arguments, "olora");
  // The first r columns of Q depend on the first r columns of W only.
  factors.B = std::get<0>(at::linalg_qr(weight.narrow(1, 0, arguments.r)));
  factors.A = at::mm(factors.B.t(), weight);
  // R is upper triangular.
  factors.A.narrow(1, 0, arguments.r).triu_();
  factors.subtract = true;
}

} // namespace torchlora::init
