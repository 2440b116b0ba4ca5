#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <torchlora/export.h>

namespace torchlora::gemma4 {

/// The rotary position embedding of one kind of attention layer (sliding or
/// full), with transformers' names.
struct RopeParameters {
  double rope_theta = 10000;
  /// "default": all frequencies rotate. "proportional": only the first
  /// `partial_rotary_factor` of the frequencies rotate.
  std::string rope_type = "default";
  double partial_rotary_factor = 1;
  /// The divisor of the rotary frequencies.
  double factor = 1;
};

/// The `text_config` of a Gemma 4 config.json, with transformers' names. The
/// hub's files and the files that transformers saves describe the differences
/// between layers in two ways; this type holds the result, the values of each
/// layer.
struct TextConfig {
  /// The settings of one decoder layer.
  struct Layer {
    /// Whether a token attends to the last `sliding_window` tokens only. If
    /// false, it attends to all tokens before it.
    bool is_sliding = true;
    int64_t head_dim = 0;
    int64_t num_key_value_heads = 0;
    int64_t intermediate_size = 0;
    /// The index of the layer whose keys and values this layer reads. -1: it
    /// computes its own.
    int64_t kv_source = -1;
    /// Whether the layer uses its keys, before their norm, as values. Such a
    /// layer has no v_proj.
    bool k_eq_v = false;
  };

  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t num_attention_heads = 0;
  double rms_norm_eps = 1e-6;
  /// The bound c of soft-capping: logits become c · tanh(logits / c). 0 leaves
  /// the logits as they are.
  double final_logit_softcapping = 0;
  /// The window of a sliding layer: each token attends to this many tokens,
  /// itself included.
  int64_t sliding_window = 0;
  /// The size per layer and token of the per-layer inputs, a second embedding
  /// that each layer adds. 0: the model has none.
  int64_t hidden_size_per_layer_input = 0;
  /// The number of rows of `embed_tokens_per_layer`, the table of per-layer
  /// inputs.
  int64_t vocab_size_per_layer_input = 0;
  int64_t pad_token_id = 0;
  RopeParameters sliding_rope, full_rope;
  std::vector<Layer> layers;
};

/// The content of a Gemma 4 config.json.
struct TORCHLORA_API Config {
  /// The key `model_type`: "gemma4" (text, vision and audio) or "gemma4_text".
  std::string model_type;
  /// The class in transformers: "Gemma4ForConditionalGeneration" or
  /// "Gemma4ForCausalLM".
  std::string architecture;
  TextConfig text_config;
  /// The ids of the tokens that stand for images, sound and video. A text model
  /// embeds them as padding.
  std::vector<int64_t> placeholder_token_ids;

  /// Returns whether the checkpoint has vision and audio towers beside the
  /// language model.
  bool is_conditional() const {
    return model_type == "gemma4";
  }

  /// Reads config.json in the folder `directory`, either as the hub has it or
  /// as transformers saves it. DataError names a key that is missing, has the
  /// wrong type or asks for something that is not supported.
  static Config from_pretrained(const std::filesystem::path& directory);
};

} // namespace torchlora::gemma4
