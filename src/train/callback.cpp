#include <torchlora/train/callback.h>

#include <torchlora/io/safetensors.h>
#include <torchlora/train/trainer.h>

namespace torchlora::train {

namespace {

/// `….lora_A.default.weight` → `base_model.model.….lora_A.weight`.
std::string peft_key(const std::string& parameter, const PeftModel& model) {
  for (const auto& adapter : model.active_adapters()) {
    const auto ending = "." + adapter + ".weight";
    if (parameter.ends_with(ending)) {
      return "base_model.model." +
          parameter.substr(0, parameter.size() - ending.size()) + ".weight";
    }
  }
  return "base_model.model." + parameter;
}

class GradientDump : public TrainerCallback {
 public:
  GradientDump(std::filesystem::path directory, int64_t step)
      : directory_(std::move(directory)), step_(step) {}

  void on_pre_optimizer_step(Trainer& trainer) override {
    if (trainer.state().global_step + 1 != step_) {
      return;
    }
    std::vector<std::pair<std::string, at::Tensor>> gradients;
    for (const auto& [name, parameter] : trainer.trainable_parameters()) {
      if (parameter.grad().defined()) {
        gradients.emplace_back(
            peft_key(name, trainer.peft_model()), parameter.grad());
      }
    }
    std::filesystem::create_directories(directory_);
    io::save_safetensors(
        directory_ / ("grads_step" + std::to_string(step_) + ".safetensors"),
        gradients);
  }

 private:
  std::filesystem::path directory_;
  int64_t step_;
};

} // namespace

std::shared_ptr<TrainerCallback> dump_gradients(
    std::filesystem::path directory,
    int64_t step) {
  return std::make_shared<GradientDump>(std::move(directory), step);
}

} // namespace torchlora::train
