#include "cli/training_options.h"

#include <torchlora/train/schedule.h>

namespace torchlora::cli {
namespace {

constexpr const char* kTraining = "Training";
constexpr const char* kLogging = "Logging, evaluation, checkpoints";

template <class T>
CLI::Option* add(
    CLI::App& app,
    const char* group,
    const char* name,
    T& value,
    const std::string& description) {
  return app.add_option(name, value, description)
      ->capture_default_str()
      ->group(group);
}

} // namespace

void add_training_options(CLI::App& app, train::TrainingArguments& args) {
  add(app,
      kTraining,
      "--per_device_train_batch_size",
      args.per_device_train_batch_size,
      "examples in a micro-batch");
  add(app,
      kTraining,
      "--gradient_accumulation_steps",
      args.gradient_accumulation_steps,
      "micro-batches in a step");
  add(app, kTraining, "--num_train_epochs", args.num_train_epochs, "epochs");
  add(app,
      kTraining,
      "--max_steps",
      args.max_steps,
      "steps; overrides the epochs if positive");
  add(app, kTraining, "--learning_rate", args.learning_rate, "peak");
  add(app,
      kTraining,
      "--lr_scheduler_type",
      args.lr_scheduler_type,
      "schedule of the learning rate")
      ->check(CLI::IsMember(train::lr_scheduler_types()));
  add(app,
      kTraining,
      "--warmup_steps,--warmup_ratio",
      args.warmup_steps,
      "steps of rising learning rate; below 1 the share of all steps");
  add(app, kTraining, "--weight_decay", args.weight_decay, "of AdamW");
  add(app, kTraining, "--adam_beta1", args.adam_beta1, "of AdamW");
  add(app, kTraining, "--adam_beta2", args.adam_beta2, "of AdamW");
  add(app, kTraining, "--adam_epsilon", args.adam_epsilon, "of AdamW");
  add(app,
      kTraining,
      "--loraplus_lr_ratio",
      args.loraplus_lr_ratio,
      "LoRA+: learning rate of B over that of A; 0: one for all");
  add(app,
      kTraining,
      "--loraplus_weight_decay",
      args.loraplus_weight_decay,
      "LoRA+: in place of --weight_decay");
  add(app,
      kTraining,
      "--loraplus_lr_embedding",
      args.loraplus_lr_embedding,
      "LoRA+: learning rate of embeddings' adapters");
  add(app,
      kTraining,
      "--max_grad_norm",
      args.max_grad_norm,
      "gradients are clipped to this norm; 0: never");
  add(app, kTraining, "--seed", args.seed, "of the adapter and the order");
  add(app,
      kTraining,
      "--train_sampling_strategy",
      args.train_sampling_strategy,
      "order of the examples")
      ->check(CLI::IsMember({"random", "sequential"}));

  add(app,
      kLogging,
      "--logging_steps",
      args.logging_steps,
      "log every that many steps; below 1 the share of all steps");
  add(app,
      kLogging,
      "--eval_strategy",
      args.eval_strategy,
      "when to evaluate, given --eval_dataset_name")
      ->check(CLI::IsMember({"steps", "epoch", "no"}));
  add(app,
      kLogging,
      "--eval_steps",
      args.eval_steps,
      "evaluate every that many steps; 0: as --logging_steps");
  app.add_flag(
         "--eval_on_start", args.eval_on_start, "evaluate before training too")
      ->group(kLogging);
  add(app,
      kLogging,
      "--per_device_eval_batch_size",
      args.per_device_eval_batch_size,
      "examples in an evaluation batch");
  add(app,
      kLogging,
      "--save_strategy",
      args.save_strategy,
      "when to write checkpoint-STEP")
      ->check(CLI::IsMember({"steps", "epoch", "no"}));
  add(app,
      kLogging,
      "--save_steps",
      args.save_steps,
      "save every that many steps, and at the end");
}

} // namespace torchlora::cli
