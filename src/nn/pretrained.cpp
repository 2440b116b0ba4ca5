#include <torchlora/nn/pretrained.h>

#include <torch/types.h>

#include <torchlora/nn/compute.h>

namespace torchlora::nn {

at::Tensor LmHead::logits(const at::Tensor& hidden) const {
  auto raw = nn::linear(hidden, weight);
  if (replaced_rows) {
    raw = replaced_rows->project(raw, hidden);
  }
  return final_logit_softcapping > 0
      ? at::tanh(raw / final_logit_softcapping) * final_logit_softcapping
      : raw;
}

} // namespace torchlora::nn
