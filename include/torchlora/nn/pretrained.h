#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <torchlora/nn/compute.h>
#include <torchlora/nn/replaced_rows.h>

namespace torchlora::nn {

/// A model that comes from a Hugging Face checkpoint and says what torchlora
/// needs to know about it. Inherit it beside `torch::nn::Module`. Functions on
/// whole models work for other modules too.
class TORCHLORA_API PretrainedModel {
 public:
  virtual ~PretrainedModel();

  /// `model_type` of config.json, for example "gemma4".
  virtual std::string model_type() const = 0;
  /// The class that transformers loads the same folder with, for example
  /// "Gemma4ForConditionalGeneration".
  virtual std::string architecture() const = 0;
  /// The folder, as the user gave it.
  virtual std::string name_or_path() const = 0;
  /// The name of the input tokens' embedding, or the part of it after the last
  /// dot (HF `get_input_embeddings`).
  virtual std::string input_embeddings() const {
    return "embed_tokens";
  }
  /// Names the modules that are the output head (HF `get_output_embeddings`).
  /// "all-linear" leaves them out.
  virtual std::vector<std::string> output_embeddings() const {
    return {"lm_head"};
  }
  /// Names the modules that route tokens to experts. "all-linear" leaves them
  /// out.
  virtual std::vector<std::string> routers() const {
    return {};
  }
  /// Names all modules, leaves or not, that the checkpoint has and this model
  /// does not, for example everything below "model.vision_tower". transformers
  /// will have them, so a saved `target_modules` must not match them.
  virtual std::vector<std::string> unloaded_modules() const {
    return {};
  }
};

/// The output head of a causal language model:
/// logits = c · tanh(h Wᵀ / c), or h Wᵀ without soft-capping.
struct TORCHLORA_API LmHead {
  /// [vocab_size, hidden_size]
  Tensor weight;
  /// c; 0: no soft-capping.
  double final_logit_softcapping = 0;
  /// Rows that the head uses instead of rows of `weight`.
  std::optional<ReplacedRows> replaced_rows = {};

  /// Makes a head, without a bias, that uses the weight of an `nn::Embedding`
  /// or `nn::Linear` and the rows that an adapter trains
  /// (`trainable_token_indices`).
  template <class Layer>
  static LmHead of(const Layer& layer, double final_logit_softcapping = 0) {
    return {layer.weight, final_logit_softcapping, nn::replaced_rows(layer)};
  }

  /// Computes [*, hidden_size] → [*, vocab_size].
  Tensor logits(const Tensor& hidden) const {
    auto raw = nn::linear(hidden, weight);
    if (replaced_rows) {
      raw = replaced_rows->project(raw, hidden);
    }
    return final_logit_softcapping > 0
        ? at::tanh(raw / final_logit_softcapping) * final_logit_softcapping
        : raw;
  }
};

/// A causal language model as the trainers see it. Hidden states and the head
/// are apart, so that no tensor [rows, T, vocab_size] need exist.
class TORCHLORA_API CausalLM : public PretrainedModel {
 public:
  ~CausalLM() override;
  /// Computes the final hidden states [B, T, hidden_size] (after the last norm)
  /// of `input_ids` [B, T] (int64). `attention_mask` [B, T] is 1 for real
  /// tokens; undefined: all tokens are real.
  virtual Tensor hidden_states(
      const Tensor& input_ids,
      const Tensor& attention_mask = {}) = 0;
  /// Returns the head. Make it with `LmHead::of` if it must follow
  /// `trainable_token_indices`.
  virtual LmHead lm_head() const = 0;
  /// Returns the module itself, for its parameters and for `get_peft_model`.
  virtual torch::nn::Module& module() = 0;
};

} // namespace torchlora::nn
