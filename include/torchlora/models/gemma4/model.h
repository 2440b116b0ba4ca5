#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <torchlora/models/gemma4/config.h>
#include <torchlora/nn/pretrained.h>

namespace torchlora::gemma4 {

/// Gemma 4's language model with its head, under transformers' module names:
/// `model.language_model.layers.…` for a checkpoint of
/// Gemma4ForConditionalGeneration (of which the language model is loaded),
/// `model.layers.…` for one of Gemma4ForCausalLM.
class TORCHLORA_API Gemma4ForCausalLMImpl : public torch::nn::Module,
                                            public nn::CausalLM {
 public:
  /// Logits [B, T, vocab_size] of `input_ids` [B, T] (int64);
  /// `attention_mask` [B, T], 1 for real tokens. Positions are 0..T-1.
  virtual at::Tensor forward(
      const at::Tensor& input_ids,
      const at::Tensor& attention_mask = {}) = 0;
  virtual const Config& config() const = 0;
  torch::nn::Module& module() override {
    return *this;
  }
};
TORCH_MODULE(Gemma4ForCausalLM);

struct LoadOptions {
  /// dtype of the weights in memory; nullopt: the checkpoint's (mapped from
  /// the file, nothing is copied).
  std::optional<at::ScalarType> dtype;
};

/// Loads the language model of a Hugging Face folder. Weights that have the
/// wanted dtype already are mapped from the file. Warns by name of what is
/// left aside (vision and audio towers). DataError on a missing, unexpected
/// or mis-shaped tensor.
TORCHLORA_API Gemma4ForCausalLM from_pretrained(
    const std::filesystem::path& directory,
    const LoadOptions& options = {});

} // namespace torchlora::gemma4
