// A DPO step of a Gemma 4 model of 235 million parameters: the time of a step,
// its CPU time, which a busy machine changes less, and the peak memory of the
// process, by the dtype in which the weights are kept.
//   dpo_bench float32|bfloat16 [TOKENS_PER_ROW]
// TORCHLORA_COMPUTE_ROUTE (native or upcast) forces the route of bf16.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <sys/resource.h>
#include <torch/torch.h>

#include <torchlora/gemma4.h>
#include <torchlora/torchlora.h>
#include <torchlora/train.h>

namespace {

using namespace torchlora;
using Clock = std::chrono::steady_clock;

constexpr int64_t kVocabulary = 32768, kPairs = 2, kSteps = 3;

gemma4::Config model_config() {
  gemma4::Config config;
  config.model_type = "gemma4_text";
  config.architecture = "Gemma4ForCausalLM";
  auto& text = config.text_config;
  text.vocab_size = kVocabulary;
  text.hidden_size = 1024;
  text.num_attention_heads = 8;
  text.final_logit_softcapping = 30;
  text.sliding_window = 512;
  for (int i = 0; i < 12; ++i) {
    gemma4::TextConfig::Layer layer;
    layer.is_sliding = i % 6 != 5;
    layer.head_dim = 128;
    layer.num_key_value_heads = 8;
    layer.intermediate_size = 4096;
    text.layers.push_back(layer);
  }
  return config;
}

at::Tensor random_weight(
    const std::string& name,
    at::IntArrayRef sizes,
    at::ScalarType dtype) {
  const bool is_matrix = sizes.size() == 2;
  auto weight = at::ones(sizes, dtype);
  if (is_matrix && name.find("embed") == std::string::npos) {
    weight.normal_(0, 1 / std::sqrt(static_cast<double>(sizes[1])));
  } else if (is_matrix) {
    weight.normal_(0, 0.02);
  }
  return weight;
}

train::PreferenceTokenSet random_pairs(int64_t tokens) {
  const auto ids = [](int64_t count) {
    const auto drawn = torch::randint(1, kVocabulary, {count}, at::kLong);
    return std::vector<int64_t>(
        drawn.data_ptr<int64_t>(), drawn.data_ptr<int64_t>() + count);
  };
  train::PreferenceTokenSet set;
  for (int64_t i = 0; i < kPairs * kSteps; ++i) {
    set.examples.push_back(
        {ids(tokens / 2), ids(tokens / 2), ids(tokens / 2), "bench"});
  }
  return set;
}

rusage usage_so_far() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage;
}

double peak_mebibytes() {
  return static_cast<double>(usage_so_far().ru_maxrss) / 1024;
}

double cpu_seconds() {
  const auto usage = usage_so_far();
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) +
        static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

/// The best times of a step.
struct StepTimes : train::TrainerCallback {
  void on_train_begin(train::Trainer& /*trainer*/) override {
    begin();
  }
  void on_step_end(train::Trainer& /*trainer*/) override {
    const std::chrono::duration<double> real = Clock::now() - real_begin;
    best_real = std::min(best_real, real.count());
    best_cpu = std::min(best_cpu, cpu_seconds() - cpu_begin);
    begin();
  }
  void begin() {
    real_begin = Clock::now();
    cpu_begin = cpu_seconds();
  }
  Clock::time_point real_begin;
  double cpu_begin = 0, best_real = 1e9, best_cpu = 1e9;
};

} // namespace

int main(int argc, char** argv) {
  const std::string dtype = argc > 1 ? argv[1] : "bfloat16";
  const int64_t tokens = argc > 2 ? std::atoll(argv[2]) : 256;
  torch::manual_seed(0);
  const gemma4::TensorSource source(
      [&](const std::string& name, at::IntArrayRef sizes) {
        return random_weight(
            name, sizes, dtype == "float32" ? at::kFloat : at::kBFloat16);
      });
  gemma4::Gemma4ForCausalLM model(source, model_config());
  auto peft = get_peft_model(
      *model,
      LoraConfig(16).lora_alpha(32).target_modules(
          {"q_proj",
           "k_proj",
           "v_proj",
           "o_proj",
           "gate_proj",
           "up_proj",
           "down_proj"}));
  const double loaded = peak_mebibytes();

  train::DpoConfig config;
  config.max_steps = kSteps;
  config.per_device_train_batch_size = kPairs;
  config.learning_rate = 1e-4;
  train::DpoTrainer trainer(*model, peft, config, random_pairs(tokens), {}, 0);
  const auto times = std::make_shared<StepTimes>();
  trainer.add_callback(times);
  trainer.train();
  const bool is_native =
      dtype == "float32" || nn::compute_route() == nn::ComputeRoute::kNative;
  std::printf(
      "%s, %s products, %d rows of %d tokens: %.2f s per step, %.2f s of CPU "
      "time; peak %.0f MiB, %.0f before the first step\n",
      dtype.c_str(),
      is_native ? "native" : "upcast",
      static_cast<int>(2 * kPairs),
      static_cast<int>(tokens),
      times->best_real,
      times->best_cpu,
      peak_mebibytes(),
      loaded);
}
