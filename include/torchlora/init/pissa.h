#pragma once

#include <algorithm>
#include <charconv>
#include <string_view>

#include <torch/types.h>

#include <torchlora/init/detail/decompose.h>

namespace torchlora::init {

/// The initializer "pissa". Sets A and B so that scaling · B A is the best
/// approximation of the base weight W of rank r, U_r S_r V_rᵀ:
///
///     A = √(S_r / scaling) V_rᵀ,  B = U_r √(S_r / scaling)
///
/// `LoraLayer::commit_adapter` then subtracts scaling · B A from the base
/// weight, so that the adapted layer starts as the base layer. Meng et al.
/// 2024, arXiv:2404.02948.
inline void pissa_init(Factors& factors, const Arguments& arguments) {
  share_out(
      factors,
      leading_triplets(weight_to_decompose(arguments, "pissa"), arguments.r),
      arguments.scaling);
}

/// The initializer "pissa_niter_N". Does what "pissa" does, with an approximate
/// decomposition: N steps of a randomized subspace iteration that draws as
/// `torch.svd_lowrank` does. ValueError if N is not a number.
inline void pissa_niter_init(Factors& factors, const Arguments& arguments) {
  constexpr std::string_view prefix = "pissa_niter_";
  const std::string_view name = arguments.config.init_lora_weights().name();
  const auto digits = name.substr(std::min(prefix.size(), name.size()));
  int64_t niter = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), niter);
  TORCH_CHECK_VALUE(
      error == std::errc() && end == digits.data() + digits.size() &&
          niter >= 0,
      "[init_lora_weights] should be \"pissa\" or \"pissa_niter_[number of "
      "iters]\", got \"",
      name,
      "\"");
  share_out(
      factors,
      svd_lowrank(weight_to_decompose(arguments, "pissa"), arguments.r, niter),
      arguments.scaling);
}

} // namespace torchlora::init
