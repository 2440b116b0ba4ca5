#pragma once

#include <torch/nn/pimpl.h>

#include <torchlora/models/gemma4/config.h>
#include <torchlora/models/gemma4/text.h>
#include <torchlora/nn/pretrained.h>

namespace torchlora::gemma4 {

/// Gemma 4's language model with its tied head. The module names are
/// transformers': `model.layers` for a checkpoint of Gemma4ForCausalLM,
/// `model.language_model.layers` for one of Gemma4ForConditionalGeneration,
/// from which only the language model is loaded.
class TORCHLORA_API Gemma4ForCausalLMImpl : public torch::nn::Module,
                                            public nn::CausalLM {
 public:
  /// Builds the model around the tensors of `source`. Adapter files use
  /// `name_or_path` and `unloaded_modules` (see `nn::PretrainedModel`).
  Gemma4ForCausalLMImpl(
      const TensorSource& source,
      Config config,
      std::string name_or_path = "",
      std::vector<std::string> unloaded_modules = {});

  /// Returns logits [B, T, vocab_size] of `input_ids` [B, T] (int64) in the
  /// model's dtype. `attention_mask` [B, T] is 1 for real tokens; undefined
  /// means that all tokens are real. Positions are 0..T-1, padding included.
  Tensor forward(const Tensor& input_ids, const Tensor& attention_mask = {});

  Tensor hidden_states(
      const Tensor& input_ids,
      const Tensor& attention_mask = {}) override;
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

  const Config& config() const {
    return config_;
  }
  /// Returns the model without the head.
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

/// Options of `from_pretrained`.
struct LoadOptions {
  /// The dtype of all weights in memory, a floating-point type. nullopt: the
  /// dtype of the token embeddings in the checkpoint.
  std::optional<at::ScalarType> dtype;
};

/// Loads the language model of a Hugging Face folder. Weights whose dtype need
/// not change are mapped from the file and not copied. The vision and audio
/// towers are left out; `unloaded_modules()` names them. The hub's files have
/// key and value weights for layers that read those of another layer: they are
/// ignored. Does not look at values (see `nn::find_nonfinite`).
///
/// DataError for a tensor that is missing, unexpected or of the wrong size.
TORCHLORA_API Gemma4ForCausalLM from_pretrained(
    const std::filesystem::path& directory,
    const LoadOptions& options = {});

} // namespace torchlora::gemma4
