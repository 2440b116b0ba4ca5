#include "cli/merge_probe.h"

#include <c10/util/ScopeExit.h>
#include <torch/types.h>

#include <torchlora/lora/layer.h>

namespace torchlora::cli {
namespace {

/// Rounding errors of a row are independent, so their sum is of the size of the
/// row's norm. Ten times that never occurs by chance.
constexpr double kRoundings = 10;

/// Rows of a weight of any layer type: [out_features, in_features · …].
Tensor rows(const Tensor& weight) {
  return weight.dim() > 1 ? weight.flatten(1) : weight.unsqueeze(1);
}

/// The adapted weight in at least fp32: the base weight has that dtype
/// meanwhile.
Tensor precise_adapted_weight(LoraLayer& layer) {
  Tensor weight = layer.base_weight().weight();
  if (!at::isReducedFloatingType(weight.scalar_type())) {
    return layer.adapted_weight();
  }
  const Tensor stored = weight.tensor_data();
  const auto restore = c10::make_scope_exit([&] { weight.set_data(stored); });
  weight.set_data(stored.to(at::kFloat));
  return layer.adapted_weight();
}

double unit_roundoff(at::ScalarType dtype) {
  return dtype == at::kBFloat16 ? 0x1p-8
      : dtype == at::kHalf      ? 0x1p-11
      : dtype == at::kFloat     ? 0x1p-24
                                : 0x1p-53;
}

} // namespace

MergeProbe::MergeProbe(const PeftModel& peft_model) {
  const torch::NoGradGuard no_grad;
  for (const auto& [name, layer] : peft_model.layers()) {
    const Tensor weight = layer->base_weight().weight();
    const Tensor adapted = rows(precise_adapted_weight(*layer));
    const Tensor signs =
        at::randint(0, 2, {adapted.size(1)}, at::kDouble).mul_(2).sub_(1);
    const Tensor values = adapted.to(at::kDouble);
    // The factors are fp32, so their product is rounded even for fp64 weights.
    const double roundoff =
        std::max(unit_roundoff(weight.scalar_type()), 0x1p-24);
    layers_.push_back(
        {name,
         weight,
         signs,
         values.mv(signs),
         values.norm(2, {1}).mul_(kRoundings * roundoff).add_(1e-30)});
  }
}

std::vector<std::string> MergeProbe::differing_layers() const {
  const torch::NoGradGuard no_grad;
  std::vector<std::string> names;
  for (const Layer& layer : layers_) {
    const Tensor merged = rows(layer.weight).to(at::kDouble).mv(layer.signs);
    // NOTE: not `gt`, which a NaN passes.
    if (!(merged - layer.product).abs().le(layer.bound).all().item<bool>()) {
      names.push_back(layer.name);
    }
  }
  return names;
}

} // namespace torchlora::cli
