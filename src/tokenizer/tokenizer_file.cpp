#include "tokenizer/tokenizer_file.h"

#include <torchlora/error.h>
#include <torchlora/io/atomic_file.h>

#include "io/parse_json.h"
#include "io/recognize.h"

// The parser reports each name and value as it comes (SAX). A value for each
// token and each merge would take longer than all the rest of loading together.

namespace torchlora::detail {
using nlohmann::json;

namespace {

constexpr uint64_t kMaxBytes = 256 << 20;
/// The largest number of tokens, merges and other values together.
constexpr size_t kMaxEntries = 3 << 22;

/// Receives what the parser finds. Its functions return whether to go on.
class Receiver {
 public:
  Receiver(TokenizerFile& file, std::string name)
      : file_(file), name_(std::move(name)) {}

  bool null() {
    return value(nullptr);
  }
  bool boolean(bool flag) {
    return value(flag);
  }
  bool number_integer(json::number_integer_t number) {
    return value(number);
  }
  bool number_unsigned(json::number_unsigned_t number) {
    if (part_ != kVocabulary) {
      return value(number);
    }
    if (number > kMaxTokenId) {
      refuse("is not a token id: " + std::to_string(number));
    }
    count();
    file_.vocabulary.add(token_, static_cast<uint32_t>(number));
    return true;
  }
  bool number_float(json::number_float_t number, const std::string& text) {
    if (part_ == kVocabulary) {
      refuse("is not a token id: " + text);
    }
    return value(number);
  }
  bool string(std::string& text) {
    if (part_ == kMerges) {
      const auto space = text.find(' ');
      if (space == std::string::npos || space != text.rfind(' ')) {
        refuse_merge(text);
      }
      const std::string_view merge = text;
      add_merge(merge.substr(0, space), merge.substr(space + 1));
    } else if (part_ == kPair) {
      pair_.push_back(std::move(text));
      if (pair_.size() > 2) {
        refuse_merge(pair_);
      }
    } else {
      value(std::move(text));
    }
    return true;
  }
  bool binary(json::binary_t& /*bytes*/) {
    return false; // JSON has none
  }
  bool start_object(size_t /*size*/) {
    if (part_ == kRest && is_in_model("vocab")) {
      part_ = kVocabulary;
      file_.has_vocabulary = true;
      return true;
    }
    return open(json::object());
  }
  bool start_array(size_t /*size*/) {
    if (part_ == kRest && is_in_model("merges")) {
      part_ = kMerges;
      file_.has_merges = true;
      return true;
    }
    if (part_ == kMerges) {
      part_ = kPair;
      pair_.clear();
      return true;
    }
    return open(json::array());
  }
  bool key(std::string& name) {
    if (part_ == kVocabulary) {
      token_ = file_.vocabulary.keep(name);
    } else {
      key_ = std::move(name);
    }
    return true;
  }
  bool end_object() {
    return close();
  }
  bool end_array() {
    if (part_ == kPair) {
      part_ = kMerges;
      if (pair_.size() != 2) {
        refuse_merge(pair_);
      }
      add_merge(pair_[0], pair_[1]);
      return true;
    }
    return close();
  }
  bool parse_error(
      size_t /*position*/,
      const std::string& /*token*/,
      const json::exception& error) {
    TORCHLORA_CHECK_DATA(
        false,
        "[Tokenizer::from_pretrained] ",
        name_,
        ": not valid JSON: ",
        error.what());
  }

 private:
  enum { kRest, kVocabulary, kMerges, kPair } part_ = kRest;

  [[noreturn]] void refuse(const std::string& what) const {
    TORCHLORA_CHECK_DATA(
        false,
        "[Tokenizer::from_pretrained] ",
        name_,
        part_ == kVocabulary ? ".model.vocab." + std::string(token_)
            : part_ == kRest ? ""
                             : ".model.merges",
        ": ",
        what);
  }
  [[noreturn]] void refuse_merge(const json& found) const {
    refuse("expected a pair of tokens, found " + io::json_text(found));
  }
  void count() {
    if (++entries_ > kMaxEntries) {
      refuse("it has too many entries");
    }
  }
  /// Whether the value that comes now is `key` of the model.
  bool is_in_model(const char* key) const {
    return open_.size() == 2 && open_names_[1] == "model" &&
        open_[1]->is_object() && key_ == key;
  }

  /// Adds a value to the innermost open object or list.
  json& add(json value) {
    count();
    if (open_.empty()) {
      return file_.rest = std::move(value);
    }
    auto& parent = *open_.back();
    if (parent.is_object()) {
      return parent[key_] = std::move(value);
    }
    parent.push_back(std::move(value));
    return parent.back();
  }
  void check_is_rest(const json& value) const {
    if (part_ == kVocabulary) {
      refuse("is not a token id: " + io::json_text(value));
    }
    if (part_ != kRest) {
      refuse_merge(value);
    }
  }
  bool value(json value) {
    check_is_rest(value);
    add(std::move(value));
    return true;
  }
  bool open(json value) {
    check_is_rest(value);
    TORCHLORA_CHECK_DATA(
        open_.size() < io::kMaxJsonDepth,
        "[Tokenizer::from_pretrained] ",
        name_,
        ": the JSON is nested deeper than ",
        io::kMaxJsonDepth,
        " levels");
    open_names_.push_back(key_);
    open_.push_back(&add(std::move(value)));
    return true;
  }
  bool close() {
    if (part_ != kRest) {
      part_ = kRest;
      return true;
    }
    open_.pop_back();
    open_names_.pop_back();
    return true;
  }
  void add_merge(std::string_view left, std::string_view right) {
    count();
    auto& vocabulary = file_.vocabulary;
    file_.merges.emplace_back(vocabulary.keep(left), vocabulary.keep(right));
  }

  TokenizerFile& file_;
  std::string name_;
  std::string key_;
  std::string_view token_;
  std::vector<std::string> pair_;
  /// The open objects and lists, outermost first, and their names.
  std::vector<json*> open_;
  std::vector<std::string> open_names_;
  size_t entries_ = 0;
};

} // namespace

TokenizerFile read_tokenizer_file(const std::filesystem::path& path) {
  const auto text = io::read_file(path, kMaxBytes);
  const auto name = path.string();
  const auto format = io::recognized_format(text);
  TORCHLORA_CHECK_DATA(
      format.empty(),
      "[Tokenizer::from_pretrained] ",
      name,
      ": expected JSON, found ",
      format);
  TokenizerFile file{
      Vocabulary(
          text.size(),
          "[Tokenizer::from_pretrained] " + name + ".model.vocab: "),
      {},
      {}};
  Receiver receiver(file, name);
  json::sax_parse(text.data(), text.data() + text.size(), &receiver);
  file.vocabulary.finish();
  return file;
}

} // namespace torchlora::detail
