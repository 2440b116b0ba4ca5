#pragma once

#include <atomic>

#include <torchlora/model.h>
#include <torchlora/train/arguments.h>
#include <torchlora/train/callback.h>
#include <torchlora/train/state.h>

namespace torchlora::train {

/// The training loop of any adapted module, transformers' `Trainer`: order,
/// gradient accumulation, clipping, AdamW, schedule, logging, evaluation and
/// checkpoints. A derived class computes the loss of a micro-batch.
///
/// The micro-batches of a step never cross epochs, so the last step of an epoch
/// may have fewer of them. The trainer divides the loss of a step by the number
/// of micro-batches that the step has.
///
/// The run stops with an error if a trainable tensor has no gradient in the
/// first step, or if a loss or a gradient is not finite. On the CPU that is
/// before the step. On another device the trainer looks when a record, an
/// evaluation or a checkpoint is due, as looking waits for the device: the
/// steps since then may have made the parameters NaN.
class TORCHLORA_API Trainer {
 public:
  virtual ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// Trains to the end of the run. Reads `stop` before every micro-batch. If it
  /// is true (a signal handler may set it), saves a checkpoint of the last
  /// complete step and returns with `TrainOutput::interrupted` set.
  TrainOutput train(const std::atomic<bool>* stop = nullptr);
  /// Computes the loss and the metrics of the evaluation data, adds them to the
  /// log and returns them. ValueError if there is no evaluation data. Returns
  /// an empty record if the `stop` flag of `train` becomes true meanwhile.
  LogRecord evaluate();

  /// Writes all adapters as TRL's `trainer.save_model` does: the adapter
  /// "default" into `directory`, each other adapter (such as a frozen `ref`)
  /// into a folder below it.
  void save_model(const std::filesystem::path& directory) const;
  /// Writes the adapters, trainer_state.json and, during `train`, the state of
  /// the optimizer to `output_dir`/checkpoint-N, where N is the number of steps
  /// done. Returns the path of this folder, which appears complete or not at
  /// all. ValueError if there is no `output_dir`.
  std::filesystem::path save_checkpoint();

  /// Adds `callback`. The trainer calls it after the callbacks that were added
  /// before.
  void add_callback(std::shared_ptr<TrainerCallback> callback);

  const TrainingArguments& args() const {
    return args_;
  }
  const TrainerState& state() const {
    return state_;
  }
  /// Returns the module that `peft_model()` adapted.
  Module& model() const {
    return peft_model_.base_model();
  }
  const PeftModel& peft_model() const {
    return peft_model_;
  }
  /// Returns the parameters that the trainer trains, each with its name in the
  /// module tree (`….q_proj.lora_A.default.weight`).
  const NamedTensors& trainable_parameters() const {
    return parameters_;
  }
  int64_t num_train_examples() const {
    return num_train_examples_;
  }
  int64_t num_eval_examples() const {
    return num_eval_examples_;
  }

 protected:
  /// Makes a trainer for the parameters that require gradients in the module
  /// that `peft_model` adapted. The caller keeps that module alive. ValueError
  /// if `args` is invalid or nothing is trainable.
  Trainer(PeftModel peft_model, TrainingArguments args);

  /// Sets the numbers of training and evaluation examples. The constructor of a
  /// derived class calls it; `compute_loss` then receives indices below these
  /// numbers. Without evaluation examples the trainer does not evaluate.
  void set_num_examples(int64_t num_train_examples, int64_t num_eval_examples);

  /// Computes the loss of the examples `indices` of the training data, or of
  /// the evaluation data if `training` is false. Returns a scalar,
  /// differentiable in training, and adds the metrics of these examples to
  /// `metrics`. The trainer calls it for every micro-batch.
  virtual Tensor compute_loss(
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
  void log(Run& run, double loss_sum, double grad_norm);
  LogRecord finish(Run& run);
  void record(LogRecord record);
  void start_log() const;
  void append_to_log(const LogRecord& record) const;
  void save_state() const;
  void check_at_once(const Tensor& value, const char* what, int64_t step) const;
  std::vector<double> read_since_last(Run& run) const;
  void check_finite(double value, const std::string& what) const;
  void check_gradients() const;

  PeftModel peft_model_;
  TrainingArguments args_;
  TrainerState state_;
  NamedTensors parameters_;
  std::vector<std::shared_ptr<TrainerCallback>> callbacks_;
  int64_t num_train_examples_ = 0, num_eval_examples_ = 0;
  /// The run in progress, or nullptr outside of `train`.
  Run* run_ = nullptr;
};

} // namespace torchlora::train
