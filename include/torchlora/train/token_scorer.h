#pragma once

#include <concepts>
#include <functional>

#include <torchlora/nn/pretrained.h>
#include <torchlora/train/logprobs.h>

namespace torchlora::train {

namespace detail {
/// A type that dereferences to an `nn::CausalLM`, such as the
/// `torch::nn::ModuleHolder` of one.
template <class T>
concept HolderOfCausalLM = requires(T& holder) {
  { *holder } -> std::convertible_to<nn::CausalLM&>;
};
} // namespace detail

/// A scorer that gets the log-probabilities of tokens from a model. Two kinds
/// of models convert to it, so a trainer that takes a `TokenScorer` takes the
/// model itself:
///
/// - An `nn::CausalLM`, or the holder of one. Only the hidden states that are
///   scored go through its head, in tiles of the vocabulary (`score_tokens`),
///   so no [B, T, vocab_size] tensor exists.
/// - Anything else that can be called with input ids [B, T] (int64) and returns
///   logits [B, T, vocab_size]: the holder of a plain module, or a lambda.
///   `score_logits` scores its logits.
class TORCHLORA_API TokenScorer {
 public:
  /// A function that returns the logits [B, T, vocab_size] of input ids [B, T]:
  /// B rows of T tokens.
  using Logits = std::function<Tensor(const Tensor& input_ids)>;

  /// Makes a scorer that uses `model`, a causal language model. The caller
  /// keeps `model` alive.
  TokenScorer(nn::CausalLM& model) : causal_lm_(&model) {}
  /// Makes a scorer that uses the causal language model in the holder `model`.
  /// The caller keeps the model alive.
  template <detail::HolderOfCausalLM Holder>
  TokenScorer(Holder& model) : causal_lm_(&*model) {}
  /// Makes a scorer that calls `logits` with input ids for the logits. It
  /// passes no attention mask: rows are padded on the right, so a causal model
  /// needs none.
  template <std::convertible_to<Logits> Call>
    requires(!detail::HolderOfCausalLM<Call>)
  TokenScorer(Call logits) : logits_(std::move(logits)) {}

  /// Scores `labels` [N]. `positions` [N] says where the model predicts each
  /// label: row · T + t, where t is the place before the label in `input_ids`
  /// [B, T]. See `TokenScores` for what is returned.
  TokenScores operator()(
      const Tensor& input_ids,
      const Tensor& positions,
      const Tensor& labels) const;

  /// Returns the causal language model that scores, or nullptr if a callable
  /// does.
  nn::CausalLM* causal_lm() const {
    return causal_lm_;
  }

 private:
  nn::CausalLM* causal_lm_ = nullptr;
  Logits logits_;
};

} // namespace torchlora::train
