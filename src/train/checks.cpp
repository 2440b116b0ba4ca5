#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include <torchlora/detail/names.h>
#include <torchlora/error.h>
#include <torchlora/nn/inspect.h>
#include <torchlora/train/trainer.h>

#include "text/first_few.h"
#include "train/run.h"
#include "train/to_host.h"

namespace torchlora::train {

// NOTE: on another device than the CPU a value waits until a record, an
// evaluation or a checkpoint is due, so that no step waits for the device.
void Trainer::check_at_once(const Tensor& value, const char* what, int64_t step)
    const {
  if (value.is_cpu() && value.numel() == 1) {
    check_finite(
        value.item<double>(), fmt::format("{} of step {}", what, step));
  }
}

std::vector<double> Trainer::read_since_last(Run& run) const {
  if (!run.loss_sum.defined()) {
    return {0, 0};
  }
  const auto values = to_host({run.loss_sum, run.grad_norm});
  const auto steps = fmt::format(
      " of steps {} to {}", run.last_checked_step + 1, state_.global_step);
  check_finite(values[0], "the loss" + steps);
  check_finite(values[1], "the gradient norm" + steps);
  run.last_checked_step = state_.global_step;
  return values;
}

void Trainer::check_finite(double value, const std::string& what) const {
  if (std::isfinite(value)) {
    return;
  }
  std::vector<std::string> frozen, trained, gradients;
  for (const auto& name : nn::find_nonfinite(model())) {
    const bool is_trained = std::any_of(
        parameters_.begin(), parameters_.end(), [&](const auto& item) {
          return item.first == name;
        });
    (is_trained ? trained : frozen).push_back(name);
  }
  for (const auto& [name, parameter] : parameters_) {
    const auto& gradient = parameter.grad();
    if (gradient.defined() && !at::isfinite(gradient).all().item<bool>()) {
      gradients.push_back(name);
    }
  }
  TORCHLORA_CHECK_DATA(
      frozen.empty(),
      "[Trainer] ",
      what,
      " is ",
      value,
      ": the model's weights ",
      detail::first_few(frozen),
      " have values that are not finite; the checkpoint is damaged");
  TORCH_CHECK(
      false,
      "[Trainer] ",
      what,
      " is ",
      value,
      trained.empty() ? "" : "; not finite are " + detail::first_few(trained),
      gradients.empty()
          ? ""
          : "; not finite are the gradients of " + detail::first_few(gradients),
      "; lower learning_rate or max_grad_norm, or train in fp32");
}

void Trainer::check_gradients() const {
  std::vector<std::string> without;
  for (const auto& [name, parameter] : parameters_) {
    if (!parameter.grad().defined()) {
      without.push_back(name);
    }
  }
  // An adapter may be trainable and not active (LoadOptions::is_trainable).
  for (const auto& adapter : without.empty() ? std::vector<std::string>()
                                             : peft_model_.adapter_names()) {
    if (detail::contains(peft_model_.active_adapters(), adapter)) {
      continue;
    }
    for (const auto& inactive : peft_model_.state_dict(adapter)) {
      for (const auto& [name, parameter] : parameters_) {
        if (parameter.is_same(inactive.value())) {
          std::erase(without, name);
        }
      }
    }
  }
  TORCH_CHECK(
      without.empty(),
      "[Trainer] ",
      without.size(),
      " trainable tensors get no gradient, so they would never train: ",
      detail::first_few(without),
      "; the model does not use their layers for this data, leave them out "
      "by exclude_modules");
}

} // namespace torchlora::train
