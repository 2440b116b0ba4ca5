#include <algorithm>
#include <cmath>

#include <fmt/ranges.h>

#include <torchlora/detail/names.h>
#include <torchlora/error.h>
#include <torchlora/nn/inspect.h>
#include <torchlora/train/trainer.h>

namespace torchlora::train {

namespace {

/// Lists the first few names.
std::string some(std::vector<std::string> names) {
  if (names.size() > 3) {
    names.resize(3);
    names.emplace_back("…");
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

} // namespace

void Trainer::check_finite(double value, const char* what) const {
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
  const auto step = state_.global_step + 1;
  TORCHLORA_CHECK_DATA(
      frozen.empty(),
      "[Trainer] ",
      what,
      " of step ",
      step,
      " is ",
      value,
      ": the model's weights ",
      some(frozen),
      " have values that are not finite; the checkpoint is damaged");
  TORCH_CHECK(
      false,
      "[Trainer] ",
      what,
      " of step ",
      step,
      " is ",
      value,
      trained.empty() ? "" : "; not finite are " + some(trained),
      gradients.empty()
          ? ""
          : "; not finite are the gradients of " + some(gradients),
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
      fmt::format("{}", fmt::join(without, ", ")),
      "; the model does not use their layers for this data, leave them out "
      "by exclude_modules");
}

} // namespace torchlora::train
