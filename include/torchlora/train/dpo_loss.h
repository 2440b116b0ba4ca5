#pragma once

#include <functional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <torchlora/export.h>

namespace torchlora::train {

/// What a DPO loss may look at; all tensors [B] (a pair each) and fp32.
struct TORCHLORA_API DpoLossInput {
  /// @{
  /// Summed log-probabilities of the completions under policy and reference.
  at::Tensor chosen_logps, rejected_logps;
  at::Tensor ref_chosen_logps, ref_rejected_logps;
  /// @}

  /// `DpoConfig::beta`.
  double beta;

  /// @{
  /// Policy less reference, [B].
  at::Tensor chosen_logratios() const;
  at::Tensor rejected_logratios() const;
  /// @}
};

/// The loss of each pair, [B].
using DpoLoss = at::Tensor (*)(const DpoLossInput& input);

/// TRL's loss of this name. ValueError lists the names there are.
TORCHLORA_API DpoLoss find_dpo_loss(const std::string& loss_type);

/// The names that `find_dpo_loss` knows.
TORCHLORA_API std::vector<std::string> dpo_loss_types();

/// "sigmoid": −log σ(β (chosen − rejected log-ratio)), Rafailov et al. 2023,
/// eq. 7.
TORCHLORA_API at::Tensor sigmoid_dpo_loss(const DpoLossInput& input);

} // namespace torchlora::train
