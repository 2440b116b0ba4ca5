#include "tokenizer/tokenizer_json.h"

#include <algorithm>
#include <initializer_list>
#include <string_view>

#include <torchlora/error.h>
#include <torchlora/io/atomic_file.h>

#include "io/parse_json.h"

namespace torchlora::detail {
using nlohmann::json;

namespace {

/// The largest token id: the table of tokens by id must not grow with a wrong
/// file.
constexpr int64_t kMaxId = 1 << 24;

json parse(const std::filesystem::path& path) {
  return io::parse_json(
      io::read_file(path), "[tokenizer] " + path.string() + ": ");
}

/// A part of the file, with its name for error messages.
struct Part {
  const json& value;
  std::string name;

  [[noreturn]] void refuse(const std::string& what) const {
    TORCHLORA_CHECK_DATA(false, "[tokenizer] ", name, ": ", what);
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
      refuse("has the wrong type, found " + value.dump().substr(0, 80));
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
          std::string("the option ") + key + " = " + value[key].dump() +
          " is not supported, only " + supported.dump() + " is");
    }
  }
  std::string type() const {
    return (*this)["type"].as<std::string>();
  }
  int64_t id() const {
    if (!value.is_number_unsigned() || value > kMaxId) {
      refuse("is not a token id: " + value.dump());
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

Bpe read_model(const Part& part) {
  if (part.type() != "BPE") {
    part.refuse_type("BPE is");
  }
  for (const auto* key :
       {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    if (part.has(key) && part.value[key] != "" && part.value[key] != 0) {
      part.refuse(
          std::string("the option ") + key + " = " + part.value[key].dump() +
          " is not supported");
    }
  }
  part.allow_only(
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
  std::unordered_map<std::string, int64_t> vocab;
  const auto entries = part["vocab"];
  if (!entries.value.is_object()) {
    entries.refuse("must be an object");
  }
  vocab.reserve(entries.value.size());
  for (const auto& [token, id] : entries.value.items()) {
    vocab.emplace(token, Part{id, entries.name + "." + token}.id());
  }
  std::vector<std::pair<std::string, std::string>> merges;
  const auto list = part["merges"];
  if (!list.value.is_array()) {
    list.refuse("must be a list");
  }
  merges.reserve(list.value.size());
  for (const auto& merge : list.value) {
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
        merge[1].is_string()) {
      merges.emplace_back(
          merge[0].get<std::string>(), merge[1].get<std::string>());
      continue;
    }
    const auto text = merge.is_string() ? merge.get<std::string>() : "";
    const auto space = text.find(' ');
    if (space == std::string::npos || space != text.rfind(' ')) {
      list.refuse("expected a pair of tokens, found " + merge.dump());
    }
    merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
  return Bpe(
      std::move(vocab),
      merges,
      {part.get<std::string>("unk_token", ""),
       part.get<bool>("fuse_unk", false),
       part.get<bool>("byte_fallback", false)},
      "[tokenizer] " + part.name + ": ");
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
  const auto known = tokenizer.bpe.vocab().find(content);
  if (known != tokenizer.bpe.vocab().end() && known->second != id) {
    part.refuse(
        "\"" + content + "\" has another id in the vocabulary: " +
        std::to_string(known->second));
  }
  tokenizer.added_tokens.insert(content, id);
  tokenizer.added_ids[content] = id;
  if (part.get<bool>("special", false)) {
    tokenizer.special_ids.insert(id);
  }
}

} // namespace

TokenizerJson read_tokenizer_json(const std::filesystem::path& path) {
  const auto parsed = parse(path);
  const Part root{parsed, path.string()};
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
      read_model(root["model"]), {}, {}, {}, {}, {}, {}, {}, {}};
  if (root.has("added_tokens")) {
    for (const auto& item : root["added_tokens"].items()) {
      read_added_token(item, tokenizer);
    }
  }
  if (root.has("normalizer")) {
    read_normalizer(root["normalizer"], tokenizer.normalizer);
  }
  if (root.has("pre_tokenizer")) {
    tokenizer.split_behind = read_pre_tokenizer(root["pre_tokenizer"]);
  }
  if (root.has("post_processor")) {
    read_post_processor(root["post_processor"], tokenizer);
  }
  read_decoder(root["decoder"], tokenizer.decoder);
  return tokenizer;
}

std::map<std::string, std::string> read_special_tokens(
    const std::filesystem::path& tokenizer_config) {
  std::map<std::string, std::string> tokens;
  std::error_code error;
  if (!std::filesystem::exists(tokenizer_config, error)) {
    return tokens;
  }
  const auto parsed = parse(tokenizer_config);
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
