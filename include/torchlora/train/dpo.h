#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <torchlora/export.h>
#include <torchlora/tokenizer/tokenizer.h>
#include <torchlora/train/dataset.h>
#include <torchlora/train/dpo_loss.h>
#include <torchlora/train/logprobs.h>
#include <torchlora/train/preference.h>
#include <torchlora/train/trainer.h>

namespace torchlora::train {

/// TRL's `DPOConfig`.
struct TORCHLORA_API DpoConfig : TrainingArguments, RowTruncation {
  /// Strength of the pull towards the reference.
  double beta = 0.1;
  /// Names of `dpo_loss_types()` (train/dpo_loss.h); several are summed with
  /// `loss_weights` (empty: each 1).
  std::vector<std::string> loss_type = {"sigmoid"};
  /// One for each of `loss_type`.
  std::vector<double> loss_weights;
  /// What the policy is compared with: "base", the model without adapters;
  /// "initial_adapter", a frozen copy of the adapter as it is now, kept as
  /// the adapter `ref`; "auto", the base where the adapter changes nothing
  /// yet (every B is zero), else the initial adapter.
  std::string reference = "auto";
  /// TRL switches dropout off in DPO, that of the adapter included.
  bool disable_dropout = true;

  /// ValueError names the field that cannot be right.
  void validate() const;
};

/// Direct Preference Optimization (Rafailov et al. 2023) of the active
/// adapter, TRL's `DPOTrainer`. Log-probabilities are computed of completion
/// tokens only and in tiles of the vocabulary.
///
/// ValueError if the configuration cannot be right: nothing trainable or more
/// than an adapter, an adapter on the output head, an adapter that is merged
/// into the base. DataError if the data cannot be used.
class TORCHLORA_API DpoTrainer : public Trainer {
 public:
  /// `model` is the one that `peft_model` adapted. Both stay the caller's.
  DpoTrainer(
      nn::CausalLM& model,
      PeftModel peft_model,
      const Tokenizer& tokenizer,
      DpoConfig config,
      const std::vector<PreferenceExample>& train_dataset,
      const std::vector<PreferenceExample>& eval_dataset = {});
  /// The same for data that is tokenized already.
  DpoTrainer(
      nn::CausalLM& model,
      PeftModel peft_model,
      DpoConfig config,
      PreferenceTokenSet train_dataset,
      PreferenceTokenSet eval_dataset,
      int64_t pad_token_id);

  /// As it was given.
  const DpoConfig& config() const {
    return config_;
  }
  /// "base" or "initial_adapter": what "auto" came to.
  const std::string& reference() const {
    return reference_;
  }
  /// @{
  /// Tokenized.
  const PreferenceTokenSet& train_dataset() const {
    return train_dataset_;
  }
  const PreferenceTokenSet& eval_dataset() const {
    return eval_dataset_;
  }
  /// @}

 protected:
  at::Tensor compute_loss(
      const std::vector<int64_t>& indices,
      bool training,
      Metrics& metrics) override;

 private:
  void check_adapters() const;
  void check_tokens(const PreferenceTokenSet& dataset) const;
  void disable_dropout();
  void set_up_reference();
  /// Summed log-probabilities [2B] of a batch's rows under the reference.
  at::Tensor reference_logps(const PreferenceBatch& batch);
  void add_metrics(
      const PreferenceBatch& batch,
      const TokenScores& scores,
      const DpoLossInput& input,
      Metrics& metrics) const;

  DpoConfig config_;
  PreferenceTokenSet train_dataset_, eval_dataset_;
  int64_t pad_token_id_;
  std::string reference_;
  int64_t num_train_tokens_ = 0;
};

} // namespace torchlora::train
