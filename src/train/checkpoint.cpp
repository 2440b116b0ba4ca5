#include <fstream>

#include <torch/types.h>

#include <torchlora/io/safetensors.h>
#include <torchlora/train/optimizer.h>
#include <torchlora/train/trainer.h>

#include "train/run.h"

namespace torchlora::train {
namespace fs = std::filesystem;

namespace {

/// A folder that is written under a temporary name and renamed by `commit`, so
/// that it appears complete or not at all.
class PendingDirectory {
 public:
  explicit PendingDirectory(fs::path target)
      : target_(std::move(target)),
        path_(
            target_.parent_path() /
            ("." + target_.filename().string() + ".tmp")) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~PendingDirectory() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  PendingDirectory(const PendingDirectory&) = delete;
  PendingDirectory& operator=(const PendingDirectory&) = delete;

  const fs::path& path() const {
    return path_;
  }
  void commit() {
    fs::remove_all(target_);
    fs::rename(path_, target_);
  }

 private:
  fs::path target_, path_;
};

constexpr const char* kLogFile = "log.jsonl";

} // namespace

void Trainer::save_model(const fs::path& directory) const {
  peft_model_.save_pretrained(directory);
}

fs::path Trainer::save_checkpoint() {
  TORCH_CHECK_VALUE(
      !args_.output_dir.empty(), "[save_checkpoint] there is no output_dir");
  const auto directory =
      args_.output_dir / ("checkpoint-" + std::to_string(state_.global_step));
  try {
    PendingDirectory pending(directory);
    save_model(pending.path());
    state_.save_to_json(pending.path() / "trainer_state.json");
    if (run_) {
      io::save_safetensors(
          pending.path() / "optimizer.safetensors",
          optimizer_state(*run_->optimizer, parameters_));
      run_->last_saved_step = state_.global_step;
    }
    pending.commit();
  } catch (const fs::filesystem_error& error) {
    TORCH_CHECK(false, "[save_checkpoint] ", error.what());
  }
  notify([&](auto& callback) { callback.on_save(*this, directory); });
  return directory;
}

void Trainer::start_log() const {
  if (args_.output_dir.empty()) {
    return;
  }
  std::error_code error;
  fs::create_directories(args_.output_dir, error);
  const auto path = args_.output_dir / kLogFile;
  TORCH_CHECK(
      !error && std::ofstream(path, std::ios::trunc),
      "[train] ",
      path.string(),
      " cannot be written",
      error ? ": " + error.message() : "");
}

void Trainer::append_to_log(const LogRecord& record) const {
  if (args_.output_dir.empty()) {
    return;
  }
  const auto path = args_.output_dir / kLogFile;
  std::error_code ignored;
  fs::create_directories(args_.output_dir, ignored);
  std::ofstream log(path, std::ios::app);
  log << record.to_json() << std::endl;
  TORCH_CHECK(log, "[train] ", path.string(), " cannot be written");
}

void Trainer::save_state() const {
  if (!args_.output_dir.empty()) {
    state_.save_to_json(args_.output_dir / "trainer_state.json");
  }
}

} // namespace torchlora::train
