#include <torchlora/train/token_scorer.h>

namespace torchlora::train {

TokenScores TokenScorer::operator()(
    const Tensor& input_ids,
    const Tensor& positions,
    const Tensor& labels) const {
  if (causal_lm_) {
    const auto hidden = causal_lm_->hidden_states(input_ids);
    return score_tokens(
        hidden.flatten(0, 1).index_select(0, positions),
        causal_lm_->lm_head(),
        labels);
  }
  const auto logits = logits_(input_ids);
  TORCH_CHECK_VALUE(
      logits.dim() == 3 && logits.size(0) == input_ids.size(0) &&
          logits.size(1) == input_ids.size(1),
      "[TokenScorer] logits [",
      input_ids.size(0),
      ", ",
      input_ids.size(1),
      ", vocab_size] are required, found ",
      logits.sizes());
  return score_logits(logits.flatten(0, 1).index_select(0, positions), labels);
}

} // namespace torchlora::train
