// DPO fine-tune of a Gemma 4 checkpoint, written with the library alone.
//
//   dpo_finetune MODEL_DIR PAIRS.jsonl OUTPUT_DIR [MAX_STEPS]
//
// PAIRS.jsonl has a preference pair a line: {"prompt": …, "chosen": …,
// "rejected": …}. OUTPUT_DIR receives an adapter that PEFT loads, and
// OUTPUT_DIR/merged the model with the adapter merged into it.
//
// Built as the target `dpo_finetune` of torchlora, or in a project of your own
// as examples/consumer shows.
#include <torchlora/gemma4.h>
#include <torchlora/torchlora.h>
#include <torchlora/train.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

namespace tl = torchlora;

namespace {

// Prints a line a step. The last record of a run sums it up, without a loss.
class PrintLog : public tl::train::TrainerCallback {
 public:
  void on_log(tl::train::Trainer& trainer, const tl::train::LogRecord& record)
      override {
    if (!record.find("loss")) {
      return;
    }
    std::printf(
        "step %3lld/%lld  loss %.4f  accuracy %.2f  margin %+.4f\n",
        static_cast<long long>(record.step),
        static_cast<long long>(trainer.state().max_steps),
        record.at("loss"),
        record.at("rewards/accuracies"),
        record.at("rewards/margins"));
  }
};

int run(
    const char* model_dir,
    const char* pairs,
    const char* output_dir,
    int64_t max_steps) {
  // Load. Weights are mapped from the file; towers that text does not need
  // are left aside.
  auto model = tl::gemma4::from_pretrained(model_dir);
  const auto tokenizer = tl::Tokenizer::from_pretrained(model_dir);
  const auto dataset = tl::train::load_preference_dataset(pairs);

  // Adapt. The model is changed in place; go on calling it as before.
  torch::manual_seed(42);
  auto peft = tl::get_peft_model(
      *model,
      tl::LoraConfig(8)
          .lora_alpha(16)
          .task_type("CAUSAL_LM")
          .target_modules({"q_proj", "k_proj", "v_proj", "o_proj"}));
  peft.print_trainable_parameters();

  // Train.
  tl::train::DpoConfig config;
  config.output_dir = output_dir;
  config.learning_rate = 1e-3;
  config.per_device_train_batch_size = 2;
  config.max_steps = max_steps;
  config.logging_steps = 1;
  config.max_length = 256;
  const tl::gemma4::ChatFormat chat_format; // for pairs of conversations
  tl::train::DpoTrainer trainer(
      model, peft, tokenizer, config, dataset, {}, &chat_format);
  trainer.add_callback(std::make_shared<PrintLog>());
  const auto result = trainer.train();
  std::printf("mean loss %.4f\n", result.training_loss);

  // Save: the adapter, and a whole checkpoint with the adapter merged in.
  trainer.save_model(output_dir);
  peft.merge_and_unload();
  tl::io::save_pretrained(
      *model, model_dir, std::filesystem::path(output_dir) / "merged");
  return 0;
}

} // namespace

int main(int argc, char** argv) {
  char* end = nullptr;
  const auto max_steps = argc > 4 ? std::strtoll(argv[4], &end, 10) : 100;
  if (argc < 4 || argc > 5 || (end && *end) || max_steps < 1) {
    std::fprintf(
        stderr,
        "usage: %s MODEL_DIR PAIRS.jsonl OUTPUT_DIR [MAX_STEPS]\n",
        argv[0]);
    return 2;
  }
  try {
    return run(argv[1], argv[2], argv[3], max_steps);
  } catch (const c10::Error& e) {
    std::fprintf(stderr, "error: %s\n", e.what_without_backtrace());
    return 1;
  } catch (const std::exception& e) { // of the file system
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
