#pragma once

#include <torchlora/nn/pretrained.h>

namespace torchlora::train {

/// The size of a tile: `score_tokens` computes the logits [N, vocab_size] one
/// tile of `tokens` × `vocabulary` at a time.
struct LogProbTiling {
  int64_t tokens = 1024;
  int64_t vocabulary = 8192;
};

/// The scores of N labels, each tensor [N]: fp32 (fp64 for fp64 inputs),
/// `is_top1` bool.
struct TokenScores {
  /// The log-probability of each label. Differentiable in the hidden states and
  /// the replaced rows of the head if `score_tokens` made it, in the logits if
  /// `score_logits` did.
  Tensor logps;
  /// The mean of the (soft-capped) logits over the vocabulary.
  Tensor mean_logits;
  /// The entropy of the model's distribution over the vocabulary, in nats.
  Tensor entropy;
  /// Whether the label is the most probable token (the first of equals); bool.
  Tensor is_top1;
};

/// Scores `labels` [N] (int64) under the distributions that `head` gives for
/// the hidden states `hidden` [N, hidden_size]. Computes the logits one tile at
/// a time with a running log-sum-exp, and a second time in the backward pass,
/// which sums the gradient of the hidden states in fp32. ValueError if the
/// weight of the head requires a gradient, because it would get none.
TORCHLORA_API TokenScores score_tokens(
    const Tensor& hidden,
    const nn::LmHead& head,
    const Tensor& labels,
    const LogProbTiling& tiling = {});

/// Scores `labels` [N] (int64) under the distributions of `logits`
/// [N, vocab_size]. Uses plain autograd, for models that return logits only.
/// DataError if a label is not in the vocabulary; on another device than the
/// CPU nobody looks, as that would wait for it.
TORCHLORA_API TokenScores
score_logits(const Tensor& logits, const Tensor& labels);

} // namespace torchlora::train
