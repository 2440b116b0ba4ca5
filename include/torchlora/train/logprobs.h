#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include <torchlora/export.h>
#include <torchlora/nn/pretrained.h>

namespace torchlora::train {

/// How much of the [N, vocab_size] logits exists at a time.
struct LogProbTiling {
  /// Rows of a tile.
  int64_t tokens = 1024;
  /// Columns of a tile.
  int64_t vocabulary = 8192;
};

/// The scores of N tokens, each [N] and fp32 (fp64 for fp64 hidden states).
struct TokenScores {
  /// log p(label); differentiable in the hidden states and in the head's
  /// replaced rows.
  at::Tensor logps;
  /// Mean of the (soft-capped) logits over the vocabulary.
  at::Tensor mean_logits;
  /// Entropy of the distribution, in nats.
  at::Tensor entropy;
  /// Bool: the label is the most probable token (the first of equals).
  at::Tensor is_top1;
};

/// Scores `labels` [N] (int64) under the distributions that `head` gives for
/// `hidden` [N, hidden_size]. The logits are computed a tile at a time, with
/// a running log-sum-exp, and again in the backward pass, which adds up the
/// hidden states' gradient in fp32. ValueError if the head's weight requires
/// a gradient: it gets none.
TORCHLORA_API TokenScores score_tokens(
    const at::Tensor& hidden,
    const nn::LmHead& head,
    const at::Tensor& labels,
    const LogProbTiling& tiling = {});

} // namespace torchlora::train
