#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/log_sigmoid.h>
#include <torchlora/types.h>

#include <torchlora/export.h>

namespace torchlora::train {

/// The input of a DPO loss for B pairs. All tensors are [B] (one value per
/// pair) and fp32.
struct DpoLossInput {
  /// @{
  /// The log-probabilities of the B chosen and rejected completions under the
  /// trained model and (`ref_`) under the reference model, each summed over the
  /// tokens.
  Tensor chosen_logps, rejected_logps;
  Tensor ref_chosen_logps, ref_rejected_logps;
  /// @}

  /// The factor β of the loss: `DpoConfig::beta`.
  double beta;

  /// @{
  /// Returns the log-probabilities under the trained model minus those under
  /// the reference model, [B], of the chosen or the rejected completions.
  Tensor chosen_logratios() const {
    return chosen_logps - ref_chosen_logps;
  }
  Tensor rejected_logratios() const {
    return rejected_logps - ref_rejected_logps;
  }
  /// @}
};

/// A function that returns the DPO loss of each of B pairs: [B].
using DpoLoss = Tensor (*)(const DpoLossInput& input);

/// Returns the function that computes TRL's loss of the name `loss_type`.
/// ValueError lists the names that exist.
TORCHLORA_API DpoLoss find_dpo_loss(const std::string& loss_type);

/// Returns the names of all DPO losses that `find_dpo_loss` finds.
TORCHLORA_API std::vector<std::string> dpo_loss_types();

/// Returns the loss "sigmoid" of each pair, [B]: −log σ(β (chosen log-ratio −
/// rejected log-ratio)). Rafailov et al. 2023, eq. 7.
inline Tensor sigmoid_dpo_loss(const DpoLossInput& input) {
  const auto delta = input.chosen_logratios() - input.rejected_logratios();
  return -at::log_sigmoid(delta * input.beta);
}

} // namespace torchlora::train
