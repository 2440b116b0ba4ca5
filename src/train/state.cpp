#include <torchlora/train/state.h>

#include <algorithm>

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <torchlora/io/atomic_file.h>

#include "train/to_host.h"

namespace torchlora::train {

namespace {

template <class Json>
Json json_of(const LogRecord& record) {
  auto object = Json::object();
  for (const auto& [name, value] : record.metrics) {
    object[name] = value;
  }
  object["epoch"] = record.epoch;
  object["step"] = record.step;
  return object;
}

} // namespace

const double* LogRecord::find(std::string_view name) const {
  const auto metric =
      std::find_if(metrics.begin(), metrics.end(), [&](const auto& entry) {
        return entry.first == name;
      });
  return metric == metrics.end() ? nullptr : &metric->second;
}

double LogRecord::at(std::string_view name) const {
  const auto* value = find(name);
  TORCH_CHECK_VALUE(
      value,
      "[LogRecord::at] the record of step ",
      step,
      " has no metric ",
      name);
  return *value;
}

std::string LogRecord::to_json() const {
  return json_of<nlohmann::ordered_json>(*this).dump();
}

Metrics::Entry& Metrics::entry(std::string_view name) {
  const auto found =
      std::find_if(entries_.begin(), entries_.end(), [&](const auto& entry) {
        return entry.name == name;
      });
  return found != entries_.end()
      ? *found
      : entries_.emplace_back(Entry{std::string(name)});
}

void Metrics::add(std::string_view name, double value, double weight) {
  auto& added = entry(name);
  added.sum += value * weight;
  added.weight += weight;
}

void Metrics::add(std::string_view name, const Tensor& value, double weight) {
  auto& added = entry(name);
  add_to(
      added.device_sum,
      value,
      fmt::format("[Metrics::add] the value of {}", name),
      weight);
  added.weight += weight;
}

void Metrics::set(std::string_view name, double value) {
  auto& last = entry(name);
  last.sum = value;
  last.weight = 1;
}

std::vector<std::pair<std::string, double>> Metrics::take(
    std::string_view prefix) {
  std::vector<Tensor> device_sums;
  for (const auto& entry : entries_) {
    if (entry.device_sum.defined()) {
      device_sums.push_back(entry.device_sum);
    }
  }
  const auto values = to_host(device_sums);
  auto value = values.begin();
  for (auto& entry : entries_) {
    if (entry.device_sum.defined()) {
      entry.sum += *value++;
    }
  }
  std::vector<std::pair<std::string, double>> means;
  for (const auto& entry : entries_) {
    means.emplace_back(
        std::string(prefix) + entry.name, entry.sum / entry.weight);
  }
  entries_.clear();
  return means;
}

std::string TrainerState::to_json() const {
  auto history = nlohmann::json::array();
  for (const auto& record : log_history) {
    history.push_back(json_of<nlohmann::json>(record));
  }
  const nlohmann::json control = {
      {"args",
       {{"should_epoch_stop", false},
        {"should_evaluate", false},
        {"should_log", false},
        {"should_save", true},
        {"should_training_stop", global_step >= max_steps}}},
      {"attributes", nlohmann::json::object()}};
  const nlohmann::json object = {
      {"best_global_step", nullptr},
      {"best_metric", nullptr},
      {"best_model_checkpoint", nullptr},
      {"epoch", epoch},
      {"eval_steps", eval_steps},
      {"global_step", global_step},
      {"is_hyper_param_search", false},
      {"is_local_process_zero", true},
      {"is_world_process_zero", true},
      {"log_history", std::move(history)},
      {"logging_steps", logging_steps},
      {"max_steps", max_steps},
      {"num_input_tokens_seen", 0},
      {"num_train_epochs", num_train_epochs},
      {"save_steps", save_steps},
      {"stateful_callbacks", {{"TrainerControl", control}}},
      {"total_flos", 0},
      {"train_batch_size", train_batch_size},
      {"trial_name", nullptr},
      {"trial_params", nullptr},
  };
  return object.dump(2) + "\n";
}

void TrainerState::save_to_json(const std::filesystem::path& path) const {
  io::write_file_atomic(path, to_json());
}

} // namespace torchlora::train
