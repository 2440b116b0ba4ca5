#pragma once

#include <torchlora/tokenizer/chat_format.h>
#include <torchlora/tokenizer/tokenizer.h>
#include <torchlora/train/dataset.h>
#include <torchlora/train/dpo_loss.h>
#include <torchlora/train/preference.h>
#include <torchlora/train/token_scorer.h>
#include <torchlora/train/trainer.h>

namespace torchlora::train {

/// The configuration of `DpoTrainer`: TRL's `DPOConfig`.
struct TORCHLORA_API DpoConfig : TrainingArguments, RowTruncation {
  /// The factor β in the DPO loss. A larger one keeps the trained model closer
  /// to the reference model.
  double beta = 0.1;
  /// The losses to compute: names in `dpo_loss_types()` (train/dpo_loss.h). The
  /// trainer adds several losses with `loss_weights`.
  std::vector<std::string> loss_type = {"sigmoid"};
  /// The weight of each loss in `loss_type`. Empty: each weight is 1.
  std::vector<double> loss_weights;
  /// The reference model. "base": the model without adapters.
  /// "initial_adapter": a frozen copy of the adapter as it is before training,
  /// which becomes the adapter `ref`. "auto": "base" if the adapter changes
  /// nothing yet (every B is zero), otherwise "initial_adapter".
  std::string reference = "auto";
  /// Whether to switch off all dropout of the model and of the adapter, as TRL
  /// does in DPO.
  bool disable_dropout = true;

  /// Checks all fields. ValueError names the first field with an invalid value.
  void validate() const;
};

/// A trainer for Direct Preference Optimization (Rafailov et al. 2023) of the
/// active adapter, TRL's `DPOTrainer`. The model is an `nn::CausalLM`, whose
/// head then computes the completion tokens only, or any module whose logits a
/// callable returns (`TokenScorer`).
///
/// ValueError if the configuration is invalid, nothing is trainable, a tensor
/// outside the adapter is trainable, the adapter is merged into the base, or it
/// adapts the head of an `nn::CausalLM`. DataError if the data cannot be used.
class TORCHLORA_API DpoTrainer : public Trainer {
 public:
  /// Tokenizes both data sets and sets up the reference model. `model` scores
  /// tokens with the module that `peft_model` adapted; the caller keeps that
  /// module alive. Data that is conversational requires `chat_format`.
  DpoTrainer(
      TokenScorer model,
      PeftModel peft_model,
      const Tokenizer& tokenizer,
      DpoConfig config,
      const std::vector<PreferenceExample>& train_dataset,
      const std::vector<PreferenceExample>& eval_dataset = {},
      const ChatFormat* chat_format = nullptr);
  /// Takes data sets that are tokenized already, and sets up the reference
  /// model. `model` scores tokens with the module that `peft_model` adapted;
  /// the caller keeps that module alive. Batches are padded with
  /// `pad_token_id`.
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
  /// Returns which reference model this trainer uses: "base" or
  /// "initial_adapter", also if the configuration says "auto".
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
  /// Returns the log-probabilities of the 2B completions under the reference
  /// model, each summed over its tokens: [2B].
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
