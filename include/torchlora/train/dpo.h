#pragma once

#include <torchlora/tokenizer/chat_format.h>
#include <torchlora/tokenizer/tokenizer.h>
#include <torchlora/train/dataset.h>
#include <torchlora/train/dpo_loss.h>
#include <torchlora/train/preference.h>
#include <torchlora/train/token_scorer.h>
#include <torchlora/train/trainer.h>

namespace torchlora::train {

/// TRL's `DPOConfig`.
struct TORCHLORA_API DpoConfig : TrainingArguments, RowTruncation {
  /// The strength of the pull toward the reference.
  double beta = 0.1;
  /// Names in `dpo_loss_types()` (train/dpo_loss.h). Several losses are summed
  /// with `loss_weights`.
  std::vector<std::string> loss_type = {"sigmoid"};
  /// One weight per loss. Empty: each is 1.
  std::vector<double> loss_weights;
  /// The reference of the policy. "base": the model without adapters.
  /// "initial_adapter": a frozen copy of the adapter as it is now, kept as the
  /// adapter `ref`. "auto": "base" if the adapter changes nothing yet (every B
  /// is zero), otherwise "initial_adapter".
  std::string reference = "auto";
  /// Whether to switch off all dropout, that of the adapter included, as TRL
  /// does in DPO.
  bool disable_dropout = true;

  /// ValueError names the field that cannot be right.
  void validate() const;
};

/// Direct Preference Optimization (Rafailov et al. 2023) of the active
/// adapter, TRL's `DPOTrainer`. The model is an `nn::CausalLM`, of which only
/// the completion tokens go through the head, or any module whose logits a
/// callable gives (`TokenScorer`).
///
/// ValueError if the configuration cannot be right: nothing is trainable, a
/// tensor outside the adapter is, the adapter is merged into the base, or it
/// adapts the head of an `nn::CausalLM`. DataError if the data cannot be used.
class TORCHLORA_API DpoTrainer : public Trainer {
 public:
  /// `model` scores tokens by the module that `peft_model` adapted, which the
  /// caller keeps alive. Conversational data requires `chat_format`.
  DpoTrainer(
      TokenScorer model,
      PeftModel peft_model,
      const Tokenizer& tokenizer,
      DpoConfig config,
      const std::vector<PreferenceExample>& train_dataset,
      const std::vector<PreferenceExample>& eval_dataset = {},
      const ChatFormat* chat_format = nullptr);
  /// The same for tokenized data.
  DpoTrainer(
      TokenScorer model,
      PeftModel peft_model,
      DpoConfig config,
      PreferenceTokenSet train_dataset,
      PreferenceTokenSet eval_dataset,
      int64_t pad_token_id);

  const DpoConfig& config() const {
    return config_;
  }
  /// Returns "base" or "initial_adapter", also for the configuration "auto".
  const std::string& reference() const {
    return reference_;
  }
  const PreferenceTokenSet& train_dataset() const {
    return train_dataset_;
  }
  const PreferenceTokenSet& eval_dataset() const {
    return eval_dataset_;
  }

 protected:
  Tensor compute_loss(
      const std::vector<int64_t>& indices,
      bool training,
      Metrics& metrics) override;

 private:
  void check_adapters() const;
  void check_causal_lm(nn::CausalLM& causal_lm) const;
  void disable_dropout();
  void set_up_reference();
  TokenScores score(const PreferenceBatch& batch) const;
  /// Returns the summed log-probabilities [2B] of the rows under the reference.
  Tensor reference_logps(const PreferenceBatch& batch) const;
  void add_metrics(
      const PreferenceBatch& batch,
      const TokenScores& scores,
      const DpoLossInput& input,
      Metrics& metrics) const;

  TokenScorer scorer_;
  DpoConfig config_;
  PreferenceTokenSet train_dataset_, eval_dataset_;
  int64_t pad_token_id_;
  std::string reference_;
  int64_t num_train_tokens_ = 0;
};

} // namespace torchlora::train
