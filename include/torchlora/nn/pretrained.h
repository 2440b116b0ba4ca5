#pragma once

#include <torch/types.h>

#include <torchlora/nn/compute.h>
#include <torchlora/nn/replaced_rows.h>

namespace torchlora::nn {

/// A model that comes from a Hugging Face checkpoint and says what torchlora
/// needs to know about it. Inherit it beside `torch::nn::Module`. torchlora
/// adapts modules of other types too.
class TORCHLORA_API PretrainedModel {
 public:
  virtual ~PretrainedModel();

  /// Returns `model_type` of the checkpoint's config.json, for example
  /// "gemma4".
  virtual std::string model_type() const = 0;
  /// Returns the name of the class with which transformers loads the same
  /// checkpoint, for example "Gemma4ForConditionalGeneration".
  virtual std::string architecture() const = 0;
  /// Returns the checkpoint folder as the user gave it. Adapter files name it
  /// as `base_model_name_or_path`.
  virtual std::string name_or_path() const = 0;
  /// Returns the name of the module that embeds the input tokens, or the part
  /// of that name after the last dot. HF `get_input_embeddings`.
  virtual std::string input_embeddings() const {
    return "embed_tokens";
  }
  /// Returns the names of the modules that form the output head (HF
  /// `get_output_embeddings`). The target "all-linear" leaves these modules
  /// out.
  virtual std::vector<std::string> output_embeddings() const {
    return {"lm_head"};
  }
  /// Returns the names of the modules that route tokens to experts. The target
  /// "all-linear" leaves these modules out.
  virtual std::vector<std::string> routers() const {
    return {};
  }
  /// Returns the names of all modules that the checkpoint has and this model
  /// does not, for example everything below "model.vision_tower": leaf modules
  /// and their parents. transformers loads these modules, so a saved
  /// `target_modules` must not match their names.
  virtual std::vector<std::string> unloaded_modules() const {
    return {};
  }
};

/// The output head of a causal language model: logits = c · tanh(h Wᵀ / c), or
/// h Wᵀ without soft-capping (c = 0).
struct TORCHLORA_API LmHead {
  /// The weight W of the head: [vocab_size, hidden_size].
  Tensor weight;
  /// The bound c of soft-capping: logits become c · tanh(logits / c). 0 leaves
  /// the logits as they are.
  double final_logit_softcapping = 0;
  /// The rows that the head uses instead of rows of `weight`, because an
  /// adapter trains them (`trainable_token_indices`). nullopt: none.
  std::optional<ReplacedRows> replaced_rows = {};

  /// Returns a head, without a bias, that uses the weight of `layer` (an
  /// `nn::Embedding` or `nn::Linear`). If an adapter trains rows of that weight
  /// (`trainable_token_indices`), the head uses the trained rows.
  template <class Layer>
  static LmHead of(const Layer& layer, double final_logit_softcapping = 0) {
    return {layer.weight, final_logit_softcapping, nn::replaced_rows(layer)};
  }

  /// Returns the logits [*, vocab_size] of the hidden states `hidden`
  /// [*, hidden_size].
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

/// A causal language model as the trainers see it. It gives hidden states and
/// the head separately, so that no tensor [rows, T, vocab_size] need exist.
class TORCHLORA_API CausalLM : public PretrainedModel {
 public:
  ~CausalLM() override;
  /// Returns the hidden states [B, T, hidden_size] after the last norm for
  /// `input_ids` [B, T] (int64): B rows of T tokens. `attention_mask` [B, T] is
  /// 1 for real tokens and 0 for padding; undefined means that all tokens are
  /// real.
  virtual Tensor hidden_states(
      const Tensor& input_ids,
      const Tensor& attention_mask = {}) = 0;
  /// Returns the output head. Make it with `LmHead::of`, so that it uses the
  /// rows that an adapter trains (`trainable_token_indices`).
  virtual LmHead lm_head() const = 0;
  /// Returns this model as a `torch::nn::Module`, for its parameters and for
  /// `get_peft_model`.
  virtual Module& module() = 0;
};

} // namespace torchlora::nn
