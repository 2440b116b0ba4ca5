#pragma once

#include <torchlora/nn/pretrained.h>

namespace torchlora::train {

/// The size of the tiles of [N, vocab_size] logits, of which one exists at a
/// time.
struct LogProbTiling {
  int64_t tokens = 1024;
  int64_t vocabulary = 8192;
};

/// The scores of N tokens, each [N] and fp32 (fp64 for fp64 inputs).
struct TokenScores {
  /// log p(label); differentiable in the hidden states and the head's replaced
  /// rows (`score_tokens`) or in the logits (`score_logits`).
  Tensor logps;
  /// Mean of the (soft-capped) logits over the vocabulary.
  Tensor mean_logits;
  /// Entropy of the distribution, in nats.
  Tensor entropy;
  /// Bool: whether the label is the most probable token (the first of equals).
  Tensor is_top1;
};

/// Scores `labels` [N] (int64) under the distributions that `head` gives for
/// `hidden` [N, hidden_size]. Computes the logits one tile at a time with a
/// running log-sum-exp, and a second time in the backward pass, which sums the
/// gradient of the hidden states in fp32. ValueError if the weight of the head
/// requires a gradient, because it would get none.
TORCHLORA_API TokenScores score_tokens(
    const Tensor& hidden,
    const nn::LmHead& head,
    const Tensor& labels,
    const LogProbTiling& tiling = {});

/// Scores `labels` [N] (int64) under the distributions of `logits`
/// [N, vocab_size] by plain autograd: for models that give logits only.
/// DataError if a label is not in the vocabulary.
TORCHLORA_API TokenScores
score_logits(const Tensor& logits, const Tensor& labels);

} // namespace torchlora::train
