#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <torch/nn/pimpl.h>

#include <torchlora/models/gemma4/config.h>
#include <torchlora/models/gemma4/text.h>
#include <torchlora/nn/pretrained.h>

namespace torchlora::gemma4 {

/// Gemma 4's language model with its tied head, under transformers' module
/// names: `model.language_model.layers` for a checkpoint of
/// Gemma4ForConditionalGeneration, of which the language model is loaded,
/// `model.layers` for one of Gemma4ForCausalLM.
class TORCHLORA_API Gemma4ForCausalLMImpl : public torch::nn::Module,
                                            public nn::CausalLM {
 public:
  /// Built around the tensors of `source`; the last two are for the files of
  /// adapters.
  Gemma4ForCausalLMImpl(
      const TensorSource& source,
      Config config,
      std::string name_or_path = "",
      std::vector<std::string> unloaded_modules = {});

  /// Logits [B, T, vocab_size] of `input_ids` [B, T] (int64), in the model's
  /// dtype. `attention_mask` [B, T], 1 for real tokens; undefined: all are.
  /// Positions are 0..T-1, padding included.
  at::Tensor forward(
      const at::Tensor& input_ids,
      const at::Tensor& attention_mask = {});

  at::Tensor hidden_states(
      const at::Tensor& input_ids,
      const at::Tensor& attention_mask = {}) override;
  nn::LmHead lm_head() const override;
  torch::nn::Module& module() override {
    return *this;
  }
  std::string model_type() const override {
    return config_.model_type;
  }
  std::string architecture() const override {
    return config_.architecture;
  }
  std::string name_or_path() const override {
    return name_or_path_;
  }
  std::vector<std::string> unloaded_modules() const override {
    return unloaded_modules_;
  }

  /// Of the checkpoint.
  const Config& config() const {
    return config_;
  }
  /// Without head.
  TextModel& language_model() {
    return language_model_;
  }

 private:
  Config config_;
  std::string name_or_path_;
  std::vector<std::string> unloaded_modules_;
  TextModel language_model_{nullptr};
};
TORCH_MODULE(Gemma4ForCausalLM);

/// How `from_pretrained` loads.
struct LoadOptions {
  /// dtype of all weights in memory, a floating type; nullopt: that of the
  /// checkpoint's token embeddings.
  std::optional<at::ScalarType> dtype;
};

/// Loads the language model of a Hugging Face folder. A weight that has the
/// wanted dtype already is mapped from the file and not copied. What was left
/// aside (vision and audio towers) is told by `unloaded_modules()`.
/// DataError on a missing, unexpected or mis-shaped tensor; the keys and values
/// that the hub's files hold for layers that read another layer's are ignored.
/// Values are not looked at: see `nn::find_nonfinite`.
TORCHLORA_API Gemma4ForCausalLM from_pretrained(
    const std::filesystem::path& directory,
    const LoadOptions& options = {});

} // namespace torchlora::gemma4
