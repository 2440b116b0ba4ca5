#include "tokenizer/tokenizer_json.h"

#include <algorithm>
#include <initializer_list>
#include <string_view>

#include <torchlora/error.h>

#include "io/input_file.h"
#include "io/parse_json.h"
#include "tokenizer/tokenizer_file.h"

namespace torchlora::detail {
using nlohmann::json;

namespace {

/// A text of which every byte is replaced grows by this factor at most, over
/// all steps of a normalizer or decoder. Gemma's grows threefold.
constexpr double kMaxGrowth = 256;

/// A part of the file, with its name for error messages.
struct Part {
  const json& value;
  std::string name;

  [[noreturn]] void refuse(const std::string& what) const {
    TORCHLORA_CHECK_DATA(
        false, "[Tokenizer::from_pretrained] ", name, ": ", what);
  }
  bool has(const char* key) const {
    return value.is_object() && value.contains(key) && !value[key].is_null();
  }
  Part operator[](const char* key) const {
    if (!has(key)) {
      refuse(std::string("the key \"") + key + "\" is missing");
    }
    return {value[key], name + "." + key};
  }
  template <class T>
  T as() const {
    try {
      return value.get<T>();
    } catch (const json::exception&) {
      refuse("has the wrong type, found " + io::json_text(value));
    }
  }
  template <class T>
  T get(const char* key, T otherwise) const {
    return has(key) ? (*this)[key].as<T>() : otherwise;
  }
  /// Refuses unknown options.
  void allow_only(std::initializer_list<std::string_view> keys) const {
    if (!value.is_object()) {
      refuse("must be an object");
    }
    for (const auto& item : value.items()) {
      if (std::find(keys.begin(), keys.end(), item.key()) == keys.end()) {
        refuse("the option " + item.key() + " is not supported");
      }
    }
  }
  /// Refuses an option that is present with another value.
  void require(const char* key, const json& supported) const {
    if (has(key) && value[key] != supported) {
      refuse(
          std::string("the option ") + key + " = " + io::json_text(value[key]) +
          " is not supported, only " + io::json_text(supported) + " is");
    }
  }
  std::string type() const {
    return (*this)["type"].as<std::string>();
  }
  int64_t id() const {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > kMaxTokenId) {
      refuse("is not a token id: " + io::json_text(value));
    }
    return value.get<int64_t>();
  }
  /// Reads `"pattern": {"String": …}`.
  std::string string_pattern() const {
    const auto pattern = (*this)["pattern"];
    pattern.allow_only({"String"});
    auto text = pattern["String"].as<std::string>();
    if (text.empty()) {
      pattern.refuse("is empty");
    }
    return text;
  }
  [[noreturn]] void refuse_type(const char* supported) const {
    refuse("\"" + type() + "\" is not supported, only " + supported);
  }
  std::vector<Part> items() const {
    if (!value.is_array()) {
      refuse("must be a list");
    }
    std::vector<Part> parts;
    for (size_t i = 0; i < value.size(); ++i) {
      parts.push_back({value[i], name + "[" + std::to_string(i) + "]"});
    }
    return parts;
  }
};

Replacement read_replacement(const Part& part) {
  part.allow_only({"type", "pattern", "content"});
  return {part.string_pattern(), part["content"].as<std::string>()};
}

/// Refuses steps that would multiply the length of a text: 40 of them that
/// double it are 40 short lines.
void check_growth(const Part& part, const std::vector<Replacement>& steps) {
  double growth = 1;
  for (const auto& step : steps) {
    growth *= std::max(
        1.0,
        static_cast<double>(step.to.size()) /
            static_cast<double>(step.from.size()));
  }
  if (growth > kMaxGrowth) {
    part.refuse(
        "its replacements can make a text " + std::to_string(growth) +
        " times as long; at most " + std::to_string(kMaxGrowth) +
        " is supported");
  }
}

void read_normalizer(const Part& part, std::vector<Replacement>& steps) {
  if (part.type() == "Sequence") {
    for (const auto& item : part["normalizers"].items()) {
      read_normalizer(item, steps);
    }
  } else if (part.type() == "Replace") {
    steps.push_back(read_replacement(part));
  } else {
    part.refuse_type("Replace and Sequence are");
  }
}

std::string read_pre_tokenizer(const Part& part) {
  if (part.type() != "Split") {
    part.refuse_type("Split is");
  }
  part.allow_only({"type", "pattern", "behavior", "invert"});
  part.require("behavior", "MergedWithPrevious");
  part.require("invert", false);
  return part.string_pattern();
}

void read_decoder(const Part& part, std::vector<DecodeStep>& steps) {
  const auto type = part.type();
  if (type == "Sequence") {
    for (const auto& item : part["decoders"].items()) {
      read_decoder(item, steps);
    }
  } else if (type == "Replace") {
    steps.push_back({DecodeStep::kReplace, read_replacement(part)});
  } else if (type == "ByteFallback") {
    steps.push_back({DecodeStep::kByteFallback, {}});
  } else if (type == "Fuse") {
    steps.push_back({DecodeStep::kFuse, {}});
  } else {
    part.refuse_type("Replace, ByteFallback, Fuse and Sequence are");
  }
}

/// Reads the tokens that the template puts before and after the text.
void read_post_processor(const Part& part, TokenizerJson& tokenizer) {
  if (part.type() != "TemplateProcessing") {
    part.refuse_type("TemplateProcessing is");
  }
  bool is_behind = false;
  for (const auto& item : part["single"].items()) {
    if (item.has("Sequence")) {
      is_behind = true;
      continue;
    }
    const auto token = item["SpecialToken"]["id"].as<std::string>();
    auto& ids = is_behind ? tokenizer.suffix_ids : tokenizer.prefix_ids;
    for (const auto& id :
         part["special_tokens"][token.c_str()]["ids"].items()) {
      ids.push_back(id.id());
    }
  }
}

Bpe read_model(const Part& part, TokenizerFile& file) {
  if (part.type() != "BPE") {
    part.refuse_type("BPE is");
  }
  for (const auto* key :
       {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    if (part.has(key) && part.value[key] != "" && part.value[key] != 0) {
      part.refuse(
          std::string("the option ") + key + " = " +
          io::json_text(part.value[key]) + " is not supported");
    }
  }
  part.allow_only( // and the vocabulary and the merges
      {"type",
       "dropout",
       "unk_token",
       "continuing_subword_prefix",
       "end_of_word_suffix",
       "fuse_unk",
       "byte_fallback",
       "ignore_merges",
       "vocab",
       "merges"});
  part.require("ignore_merges", false);
  if (!file.has_vocabulary) {
    part["vocab"].refuse("must be an object");
  }
  if (!file.has_merges) {
    part["merges"].refuse("must be a list");
  }
  return Bpe(
      std::move(file.vocabulary),
      file.merges,
      {part.get<std::string>("unk_token", ""),
       part.get<bool>("fuse_unk", false),
       part.get<bool>("byte_fallback", false)},
      "[Tokenizer::from_pretrained] " + part.name + ": ");
}

void read_added_token(const Part& part, TokenizerJson& tokenizer) {
  part.allow_only(
      {"id",
       "content",
       "single_word",
       "lstrip",
       "rstrip",
       "normalized",
       "special"});
  for (const auto* key : {"single_word", "lstrip", "rstrip", "normalized"}) {
    part.require(key, false);
  }
  const auto content = part["content"].as<std::string>();
  const auto id = part["id"].id();
  if (content.empty()) {
    part.refuse("the content is empty");
  }
  const auto& vocabulary = tokenizer.bpe.vocabulary();
  const int64_t known = vocabulary.id_of(content).value_or(id);
  if (known != id) {
    part.refuse(
        "\"" + content +
        "\" has another id in the vocabulary: " + std::to_string(known));
  }
  const auto [text, is_new] = tokenizer.added_texts.emplace(id, content);
  const std::string other(vocabulary.token_of(id).value_or(text->second));
  if (other != content || text->second != content ||
      tokenizer.added_ids.emplace(content, id).first->second != id) {
    part.refuse(
        "\"" + content + "\" and another token, \"" +
        (other != content ? other : text->second) +
        "\", have the same id or the same text");
  }
  tokenizer.added_tokens.insert(content, id);
  if (part.get<bool>("special", false)) {
    tokenizer.special_ids.insert(id);
  }
}

} // namespace

TokenizerJson read_tokenizer_json(const std::filesystem::path& path) {
  auto file = read_tokenizer_file(path);
  const Part root{file.rest, path.string()};
  root.allow_only(
      {"version",
       "truncation",
       "padding",
       "added_tokens",
       "normalizer",
       "pre_tokenizer",
       "post_processor",
       "decoder",
       "model"});
  TokenizerJson tokenizer{
      read_model(root["model"], file), {}, {}, {}, {}, {}, {}, {}, {}, {}};
  if (root.has("added_tokens")) {
    for (const auto& item : root["added_tokens"].items()) {
      read_added_token(item, tokenizer);
    }
  }
  if (root.has("normalizer")) {
    read_normalizer(root["normalizer"], tokenizer.normalizer);
    check_growth(root["normalizer"], tokenizer.normalizer);
  }
  if (root.has("pre_tokenizer")) {
    tokenizer.split_behind = read_pre_tokenizer(root["pre_tokenizer"]);
  }
  if (root.has("post_processor")) {
    read_post_processor(root["post_processor"], tokenizer);
  }
  read_decoder(root["decoder"], tokenizer.decoder);
  std::vector<Replacement> replacements;
  for (const auto& step : tokenizer.decoder) {
    if (step.kind == DecodeStep::kReplace) {
      replacements.push_back(step.replacement);
    }
  }
  check_growth(root["decoder"], replacements);
  return tokenizer;
}

std::map<std::string, std::string> read_special_tokens(
    const std::filesystem::path& tokenizer_config) {
  std::map<std::string, std::string> tokens;
  if (!io::is_present(tokenizer_config)) {
    return tokens;
  }
  const auto parsed = io::read_json(
      tokenizer_config,
      "[Tokenizer::from_pretrained] " + tokenizer_config.string() + ": ");
  const Part root{parsed, tokenizer_config.string()};
  for (const auto* name : {"bos_token", "eos_token", "pad_token"}) {
    if (root.has(name)) {
      const auto part = root[name];
      tokens[name] = part.value.is_object() ? part["content"].as<std::string>()
                                            : part.as<std::string>();
    }
  }
  return tokens;
}

} // namespace torchlora::detail
