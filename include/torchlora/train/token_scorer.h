#pragma once

#include <concepts>
#include <functional>
#include <utility>

#include <torchlora/nn/pretrained.h>
#include <torchlora/train/logprobs.h>

namespace torchlora::train {

namespace detail {
/// A `torch::nn::ModuleHolder` of an `nn::CausalLM`.
template <class T>
concept HolderOfCausalLM = requires(T& holder) {
  { *holder } -> std::convertible_to<nn::CausalLM&>;
};
} // namespace detail

/// Gets the log-probabilities of tokens from a model. It converts from either
/// kind of model, so a trainer that takes a `TokenScorer` takes the model
/// itself:
///
/// - An `nn::CausalLM`, or the holder of one. Only the hidden states that are
///   scored go through its head, in tiles of the vocabulary (`score_tokens`),
///   so no [B, T, vocab_size] tensor exists.
/// - Anything else that can be called with input ids [B, T] (int64) and returns
///   logits [B, T, vocab_size]: the holder of a plain module, or a lambda. Its
///   logits are scored by `score_logits`.
class TORCHLORA_API TokenScorer {
 public:
  /// Returns logits [B, T, vocab_size] of input ids [B, T].
  using Logits = std::function<Tensor(const Tensor& input_ids)>;

  /// The caller keeps `model` alive.
  TokenScorer(nn::CausalLM& model) : causal_lm_(&model) {}
  /// The same for the holder of a causal language model.
  template <detail::HolderOfCausalLM Holder>
  TokenScorer(Holder& model) : causal_lm_(&*model) {}
  /// Rows are padded on the right, so a causal model needs no attention mask.
  template <std::convertible_to<Logits> Call>
    requires(!detail::HolderOfCausalLM<Call>)
  TokenScorer(Call logits) : logits_(std::move(logits)) {}

  /// Scores `labels` [N] under the distributions at `positions` [N] (row · T +
  /// t) of `input_ids` [B, T].
  TokenScores operator()(
      const Tensor& input_ids,
      const Tensor& positions,
      const Tensor& labels) const;

  /// Returns the causal language model, or nullptr for a callable.
  nn::CausalLM* causal_lm() const {
    return causal_lm_;
  }

 private:
  nn::CausalLM* causal_lm_ = nullptr;
  Logits logits_;
};

} // namespace torchlora::train
