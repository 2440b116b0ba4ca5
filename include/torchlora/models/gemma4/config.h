#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <torchlora/export.h>

namespace torchlora::gemma4 {

/// The rotary position embedding of one kind of attention layer, with
/// transformers' names.
struct RopeParameters {
  double rope_theta = 10000;
  /// "default", or "proportional": only the first `partial_rotary_factor` of
  /// the frequencies rotate.
  std::string rope_type = "default";
  double partial_rotary_factor = 1;
  /// The divisor of the frequencies.
  double factor = 1;
};

/// `text_config` of a Gemma 4 config.json, with transformers' names. The hub's
/// files and those that transformers saves describe the differences between
/// layers in two ways; here they are resolved, and each layer has its own
/// values.
struct TextConfig {
  /// The values of one layer.
  struct Layer {
    /// Whether the layer attends to `sliding_window` tokens only.
    bool is_sliding = true;
    int64_t head_dim = 0;
    int64_t num_key_value_heads = 0;
    int64_t intermediate_size = 0;
    /// The layer whose keys and values this one reads. -1: its own.
    int64_t kv_source = -1;
    /// Whether the values are the keys before their norm. Such a layer has no
    /// v_proj.
    bool k_eq_v = false;
  };

  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t num_attention_heads = 0;
  double rms_norm_eps = 1e-6;
  /// 0: no soft-capping.
  double final_logit_softcapping = 0;
  /// The number of tokens that a sliding layer attends to.
  int64_t sliding_window = 0;
  /// 0: no per-layer inputs.
  int64_t hidden_size_per_layer_input = 0;
  /// The number of rows of the table of per-layer inputs.
  int64_t vocab_size_per_layer_input = 0;
  int64_t pad_token_id = 0;
  RopeParameters sliding_rope, full_rope;
  std::vector<Layer> layers;
};

/// A Gemma 4 config.json.
struct TORCHLORA_API Config {
  /// "gemma4" (text, vision and audio) or "gemma4_text".
  std::string model_type;
  /// "Gemma4ForConditionalGeneration" or "Gemma4ForCausalLM".
  std::string architecture;
  TextConfig text_config;
  /// The tokens that stand for images, sound and video. Text models embed them
  /// as padding.
  std::vector<int64_t> placeholder_token_ids;

  /// Returns whether the checkpoint has vision and audio towers too.
  bool is_conditional() const {
    return model_type == "gemma4";
  }

  /// Reads `directory`/config.json, either as the hub has it or as transformers
  /// saves it. DataError names a key that is missing, has the wrong type or
  /// asks for something that is not supported.
  static Config from_pretrained(const std::filesystem::path& directory);
};

} // namespace torchlora::gemma4
