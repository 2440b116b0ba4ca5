#pragma once

#include <torch/nn/pimpl.h>

#include <torchlora/models/gemma4/config.h>
#include <torchlora/models/gemma4/text.h>
#include <torchlora/nn/pretrained.h>

namespace torchlora::gemma4 {

/// Gemma 4's language model with its output head, which shares the weight of
/// the token embeddings. The module names are transformers': `model.layers` for
/// a checkpoint of Gemma4ForCausalLM, `model.language_model.layers` for one of
/// Gemma4ForConditionalGeneration.
class TORCHLORA_API Gemma4ForCausalLMImpl : public Module, public nn::CausalLM {
 public:
  /// Builds the model that `config` describes from the tensors of `source`,
  /// without a copy. Adapter files use `name_or_path` and `unloaded_modules`
  /// (see `nn::PretrainedModel`).
  Gemma4ForCausalLMImpl(
      const TensorSource& source,
      Config config,
      std::string name_or_path = "",
      std::vector<std::string> unloaded_modules = {});

  /// Returns the logits [B, T, vocab_size], in fp32 (fp64 for an fp64 model),
  /// of `input_ids` [B, T] (int64): B rows of T tokens. `attention_mask` [B, T]
  /// is 1 for real tokens and 0 for padding; undefined means that all tokens
  /// are real. Positions are 0..T-1, padding included.
  Tensor forward(const Tensor& input_ids, const Tensor& attention_mask = {});

  Tensor hidden_states(
      const Tensor& input_ids,
      const Tensor& attention_mask = {}) override;
  nn::LmHead lm_head() const override;
  Module& module() override {
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
  /// Returns the model below the output head, which computes the hidden states.
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

/// Options of `gemma4::from_pretrained`.
struct LoadOptions {
  /// The dtype of all weights in memory: bf16, fp16, fp32 or fp64. nullopt: the
  /// dtype that the token embeddings have in the checkpoint.
  std::optional<at::ScalarType> dtype = std::nullopt;
  /// The device of all weights.
  at::Device device = at::kCPU;
};

/// Loads the language model from a Hugging Face folder. Maps weights from the
/// file. On the CPU it copies only those whose dtype must change; to another
/// device each goes from the file, without a second copy on the host. Leaves
/// out the vision and audio towers; `unloaded_modules()` names them. Ignores
/// key and value weights of a layer that reads the keys and values of another
/// layer, which the hub's files have. Does not check that weights are finite
/// (see `nn::find_nonfinite`).
///
/// DataError for a tensor that is missing, unexpected or of the wrong size or
/// dtype. ValueError for a dtype in `options` that is not supported.
TORCHLORA_API Gemma4ForCausalLM from_pretrained(
    const std::filesystem::path& directory,
    const LoadOptions& options = {});

} // namespace torchlora::gemma4
