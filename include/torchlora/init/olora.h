#pragma once

#include <torch/types.h>

#include <torchlora/init/detail/decompose.h>

namespace torchlora::init {

/// The initializer "olora". With the QR decomposition W = Q R of the base
/// weight, it sets B to the first r columns of Q and A to the first r rows of
/// R. `LoraLayer::commit_adapter` then subtracts scaling · B A from the base
/// weight, so that the adapted layer starts as the base layer. Büyükakyüz 2024,
/// arXiv:2406.01775.
inline void olora_init(Factors& factors, const Arguments& arguments) {
  const auto weight = weight_to_decompose(arguments, "olora");
  // The first r columns of Q depend on the first r columns of W only.
  factors.B = std::get<0>(at::linalg_qr(weight.narrow(1, 0, arguments.r)));
  factors.A = at::mm(factors.B.t(), weight);
  // R is upper triangular.
  factors.A.narrow(1, 0, arguments.r).triu_();
}

} // namespace torchlora::init
