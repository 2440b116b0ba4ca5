#pragma once

#include <atomic>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <torchlora/export.h>
#include <torchlora/model.h>
#include <torchlora/nn/pretrained.h>
#include <torchlora/train/arguments.h>
#include <torchlora/train/callback.h>
#include <torchlora/train/state.h>

namespace torchlora::train {

/// The training loop that all trainers share, transformers' `Trainer`: order,
/// accumulation windows (which never cross epochs; the loss is divided by the
/// number of micro-batches that the window has), clipping, AdamW, schedule,
/// logging, evaluation, checkpoints. A trainer derives from it and gives the
/// loss and the metrics of a micro-batch.
///
/// Stops with an error, instead of training on: a trainable tensor without a
/// gradient on the first step, a loss or gradient that is not finite.
class TORCHLORA_API Trainer {
 public:
  virtual ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// Trains to the end. `stop` is looked at before every micro-batch; once
  /// it is true (it may be set by a signal handler) the run saves a
  /// checkpoint of the last whole step and returns `interrupted`.
  TrainOutput train(const std::atomic<bool>* stop = nullptr);
  /// Evaluates on the evaluation data and records it. ValueError without
  /// such data. Ends without a record when the run is to stop.
  LogRecord evaluate();

  /// Writes the adapter as TRL's `trainer.save_model` does: "default" into
  /// `directory`, others (a frozen `ref`) into folders below it.
  void save_model(const std::filesystem::path& directory) const;
  /// Writes `output_dir`/checkpoint-N, N the step: the adapter,
  /// trainer_state.json and the optimizer's state. The folder appears whole or
  /// not at all.
  std::filesystem::path save_checkpoint();

  /// Callbacks are called in the order in which they were added.
  void add_callback(std::shared_ptr<TrainerCallback> callback);

  /// @{
  /// What it was made of, and where it is.
  const TrainingArguments& args() const {
    return args_;
  }
  const TrainerState& state() const {
    return state_;
  }
  nn::CausalLM& model() const {
    return model_;
  }
  const PeftModel& peft_model() const {
    return peft_model_;
  }
  /// @}

  /// What is trained, by the names of the module tree
  /// (`….q_proj.lora_A.default.weight`).
  const std::vector<std::pair<std::string, at::Tensor>>& trainable_parameters()
      const {
    return parameters_;
  }
  /// @{
  /// Of the data sets.
  int64_t num_train_examples() const {
    return num_train_examples_;
  }
  int64_t num_eval_examples() const {
    return num_eval_examples_;
  }
  /// @}

 protected:
  /// ValueError if the arguments cannot be right or nothing is trainable.
  Trainer(nn::CausalLM& model, PeftModel peft_model, TrainingArguments args);

  /// How many examples the data sets have; 0 evaluation examples: none.
  void set_num_examples(int64_t num_train_examples, int64_t num_eval_examples);

  /// The loss (a scalar, differentiable in training) of the training or the
  /// evaluation examples with these indices; its metrics go to `metrics`.
  virtual at::Tensor compute_loss(
      const std::vector<int64_t>& indices,
      bool training,
      Metrics& metrics) = 0;

 private:
  struct Run;
  template <class Call>
  void notify(const Call& call) {
    for (const auto& callback : callbacks_) {
      call(*callback);
    }
  }
  void start(Run& run);
  std::vector<int64_t> epoch_order(int64_t epoch) const;
  void run_epoch(Run& run, int64_t epoch);
  bool run_step(Run& run, const std::vector<int64_t>& window);
  void after_step(Run& run, bool ends_epoch);
  void log(Run& run);
  LogRecord finish(Run& run);
  void record(LogRecord record);
  void start_log() const;
  void append_to_log(const LogRecord& record) const;
  void save_state() const;
  void check_finite(double value, const char* what) const;
  void check_gradients() const;

  nn::CausalLM& model_;
  PeftModel peft_model_;
  TrainingArguments args_;
  TrainerState state_;
  std::vector<std::pair<std::string, at::Tensor>> parameters_;
  std::vector<std::shared_ptr<TrainerCallback>> callbacks_;
  int64_t num_train_examples_ = 0, num_eval_examples_ = 0;
  /// The run that is going on, for what a callback may ask for.
  Run* run_ = nullptr;
};

} // namespace torchlora::train
