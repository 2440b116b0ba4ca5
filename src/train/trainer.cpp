#include <torchlora/train/trainer.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include <ATen/CPUGeneratorImpl.h>
#include <c10/util/ScopeExit.h>
#include <torch/types.h>

#include <torchlora/train/optimizer.h>

#include "train/run.h"
#include "train/to_host.h"

namespace torchlora::train {

namespace {

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
      .count();
}

double rounded(double value, double digits) {
  const double scale = std::pow(10, digits);
  return std::round(value * scale) / scale;
}

/// Adds `<prefix>_runtime` and the samples and steps per second.
void add_speed(
    LogRecord& record,
    const std::string& prefix,
    double seconds,
    double samples,
    double steps) {
  record.metrics.emplace_back(prefix + "_runtime", rounded(seconds, 4));
  record.metrics.emplace_back(
      prefix + "_samples_per_second", rounded(samples / seconds, 3));
  record.metrics.emplace_back(
      prefix + "_steps_per_second", rounded(steps / seconds, 3));
}

} // namespace

Trainer::Trainer(PeftModel peft_model, TrainingArguments args)
    : peft_model_(std::move(peft_model)), args_(std::move(args)) {
  args_.validate();
  for (const auto& item : model().named_parameters()) {
    if (item.value().requires_grad()) {
      parameters_.emplace_back(item.key(), item.value());
    }
  }
  TORCH_CHECK_VALUE(
      !parameters_.empty(),
      "[Trainer] nothing is trainable; make an adapter active by set_adapter "
      "or load it with is_trainable");
}

Trainer::~Trainer() = default;

TrainerCallback::~TrainerCallback() = default;

void Trainer::set_num_examples(
    int64_t num_train_examples,
    int64_t num_eval_examples) {
  num_train_examples_ = num_train_examples;
  num_eval_examples_ = num_eval_examples;
}

void Trainer::add_callback(std::shared_ptr<TrainerCallback> callback) {
  callbacks_.push_back(std::move(callback));
}

void Trainer::start(Run& run) {
  const auto batches =
      ceil_div(num_train_examples_, args_.per_device_train_batch_size);
  const auto steps = ceil_div(batches, args_.gradient_accumulation_steps);
  state_ = {};
  state_.max_steps = args_.max_steps > 0
      ? args_.max_steps
      : static_cast<int64_t>(
            std::ceil(args_.num_train_epochs * static_cast<double>(steps)));
  state_.num_train_epochs = args_.max_steps > 0
      ? ceil_div(args_.max_steps, steps)
      : static_cast<int64_t>(std::ceil(args_.num_train_epochs));
  state_.logging_steps = whole_steps(args_.logging_steps, state_.max_steps);
  state_.eval_steps = args_.eval_steps > 0
      ? whole_steps(args_.eval_steps, state_.max_steps)
      : state_.logging_steps;
  state_.save_steps = whole_steps(args_.save_steps, state_.max_steps);
  state_.train_batch_size = args_.per_device_train_batch_size;
  run.batches_per_epoch = batches;
  run.optimizer = args_.loraplus_lr_ratio > 0
      ? make_loraplus_adamw(model(), args_)
      : make_adamw(parameters_, args_);
  run.peak_learning_rates = learning_rates(*run.optimizer);
  run.schedule = make_lr_schedule(
      args_.lr_scheduler_type,
      whole_steps(args_.warmup_steps, state_.max_steps),
      state_.max_steps);
}

TrainOutput Trainer::train(const std::atomic<bool>* stop) {
  TORCH_CHECK_VALUE(
      num_train_examples_ > 0, "[train] there are no training examples");
  TORCH_CHECK_VALUE(!run_, "[train] the trainer is training already");
  Run run;
  run.stop = stop;
  start(run);
  run_ = &run;
  const auto end_of_run = c10::make_scope_exit([&] { run_ = nullptr; });
  start_log();
  model().train();
  model().zero_grad();
  notify([&](auto& callback) { callback.on_train_begin(*this); });
  if (args_.eval_on_start && num_eval_examples_ > 0) {
    evaluate();
  }
  for (int64_t epoch = 0;
       state_.global_step < state_.max_steps && !run.interrupted;
       ++epoch) {
    run_epoch(run, epoch);
  }
  TrainOutput output;
  output.interrupted = run.interrupted;
  output.metrics = finish(run);
  output.global_step = state_.global_step;
  output.training_loss = run.total_loss /
      static_cast<double>(std::max<int64_t>(1, state_.global_step));
  notify([&](auto& callback) { callback.on_train_end(*this); });
  return output;
}

std::vector<int64_t> Trainer::epoch_order(int64_t epoch) const {
  std::vector<int64_t> order(static_cast<size_t>(num_train_examples_));
  std::iota(order.begin(), order.end(), 0);
  if (args_.train_sampling_strategy == "random") {
    const auto generator = at::detail::createCPUGenerator(
        args_.seed + static_cast<uint64_t>(epoch));
    const auto permutation =
        at::randperm(num_train_examples_, generator, at::kLong);
    std::copy_n(
        permutation.const_data_ptr<int64_t>(), order.size(), order.begin());
  }
  return order;
}

void Trainer::run_epoch(Run& run, int64_t epoch) {
  const auto order = epoch_order(epoch);
  const auto window_size =
      args_.per_device_train_batch_size * args_.gradient_accumulation_steps;
  for (int64_t begin = 0; begin < num_train_examples_; begin += window_size) {
    const auto end = std::min(begin + window_size, num_train_examples_);
    notify([&](auto& callback) { callback.on_step_begin(*this); });
    if (!run_step(run, {order.begin() + begin, order.begin() + end})) {
      run.interrupted = true;
      return;
    }
    ++state_.global_step;
    const auto batches = ceil_div(end, args_.per_device_train_batch_size);
    state_.epoch = static_cast<double>(epoch) +
        static_cast<double>(batches) /
            static_cast<double>(run.batches_per_epoch);
    notify([&](auto& callback) { callback.on_step_end(*this); });
    const bool is_last = state_.global_step >= state_.max_steps;
    after_step(run, is_last || end == num_train_examples_);
    if (is_last) {
      return;
    }
  }
}

bool Trainer::run_step(Run& run, const std::vector<int64_t>& window) {
  const auto batch_size =
      static_cast<size_t>(args_.per_device_train_batch_size);
  const auto num_micro_steps =
      ceil_div(static_cast<int64_t>(window.size()), batch_size);
  Tensor step_loss;
  for (int64_t i = 0; i < num_micro_steps; ++i) {
    if (run.should_stop()) {
      model().zero_grad();
      return false;
    }
    const auto begin = window.begin() + i * batch_size;
    const auto size = std::min<size_t>(batch_size, window.end() - begin);
    const auto loss =
        compute_loss({begin, begin + size}, /*training=*/true, run.metrics) /
        num_micro_steps;
    check_at_once(loss, "the loss", state_.global_step + 1);
    loss.backward();
    add_to(step_loss, loss, "[compute_loss] the loss");
    notify([&](auto& callback) {
      callback.on_substep_end(*this, i + 1, num_micro_steps);
    });
  }
  if (state_.global_step == 0) {
    check_gradients();
  }
  notify([&](auto& callback) { callback.on_pre_optimizer_step(*this); });
  add_to(run.loss_sum, step_loss, "the loss");
  run.grad_norm = grad_norm(parameters_);
  check_at_once(run.grad_norm, "the gradient norm", state_.global_step + 1);
  if (args_.max_grad_norm > 0) {
    clip_gradients(parameters_, run.grad_norm, args_.max_grad_norm);
  }
  const auto factor = run.schedule(state_.global_step);
  run.learning_rate = args_.learning_rate * factor;
  scale_learning_rates(*run.optimizer, run.peak_learning_rates, factor);
  run.optimizer->step();
  model().zero_grad();
  return true;
}

void Trainer::after_step(Run& run, bool ends_epoch) {
  const auto step = state_.global_step;
  const bool is_last = step >= state_.max_steps;
  const auto is_due = [&](const std::string& strategy, int64_t every) {
    return (strategy == "steps" && (step % every == 0 || is_last)) ||
        (strategy == "epoch" && ends_epoch);
  };
  const bool logs = step % state_.logging_steps == 0;
  const bool evaluates =
      num_eval_examples_ > 0 && is_due(args_.eval_strategy, state_.eval_steps);
  const bool saves = !args_.output_dir.empty() &&
      is_due(args_.save_strategy, state_.save_steps);
  if (logs || evaluates || saves) {
    const auto values = read_since_last(run);
    if (logs) {
      log(run, values[0], values[1]);
    }
  }
  if (evaluates) {
    evaluate();
  }
  if (saves) {
    save_checkpoint();
  }
}

void Trainer::log(Run& run, double loss_sum, double grad_norm) {
  LogRecord entry;
  entry.metrics = {
      {"loss",
       loss_sum /
           static_cast<double>(state_.global_step - run.last_logged_step)},
      {"grad_norm", grad_norm},
      {"learning_rate", run.learning_rate}};
  for (auto& metric : run.metrics.take()) {
    entry.metrics.push_back(std::move(metric));
  }
  run.total_loss += loss_sum;
  run.loss_sum.reset();
  run.last_logged_step = state_.global_step;
  record(std::move(entry));
}

LogRecord Trainer::finish(Run& run) {
  run.total_loss += read_since_last(run)[0];
  if (run.interrupted) {
    if (state_.global_step > 0) {
      if (!args_.output_dir.empty() &&
          run.last_saved_step != state_.global_step) {
        save_checkpoint();
      }
      save_state();
    }
    return {};
  }
  LogRecord summary;
  const auto steps = static_cast<double>(state_.global_step);
  const auto samples =
      args_.max_steps > 0 ? steps *
          static_cast<double>(args_.per_device_train_batch_size *
                              args_.gradient_accumulation_steps)
                          : static_cast<double>(num_train_examples_) *
          args_.num_train_epochs;
  add_speed(summary, "train", seconds_since(run.started), samples, steps);
  summary.metrics.emplace_back("train_loss", run.total_loss / steps);
  for (auto& metric : run.metrics.take()) {
    summary.metrics.push_back(std::move(metric));
  }
  record(std::move(summary));
  save_state();
  return state_.log_history.back();
}

LogRecord Trainer::evaluate() {
  TORCH_CHECK_VALUE(
      num_eval_examples_ > 0, "[evaluate] there are no evaluation examples");
  auto& module = model();
  const bool was_training = module.is_training();
  module.eval();
  const auto back = c10::make_scope_exit([&] { module.train(was_training); });
  torch::NoGradGuard no_grad;
  const auto started = std::chrono::steady_clock::now();
  const auto batch_size = args_.per_device_eval_batch_size;
  const auto num_batches = ceil_div(num_eval_examples_, batch_size);
  Metrics metrics;
  Tensor loss_sum;
  for (int64_t batch = 0; batch < num_batches; ++batch) {
    if (run_ && run_->should_stop()) {
      return {};
    }
    const auto begin = batch * batch_size;
    std::vector<int64_t> indices(
        static_cast<size_t>(std::min(batch_size, num_eval_examples_ - begin)));
    std::iota(indices.begin(), indices.end(), begin);
    const auto loss = compute_loss(indices, /*training=*/false, metrics);
    check_at_once(loss, "the evaluation loss", state_.global_step);
    add_to(
        loss_sum,
        loss,
        "[compute_loss] the loss",
        static_cast<double>(indices.size()));
    notify([&](auto& callback) {
      callback.on_prediction_step(*this, batch + 1, num_batches);
    });
  }
  const auto num_examples = static_cast<double>(num_eval_examples_);
  const auto eval_loss = loss_sum.item<double>() / num_examples;
  check_finite(
      eval_loss,
      "the evaluation loss of step " + std::to_string(state_.global_step));
  LogRecord entry;
  entry.metrics.emplace_back("eval_loss", eval_loss);
  add_speed(
      entry,
      "eval",
      seconds_since(started),
      num_examples,
      static_cast<double>(num_batches));
  for (auto& metric : metrics.take("eval_")) {
    entry.metrics.push_back(std::move(metric));
  }
  record(std::move(entry));
  const auto recorded = state_.log_history.back();
  notify([&](auto& callback) { callback.on_evaluate(*this, recorded); });
  return recorded;
}

void Trainer::record(LogRecord entry) {
  entry.step = state_.global_step;
  entry.epoch = state_.epoch;
  append_to_log(entry);
  state_.log_history.push_back(std::move(entry));
  const auto recorded = state_.log_history.back();
  notify([&](auto& callback) { callback.on_log(*this, recorded); });
}

} // namespace torchlora::train
