#pragma once

#include <optional>
#include <string>
#include <vector>

#include <torch/nn/module.h>

#include <torchlora/export.h>
#include <torchlora/nn/replaced_rows.h>

namespace torchlora::nn {

/// What a model that comes from a Hugging Face checkpoint can tell about
/// itself. A model inherits it beside `torch::nn::Module`; everything that
/// works on whole models works without it too.
class TORCHLORA_API PretrainedModel {
 public:
  virtual ~PretrainedModel() = default;

  /// `model_type` of config.json, for example "gemma4".
  virtual std::string model_type() const = 0;
  /// The class transformers loads the same folder with, for example
  /// "Gemma4ForConditionalGeneration".
  virtual std::string architecture() const = 0;
  /// The folder, as the user gave it.
  virtual std::string name_or_path() const = 0;
  /// The name of the table of the input tokens, or its end behind a dot (HF
  /// `get_input_embeddings`).
  virtual std::string input_embeddings() const {
    return "embed_tokens";
  }
  /// Names of modules that are the output head (HF `get_output_embeddings`)
  /// or route tokens to experts: "all-linear" leaves them out.
  virtual std::vector<std::string> output_embeddings() const {
    return {"lm_head"};
  }
  /// See `output_embeddings`.
  virtual std::vector<std::string> routers() const {
    return {};
  }
  /// Names of the modules (not only leaves) that the checkpoint has and this
  /// model left out, for example everything below "model.vision_tower".
  /// transformers will have them, so a saved `target_modules` must not match
  /// them.
  virtual std::vector<std::string> unloaded_modules() const {
    return {};
  }
};

/// The output head of a causal language model:
/// logits = c · tanh(h Wᵀ / c), or h Wᵀ without soft-capping.
struct TORCHLORA_API LmHead {
  /// [vocab_size, hidden_size]
  at::Tensor weight;
  /// c; 0: no soft-capping.
  double final_logit_softcapping = 0;
  /// What takes the place of rows of `weight`.
  std::optional<ReplacedRows> replaced_rows = {};

  /// The head that computes with the weight of an `nn::Embedding` or
  /// `nn::Linear` and with the rows that an adapter trains
  /// (`trainable_token_indices`); without a bias.
  template <class Layer>
  static LmHead of(const Layer& layer, double final_logit_softcapping = 0) {
    return {layer.weight, final_logit_softcapping, nn::replaced_rows(layer)};
  }

  /// [*, hidden_size] → [*, vocab_size]
  at::Tensor logits(const at::Tensor& hidden) const;
};

/// A causal language model as the trainers see it: hidden states and a head
/// apart, so that no [rows, T, vocab_size] tensor need exist.
class TORCHLORA_API CausalLM : public PretrainedModel {
 public:
  /// Final hidden states [B, T, hidden_size] (after the last norm) of
  /// `input_ids` [B, T] (int64). `attention_mask` [B, T], 1 for real tokens;
  /// undefined: all are.
  virtual at::Tensor hidden_states(
      const at::Tensor& input_ids,
      const at::Tensor& attention_mask = {}) = 0;
  /// By `LmHead::of`, where it is to follow `trainable_token_indices`.
  virtual LmHead lm_head() const = 0;
  /// The module itself, for its parameters and for `get_peft_model`.
  virtual torch::nn::Module& module() = 0;
};

} // namespace torchlora::nn
