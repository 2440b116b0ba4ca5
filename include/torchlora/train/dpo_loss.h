#pragma once

#include <string>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/log_sigmoid.h>
#include <torchlora/tensor.h>

#include <torchlora/export.h>

namespace torchlora::train {

/// The input of a DPO loss. All tensors are [B] (one value per pair) and fp32.
struct DpoLossInput {
  /// @{
  /// Log-probabilities of the completions under the policy and under the
  /// reference, summed over the tokens.
  Tensor chosen_logps, rejected_logps;
  Tensor ref_chosen_logps, ref_rejected_logps;
  /// @}

  /// `DpoConfig::beta`.
  double beta;

  /// @{
  /// Policy minus reference, [B].
  Tensor chosen_logratios() const {
    return chosen_logps - ref_chosen_logps;
  }
  Tensor rejected_logratios() const {
    return rejected_logps - ref_rejected_logps;
  }
  /// @}
};

/// Computes the loss of each pair, [B].
using DpoLoss = Tensor (*)(const DpoLossInput& input);

/// Returns TRL's loss of this name. ValueError lists the names that exist.
TORCHLORA_API DpoLoss find_dpo_loss(const std::string& loss_type);

/// Returns the names that `find_dpo_loss` knows.
TORCHLORA_API std::vector<std::string> dpo_loss_types();

/// "sigmoid": −log σ(β (chosen − rejected log-ratio)). Rafailov et al. 2023,
/// eq. 7.
inline Tensor sigmoid_dpo_loss(const DpoLossInput& input) {
  const auto delta = input.chosen_logratios() - input.rejected_logratios();
  return -at::log_sigmoid(delta * input.beta);
}

} // namespace torchlora::train
