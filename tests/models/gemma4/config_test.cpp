#include <algorithm>

#include "models/gemma4/tiny.h"

#include <torchlora/error.h>
#include <torchlora/models/gemma4/config.h>

namespace torchlora::gemma4 {
namespace {
using nlohmann::json;

Config read(const json& config) {
  const auto folder = make_folder("config");
  write_json(folder / "config.json", config);
  return Config::from_pretrained(folder);
}

/// The configuration of a checkpoint of the hub.
json hub_config(const std::string& variant) {
  return read_json(
      kTestData.parent_path() / "reference" / "hub_files" /
      ("config." + variant + ".json"));
}

json tiny_config(const std::string& variant = "E2B") {
  return read_json(kTiny / variant / "config.json");
}

TEST(Gemma4Config, ReadsE2BOfTheHub) {
  const auto config = read(hub_config("E2B"));
  EXPECT_TRUE(config.is_conditional());
  EXPECT_EQ(config.architecture, "Gemma4ForConditionalGeneration");
  EXPECT_EQ(
      config.placeholder_token_ids,
      (std::vector<int64_t>{258880, 258881, 258884}));
  const auto& text = config.text_config;
  EXPECT_EQ(text.hidden_size, 1536);
  EXPECT_EQ(text.hidden_size_per_layer_input, 256);
  EXPECT_EQ(text.sliding_window, 512);
  EXPECT_EQ(text.final_logit_softcapping, 30);
  EXPECT_EQ(text.full_rope.rope_type, "proportional");
  EXPECT_EQ(text.full_rope.partial_rotary_factor, 0.25);
  EXPECT_EQ(text.sliding_rope.rope_theta, 1e4);
  ASSERT_EQ(text.layers.size(), 35u);
  for (size_t i = 0; i < 35; ++i) {
    const auto& layer = text.layers[i];
    const bool is_full = i % 5 == 4, is_shared = i >= 15;
    EXPECT_EQ(layer.is_sliding, !is_full) << i;
    EXPECT_EQ(layer.head_dim, is_full ? 512 : 256) << i;
    EXPECT_EQ(layer.num_key_value_heads, 1) << i;
    EXPECT_EQ(layer.intermediate_size, is_shared ? 12288 : 6144) << i;
    EXPECT_EQ(layer.kv_source, is_shared ? (is_full ? 14 : 13) : -1) << i;
    EXPECT_FALSE(layer.k_eq_v) << i;
  }
}

TEST(Gemma4Config, ReadsE4BAnd31BOfTheHub) {
  const auto small = read(hub_config("E4B")).text_config;
  ASSERT_EQ(small.layers.size(), 42u);
  EXPECT_EQ(small.layers[23].kv_source, -1);
  EXPECT_EQ(small.layers[24].kv_source, 22);
  EXPECT_EQ(small.layers[29].kv_source, 23);
  EXPECT_EQ(small.layers[24].intermediate_size, 10240);
  EXPECT_EQ(small.layers[5].num_key_value_heads, 2);
  const auto large = read(hub_config("31B")).text_config;
  ASSERT_EQ(large.layers.size(), 60u);
  EXPECT_EQ(large.hidden_size_per_layer_input, 0);
  for (size_t i = 0; i < 60; ++i) {
    const bool is_full = i % 6 == 5;
    EXPECT_EQ(large.layers[i].k_eq_v, is_full) << i;
    EXPECT_EQ(large.layers[i].num_key_value_heads, is_full ? 4 : 16) << i;
    EXPECT_EQ(large.layers[i].kv_source, -1) << i;
  }
}

TEST(Gemma4Config, TheLastLayerIsFullAndEverySixthByDefault) {
  auto config = tiny_config("31B");
  config["text_config"].erase("layer_types");
  config["text_config"]["num_hidden_layers"] = 8;
  const auto layers = read(config).text_config.layers;
  for (size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(layers[i].is_sliding, i != 5 && i != 7) << i;
  }
}

TEST(Gemma4Config, ManyLayersAreRefusedBeforeTheyAreListed) {
  auto config = tiny_config("31B");
  config["text_config"].erase("layer_types");
  config["text_config"]["num_hidden_layers"] = 1000000000;
  const auto message = message_of<DataError>([&] { read(config); });
  EXPECT_NE(message.find("at most 10000"), std::string::npos) << message;
}

TEST(Gemma4Config, TheDefaultSizeOfFullHeadsIsThatOfTransformers) {
  auto config = tiny_config();
  config["text_config"].erase("global_head_dim");
  EXPECT_EQ(read(config).text_config.layers.back().head_dim, 512);
}

TEST(Gemma4Config, RefusesAMixtureOfExpertsByName) {
  const auto message = message_of<DataError>([] { read(hub_config("26B")); });
  EXPECT_NE(message.find("26B-A4B"), std::string::npos) << message;
  EXPECT_NE(message.find("mixture of experts"), std::string::npos) << message;
}

TEST(Gemma4Config, NamesWhatIsWrong) {
  struct Case {
    const char* pointer;
    json value; // null: the key is removed
    std::vector<const char*> expected;
  };
  const std::vector<Case> cases = {
      {"/model_type", nullptr, {"\"model_type\"", "missing"}},
      {"/model_type", "llama", {"\"gemma4\"", "llama"}},
      {"/model_type", 4, {"\"model_type\"", "wrong type", "4"}},
      {"/text_config", nullptr, {"\"text_config\""}},
      {"/text_config", json::array(), {"\"text_config\""}},
      {"/text_config/hidden_size", nullptr, {"\"hidden_size\"", "missing"}},
      {"/text_config/hidden_size", "64", {"\"hidden_size\"", "wrong type"}},
      {"/text_config/hidden_size", 64.5, {"\"hidden_size\"", "wrong type"}},
      {"/text_config/hidden_size", true, {"\"hidden_size\"", "wrong type"}},
      {"/text_config/hidden_size", -1, {"\"hidden_size\"", "positive", "-1"}},
      {"/text_config/vocab_size", 0, {"\"vocab_size\"", "positive"}},
      {"/text_config/num_hidden_layers", 9, {"layer_types", "9", "8"}},
      {"/text_config/num_hidden_layers", 0, {"num_hidden_layers"}},
      {"/text_config/layer_types/0", "linear_attention", {"linear_attention"}},
      {"/text_config/layer_types", "full", {"layer_types", "wrong type"}},
      {"/text_config/num_kv_shared_layers", 8, {"num_kv_shared_layers", "8"}},
      {"/text_config/num_kv_shared_layers", -1, {"num_kv_shared_layers"}},
      {"/text_config/num_kv_shared_layers", 7, {"no layer of its kind"}},
      {"/text_config/num_attention_heads", 3, {"do not fit"}},
      {"/text_config/head_dim", 15, {"do not fit", "15"}},
      {"/text_config/pad_token_id", 1024, {"pad_token_id", "1024"}},
      {"/text_config/rms_norm_eps", 0, {"rms_norm_eps", "positive"}},
      {"/text_config/attention_bias", true, {"attention_bias", "true"}},
      {"/text_config/tie_word_embeddings", false, {"tie_word_embeddings"}},
      {"/text_config/hidden_activation", "silu", {"hidden_activation", "silu"}},
      {"/text_config/use_bidirectional_attention", "all", {"\"all\""}},
      {"/text_config/rope_parameters", nullptr, {"\"rope_parameters\""}},
      {"/text_config/rope_parameters/full_attention",
       nullptr,
       {"rope_parameters", "full_attention"}},
      {"/text_config/rope_parameters/full_attention/rope_type",
       "yarn",
       {"rope_type", "yarn"}},
      {"/text_config/rope_parameters/full_attention/rope_theta",
       "1e6",
       {"rope_theta", "wrong type"}},
      {"/text_config/rope_parameters/full_attention/rope_theta",
       0,
       {"rope_theta", "positive", "0"}},
      {"/text_config/rope_parameters/sliding_attention/rope_theta",
       -1e4,
       {"rope_theta", "positive", "-10000"}},
      {"/text_config/final_logit_softcapping",
       -30,
       {"final_logit_softcapping", "-30"}},
      {"/text_config/num_hidden_layers",
       1000000000,
       {"num_hidden_layers", "1000000000"}},
      {"/text_config/vocab_size", UINT64_MAX, {"vocab_size", "wrong type"}},
      {"/text_config/head_dim", int64_t{1} << 40, {"head_dim", "at most"}},
      {"/text_config/hidden_size_per_layer_input",
       -1,
       {"hidden_size_per_layer_input", "-1"}},
      {"/tie_word_embeddings", false, {"tie_word_embeddings", "false"}},
      {"/quantization_config",
       {{"quant_method", "bitsandbytes"}},
       {"quantization_config", "bitsandbytes"}},
      {"/text_config/quantization_config",
       {{"quant_method", "fp8"}},
       {"quantization_config", "fp8"}},
      {"/text_config/rope_parameters/full_attention/partial_rotary_factor",
       2,
       {"partial_rotary_factor", "2"}},
      {"/text_config/per_layer_config", {{"8", {{"head_dim", 32}}}}, {"\"8\""}},
      {"/text_config/per_layer_config", {{"x", {{"head_dim", 32}}}}, {"\"x\""}},
      {"/text_config/per_layer_config", {{"1", 5}}, {"per_layer_config"}},
      {"/text_config/per_layer_config",
       {{"1", {{"window", 32}}}},
       {"\"window\"", "not supported"}},
      {"/text_config/per_layer_config",
       {{"7", {{"head_dim", 32}}}},
       {"layer 7", "layer 3", "head_dim"}},
  };
  for (const auto& c : cases) {
    auto config = tiny_config();
    const json::json_pointer pointer(c.pointer);
    if (c.value.is_null()) {
      config.at(pointer.parent_pointer()).erase(pointer.back());
    } else {
      config[pointer] = c.value;
    }
    // 3 heads over 1 key-value head would do.
    if (pointer.back() == "num_attention_heads") {
      config["text_config"]["num_key_value_heads"] = 2;
    }
    const auto message = message_of<DataError>([&] { read(config); });
    EXPECT_NE(message.find("config.json"), std::string::npos) << message;
    for (const auto* part : c.expected) {
      EXPECT_NE(message.find(part), std::string::npos)
          << c.pointer << ": " << message;
    }
  }
}

TEST(Gemma4Config, NamesAFileThatIsMissingOrNoJson) {
  const auto folder = make_folder("none");
  const auto read_folder = [&] { Config::from_pretrained(folder); };
  EXPECT_NE(
      message_of<DataError>(read_folder).find("config.json"),
      std::string::npos);
  for (const auto* content : {"", "{\"model_type\": ", "[1]", "\xff"}) {
    std::ofstream(folder / "config.json") << content;
    EXPECT_NE(
        message_of<DataError>(read_folder).find("config.json"),
        std::string::npos)
        << content;
  }
}

} // namespace
} // namespace torchlora::gemma4
