#include <charconv>
#include <string_view>

#include <torch/types.h>

#include "init/decompose.h"

namespace torchlora::init {
namespace {

constexpr std::string_view kPrefix = "pissa_niter_";

} // namespace

void pissa_init(Factors& factors, const Arguments& arguments) {
  factors.subtract = true;
  share_out(
      factors,
      leading_triplets(weight_to_decompose(arguments, "pissa"), arguments.r),
      arguments.scaling);
}

void pissa_niter_init(Factors& factors, const Arguments& arguments) {
  const std::string_view name = arguments.config.init_lora_weights().name();
  const auto digits = name.substr(std::min(kPrefix.size(), name.size()));
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
  factors.subtract = true;
  share_out(
      factors,
      svd_lowrank(weight_to_decompose(arguments, "pissa"), arguments.r, niter),
      arguments.scaling);
}

} // namespace torchlora::init
