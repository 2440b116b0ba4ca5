#include <cmath>

#include <fmt/ranges.h>
#include <torch/types.h>

#include <torchlora/error.h>
#include <torchlora/train/trainer.h>

namespace torchlora::train {

namespace {

/// Names of the tensors that have a NaN or an infinity, the first few.
template <class Named>
std::string non_finite(const Named& named) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : named) {
    if (tensor.defined() && !at::isfinite(tensor).all().template item<bool>()) {
      names.push_back(name);
      if (names.size() == 3) {
        names.emplace_back("…");
        break;
      }
    }
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

} // namespace

void Trainer::check_finite(double value, const char* what) const {
  if (std::isfinite(value)) {
    return;
  }
  std::vector<std::pair<std::string, at::Tensor>> frozen, gradients;
  for (const auto& item : model_.module().named_parameters()) {
    if (!item.value().requires_grad()) {
      frozen.emplace_back(item.key(), item.value());
    }
  }
  for (const auto& [name, parameter] : parameters_) {
    gradients.emplace_back(name, parameter.grad());
  }
  const auto step = state_.global_step + 1;
  const auto bad_frozen = non_finite(frozen);
  TORCHLORA_CHECK_DATA(
      bad_frozen.empty(),
      "[Trainer] ",
      what,
      " of step ",
      step,
      " is ",
      value,
      ": the model's weights ",
      bad_frozen,
      " have values that are not finite; the checkpoint is damaged");
  const auto bad_trained = non_finite(parameters_);
  const auto bad_gradients = non_finite(gradients);
  TORCH_CHECK(
      false,
      "[Trainer] ",
      what,
      " of step ",
      step,
      " is ",
      value,
      bad_trained.empty() ? "" : "; not finite are " + bad_trained,
      bad_gradients.empty()
          ? ""
          : "; not finite are the gradients of " + bad_gradients,
      "; lower learning_rate or max_grad_norm, or train in fp32");
}

void Trainer::check_gradients() const {
  std::vector<std::string> without;
  for (const auto& [name, parameter] : parameters_) {
    if (!parameter.grad().defined()) {
      without.push_back(name);
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
