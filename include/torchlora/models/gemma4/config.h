#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <torchlora/export.h>

namespace torchlora::gemma4 {

/// Rotary position embedding of one kind of attention layer.
struct RopeParameters {
  /// Base of the frequencies.
  double rope_theta = 10000;
  /// "default", or "proportional": only the first
  /// `partial_rotary_factor` of the frequencies rotate.
  std::string rope_type = "default";
  /// See `rope_type`.
  double partial_rotary_factor = 1;
  /// Divides the frequencies.
  double factor = 1;
};

/// `text_config` of a Gemma 4 config.json, both dialects resolved: what
/// differs between layers is given for each layer.
struct TextConfig {
  /// What differs between layers.
  struct Layer {
    /// Attends to `sliding_window` tokens, not to all.
    bool is_sliding = true;
    /// @{
    /// By transformers' names.
    int64_t head_dim = 0;
    int64_t num_key_value_heads = 0;
    int64_t intermediate_size = 0;
    /// @}

    /// The layer whose keys and values this one reads; -1: it has its own.
    int64_t kv_source = -1;
    /// The value is the key projection: there is no v_proj.
    bool k_eq_v = false;
  };

  /// @{
  /// By transformers' names.
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t num_attention_heads = 0;
  double rms_norm_eps = 1e-6;
  /// @}

  /// 0: no soft-capping.
  double final_logit_softcapping = 0;
  /// Tokens that a sliding layer attends to.
  int64_t sliding_window = 0;
  /// 0: no per-layer inputs.
  int64_t hidden_size_per_layer_input = 0;
  /// Rows of the per-layer table.
  int64_t vocab_size_per_layer_input = 0;
  /// Of the tokens that are padding.
  int64_t pad_token_id = 0;
  /// @{
  /// By kind of layer.
  RopeParameters sliding_rope, full_rope;
  /// @}

  /// In order.
  std::vector<Layer> layers;
};

/// A Gemma 4 config.json.
struct TORCHLORA_API Config {
  /// "gemma4" (text, vision and audio) or "gemma4_text".
  std::string model_type;
  /// "Gemma4ForConditionalGeneration" or "Gemma4ForCausalLM".
  std::string architecture;
  /// Of the language model.
  TextConfig text_config;
  /// Tokens that stand for images, sound and video; without features they
  /// are embedded as padding.
  std::vector<int64_t> placeholder_token_ids;

  /// Whether it has vision and audio towers beside the text.
  bool is_conditional() const {
    return model_type == "gemma4";
  }

  /// Reads `directory`/config.json, as the hub has it or as transformers
  /// saves it again. DataError names the key that is missing, of the wrong
  /// type or that asks for what is not supported.
  static Config from_pretrained(const std::filesystem::path& directory);
};

} // namespace torchlora::gemma4
