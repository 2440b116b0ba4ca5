// Reads config.json in two dialects. The hub's files describe layers that
// differ by keys of their own (`global_head_dim`,
// `num_global_key_value_heads`); transformers writes `per_layer_config`, which
// lists the differences by layer. Both become one `TextConfig::Layer` per
// layer.
#include <torchlora/models/gemma4/config.h>

#include <cmath>
#include <cstdlib>
#include <type_traits>

#include <nlohmann/json.hpp>

#include <torchlora/error.h>

#include "io/parse_json.h"

namespace torchlora::gemma4 {
using nlohmann::json;

namespace {

/// The head size of full-attention layers if config.json has none.
constexpr int64_t kDefaultGlobalHeadDim = 512;
/// Products of two sizes fit into 64 bits.
constexpr int64_t kMaxSize = (int64_t{1} << 31) - 1;
/// The layers of the configuration are listed before any weight is looked at.
constexpr int64_t kMaxLayers = 10000;

template <class T>
bool holds(const json& value) {
  if constexpr (std::is_same_v<T, int64_t>) {
    return value.is_number_integer() && std::abs(value.get<double>()) < 1e15;
  } else if constexpr (std::is_same_v<T, double>) {
    return value.is_number();
  } else {
    return true; // json::get checks
  }
}

/// An object of config.json, with its name for error messages.
struct Section {
  const json& value;
  std::string name;

  bool has(const std::string& key) const {
    return value.contains(key) && !value[key].is_null();
  }

  Section section(const std::string& key) const {
    TORCHLORA_CHECK_DATA(
        has(key) && value[key].is_object(),
        name,
        ": expected an object \"",
        key,
        "\"");
    return {value[key], name + "." + key};
  }

  template <class T>
  T get(const std::string& key) const {
    TORCHLORA_CHECK_DATA(has(key), name, ": the key \"", key, "\" is missing");
    if (holds<T>(value[key])) {
      try {
        return value[key].get<T>();
      } catch (const json::exception&) { // the message below
      }
    }
    TORCHLORA_CHECK_DATA(
        false,
        name,
        ": the key \"",
        key,
        "\" has the wrong type, found ",
        io::json_text(value[key]));
  }

  template <class T>
  T get(const std::string& key, T otherwise) const {
    return has(key) ? get<T>(key) : otherwise;
  }

  int64_t size(const std::string& key) const {
    const auto n = get<int64_t>(key);
    TORCHLORA_CHECK_DATA(
        n > 0 && n <= kMaxSize,
        name,
        ": the key \"",
        key,
        "\" must be positive and at most ",
        kMaxSize,
        ", found ",
        n);
    return n;
  }

  int64_t size(const std::string& key, int64_t otherwise) const {
    return !has(key) || value[key] == 0 ? otherwise : size(key);
  }

  double positive(const std::string& key) const {
    const auto x = get<double>(key);
    TORCHLORA_CHECK_DATA(
        x > 0, name, ": the key \"", key, "\" must be positive, found ", x);
    return x;
  }

  double positive(const std::string& key, double otherwise) const {
    return has(key) ? positive(key) : otherwise;
  }

  /// Refuses any value but `supported`.
  template <class T>
  void require(const std::string& key, T supported) const {
    const auto found = get<T>(key, supported);
    TORCHLORA_CHECK_DATA(
        found == supported,
        name,
        ": ",
        key,
        " = ",
        io::json_text(json(found)),
        " is not supported, only ",
        io::json_text(json(supported)),
        " is");
  }
};

RopeParameters rope_parameters(const Section& text, const std::string& type) {
  const auto section = text.section("rope_parameters").section(type);
  RopeParameters rope;
  rope.rope_theta = section.positive("rope_theta");
  rope.rope_type = section.get<std::string>("rope_type", "default");
  TORCHLORA_CHECK_DATA(
      rope.rope_type == "default" || rope.rope_type == "proportional",
      section.name,
      ": rope_type must be \"default\" or \"proportional\", found \"",
      rope.rope_type,
      "\"");
  if (rope.rope_type == "proportional") {
    rope.partial_rotary_factor =
        section.get<double>("partial_rotary_factor", 1.0);
    TORCHLORA_CHECK_DATA(
        rope.partial_rotary_factor >= 0 && rope.partial_rotary_factor <= 1,
        section.name,
        ": partial_rotary_factor must be in [0, 1], found ",
        rope.partial_rotary_factor);
  }
  rope.factor = section.positive("factor", 1);
  return rope;
}

std::vector<bool> sliding_layers(const Section& text, int64_t count) {
  constexpr auto kSliding = "sliding_attention";
  std::vector<bool> sliding;
  if (text.has("layer_types")) {
    for (const auto& type : text.get<std::vector<std::string>>("layer_types")) {
      TORCHLORA_CHECK_DATA(
          type == kSliding || type == "full_attention",
          text.name,
          ".layer_types: \"",
          type,
          "\" is not supported");
      sliding.push_back(type == kSliding);
    }
  } else {
    for (int64_t i = 0; i < count; ++i) {
      sliding.push_back((i + 1) % 6 != 0);
    }
  }
  TORCHLORA_CHECK_DATA(
      static_cast<int64_t>(sliding.size()) == count,
      text.name,
      ": num_hidden_layers is ",
      count,
      ", layer_types has ",
      sliding.size());
  sliding.back() = false;
  return sliding;
}

/// Applies what transformers writes for layers that differ from the rest.
void apply_per_layer_config(
    const Section& text,
    std::vector<TextConfig::Layer>& layers) {
  if (!text.has("per_layer_config")) {
    return;
  }
  const auto all = text.section("per_layer_config");
  for (const auto& [index, values] : all.value.items()) {
    const auto section = all.section(index);
    char* end = nullptr;
    const auto i = std::strtoll(index.c_str(), &end, 10);
    TORCHLORA_CHECK_DATA(
        !index.empty() && *end == '\0' && i >= 0 &&
            i < static_cast<int64_t>(layers.size()),
        all.name,
        ": \"",
        index,
        "\" is not the number of a layer");
    auto& layer = layers[static_cast<size_t>(i)];
    for (const auto& [key, value] : values.items()) {
      if (key == "head_dim") {
        layer.head_dim = section.size(key);
      } else if (key == "num_key_value_heads") {
        layer.num_key_value_heads = section.size(key);
      } else {
        TORCHLORA_CHECK_DATA(
            false, section.name, ": the key \"", key, "\" is not supported");
      }
    }
  }
}

std::vector<TextConfig::Layer> text_layers(const Section& text) {
  const auto count = text.size("num_hidden_layers");
  TORCHLORA_CHECK_DATA(
      count <= kMaxLayers,
      text.name,
      ": num_hidden_layers must be at most ",
      kMaxLayers,
      ", found ",
      count);
  const auto shared = text.get<int64_t>("num_kv_shared_layers", 0);
  TORCHLORA_CHECK_DATA(
      shared >= 0 && shared < count,
      text.name,
      ": num_kv_shared_layers must be less than num_hidden_layers, found ",
      shared);
  const auto first_shared = count - shared;
  const auto sliding = sliding_layers(text, count);
  const bool k_eq_v = text.get<bool>("attention_k_eq_v", false);
  const bool double_wide = text.get<bool>("use_double_wide_mlp", false);
  const bool is_hub_dialect = !text.has("per_layer_config");
  std::vector<TextConfig::Layer> layers;
  int64_t last_of_kind[2] = {-1, -1};
  for (int64_t i = 0; i < count; ++i) {
    TextConfig::Layer layer;
    layer.is_sliding = sliding[static_cast<size_t>(i)];
    layer.k_eq_v = k_eq_v && !layer.is_sliding;
    layer.head_dim = text.size("head_dim");
    layer.num_key_value_heads = text.size("num_key_value_heads");
    if (!layer.is_sliding && is_hub_dialect) {
      layer.head_dim = text.has("global_head_dim")
          ? text.size("global_head_dim")
          : kDefaultGlobalHeadDim;
      if (k_eq_v && text.has("num_global_key_value_heads")) {
        layer.num_key_value_heads = text.size("num_global_key_value_heads");
      }
    }
    layer.intermediate_size = text.size("intermediate_size");
    if (i < first_shared) {
      last_of_kind[layer.is_sliding] = i;
    } else {
      layer.kv_source = last_of_kind[layer.is_sliding];
      layer.intermediate_size *= double_wide ? 2 : 1;
      TORCHLORA_CHECK_DATA(
          layer.kv_source >= 0,
          text.name,
          ": layer ",
          i,
          " shares keys and values, but no layer of its kind has any");
    }
    layers.push_back(layer);
  }
  apply_per_layer_config(text, layers);
  for (size_t i = 0; i < layers.size(); ++i) {
    const auto source = layers[i].kv_source;
    TORCHLORA_CHECK_DATA(
        source < 0 ||
            (layers[i].head_dim == layers[source].head_dim &&
             layers[i].num_key_value_heads ==
                 layers[source].num_key_value_heads),
        text.name,
        ": layer ",
        i,
        " reads the keys and values of layer ",
        source,
        " but differs from it in head_dim or num_key_value_heads");
  }
  return layers;
}

/// A file of quantized weights has their scales beside them.
void check_not_quantized(const Section& section) {
  TORCHLORA_CHECK_DATA(
      !section.has("quantization_config"),
      section.name,
      ": the key \"quantization_config\" says that the weights are quantized (",
      io::json_text(section.value["quantization_config"]),
      "), which is not supported; use the checkpoint in bf16");
}

TextConfig read_text_config(const Section& text) {
  check_not_quantized(text);
  TORCHLORA_CHECK_DATA(
      !text.get<bool>("enable_moe_block", false),
      text.name,
      ": enable_moe_block is true: a mixture of experts (Gemma 4 26B-A4B) is "
      "not supported, use an E2B, E4B or 31B checkpoint");
  const auto bidirectional =
      text.get<std::string>("use_bidirectional_attention", "vision");
  TORCHLORA_CHECK_DATA(
      bidirectional == "vision",
      text.name,
      ": use_bidirectional_attention = \"",
      bidirectional,
      "\" is not supported, only null and \"vision\" are");
  text.require("attention_bias", false);
  text.require("tie_word_embeddings", true);
  text.require<std::string>("hidden_activation", "gelu_pytorch_tanh");
  TextConfig config;
  config.vocab_size = text.size("vocab_size");
  config.hidden_size = text.size("hidden_size");
  config.num_attention_heads = text.size("num_attention_heads");
  config.rms_norm_eps = text.positive("rms_norm_eps", 1e-6);
  config.final_logit_softcapping =
      text.get<double>("final_logit_softcapping", 0);
  TORCHLORA_CHECK_DATA(
      config.final_logit_softcapping >= 0,
      text.name,
      ": final_logit_softcapping must be positive or null, found ",
      config.final_logit_softcapping);
  config.sliding_window = text.size("sliding_window");
  config.hidden_size_per_layer_input =
      text.size("hidden_size_per_layer_input", 0);
  config.vocab_size_per_layer_input =
      text.size("vocab_size_per_layer_input", config.vocab_size);
  config.pad_token_id = text.get<int64_t>("pad_token_id", 0);
  TORCHLORA_CHECK_DATA(
      config.pad_token_id >= 0 && config.pad_token_id < config.vocab_size &&
          config.pad_token_id < config.vocab_size_per_layer_input,
      text.name,
      ": pad_token_id ",
      config.pad_token_id,
      " is not in the vocabulary");
  config.sliding_rope = rope_parameters(text, "sliding_attention");
  config.full_rope = rope_parameters(text, "full_attention");
  config.layers = text_layers(text);
  for (const auto& layer : config.layers) {
    TORCHLORA_CHECK_DATA(
        config.num_attention_heads % layer.num_key_value_heads == 0 &&
            layer.head_dim % 2 == 0,
        text.name,
        ": ",
        config.num_attention_heads,
        " attention heads, ",
        layer.num_key_value_heads,
        " key-value heads and a head size of ",
        layer.head_dim,
        " do not fit together");
  }
  return config;
}

} // namespace

Config Config::from_pretrained(const std::filesystem::path& directory) {
  const auto path = directory / "config.json";
  const json parsed = io::read_json(path, path.string() + ": ");
  TORCHLORA_CHECK_DATA(
      parsed.is_object(), path.string(), ": expected a JSON object");
  const Section root{parsed, path.string()};
  Config config;
  config.model_type = root.get<std::string>("model_type");
  TORCHLORA_CHECK_DATA(
      config.model_type == "gemma4" || config.model_type == "gemma4_text",
      root.name,
      ": model_type must be \"gemma4\" or \"gemma4_text\", found \"",
      config.model_type,
      "\"");
  root.require("tie_word_embeddings", true);
  check_not_quantized(root);
  config.architecture = config.is_conditional()
      ? "Gemma4ForConditionalGeneration"
      : "Gemma4ForCausalLM";
  config.text_config = read_text_config(
      config.is_conditional() ? root.section("text_config") : root);
  for (const auto key :
       {"image_token_id", "audio_token_id", "video_token_id"}) {
    if (config.is_conditional() && root.has(key)) {
      config.placeholder_token_ids.push_back(root.get<int64_t>(key));
    }
  }
  return config;
}

} // namespace torchlora::gemma4
