#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <torchlora/export.h>

namespace torchlora::gemma4 {

struct RopeParameters {
  double rope_theta = 10000;
  /// "default" or "proportional".
  std::string rope_type = "default";
  double partial_rotary_factor = 1;
  double factor = 1;
};

/// `text_config` of a Gemma 4 config.json, both dialects resolved: head_dim
/// and num_key_value_heads are given for each layer.
struct TORCHLORA_API TextConfig {
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  double rms_norm_eps = 1e-6;
  double final_logit_softcapping = 0;
  int64_t sliding_window = 0;
  int64_t num_kv_shared_layers = 0;
  int64_t hidden_size_per_layer_input = 0;
  int64_t vocab_size_per_layer_input = 0;
  bool use_double_wide_mlp = false;
  bool attention_k_eq_v = false;
  int64_t pad_token_id = 0;
  RopeParameters sliding_rope, full_rope;

  struct Layer {
    bool is_sliding = true;
    int64_t head_dim = 0;
    int64_t num_key_value_heads = 0;
    int64_t intermediate_size = 0;
    /// Layer whose keys and values this one reads; -1: its own.
    int64_t kv_source = -1;
    /// The value is the key projection (no v_proj).
    bool k_eq_v = false;
  };
  std::vector<Layer> layers;
};

struct TORCHLORA_API Config {
  /// "gemma4" (conditional) or "gemma4_text" (causal).
  std::string model_type;
  std::string architecture;
  TextConfig text_config;
  bool has_vision = false, has_audio = false;

  /// Reads `directory`/config.json. DataError names the key that is missing,
  /// of the wrong type or not supported (mixture of experts, for now).
  static Config from_pretrained(const std::filesystem::path& directory);
};

} // namespace torchlora::gemma4
