// A chat template is a program (Jinja), which torchlora does not run:
// `gemma4::ChatFormat` writes what the newest of Gemma 4's own templates
// prints. The published ones are known by a hash of their text. The older ones
// print the same, except for assistant messages that follow each other and for
// a system message that is a list of parts.
#include "cli/chat_template.h"

#include <algorithm>
#include <array>
#include <cstdint>

#include <nlohmann/json.hpp>

#include <torchlora/error.h>
#include <torchlora/io/atomic_file.h>

#include "io/input_file.h"
#include "io/parse_json.h"

namespace torchlora::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr uint64_t kNewestTemplate = 0x8f0d9448769de281;
constexpr uint64_t kOlderTemplates[] = {
    0xfd2eff67701906eb,
    0xf8853f5ee4557739,
    0x9c363b945b2badb4,
    0x77a0d11961f44b7e};

/// FNV-1a of the text without the white space at its ends.
uint64_t hash_of(std::string_view text) {
  constexpr const char* kSpace = " \t\r\n";
  const size_t begin = std::min(text.find_first_not_of(kSpace), text.size());
  text = text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  }
  return hash;
}

struct ChatTemplate {
  fs::path file;
  std::string text;
};

/// Reads `chat_template` of a JSON file: a string, or a list of named ones, of
/// which "default" counts.
std::string template_in(const fs::path& file) {
  const json object = io::read_json(file, file.string() + ": ");
  if (!object.is_object() || !object.contains("chat_template")) {
    return "";
  }
  const json& value = object["chat_template"];
  if (value.is_string()) {
    return value.get<std::string>();
  }
  for (const json& entry : value) {
    if (entry.is_object() && entry.value("name", json()) == "default" &&
        entry.value("template", json()).is_string()) {
      return entry["template"].get<std::string>();
    }
  }
  return "";
}

/// Finds the template where transformers looks for it, in its order.
ChatTemplate find_template(const fs::path& model) {
  const fs::path jinja = model / "chat_template.jinja";
  if (io::is_present(jinja)) {
    return {jinja, io::read_file(jinja, io::kMaxJsonBytes)};
  }
  for (const char* name : {"chat_template.json", "tokenizer_config.json"}) {
    const fs::path file = model / name;
    if (io::is_present(file)) {
      if (std::string text = template_in(file); !text.empty()) {
        return {file, std::move(text)};
      }
    }
  }
  return {};
}

/// Returns whether the older templates print a conversation otherwise.
bool depends_on_revision(const train::PreferenceExample& example) {
  using Messages = std::vector<ChatMessage>;
  const auto& prompt = std::get<Messages>(example.prompt);
  if (!prompt.empty() &&
      (prompt[0].role == "system" || prompt[0].role == "developer") &&
      std::holds_alternative<std::vector<std::string>>(prompt[0].content)) {
    return true;
  }
  return std::ranges::any_of(
      std::array{&example.chosen, &example.rejected}, [&](const auto* text) {
        Messages all = prompt;
        const auto& completion = std::get<Messages>(*text);
        all.insert(all.end(), completion.begin(), completion.end());
        return std::ranges::adjacent_find(
                   all, [](const auto& a, const auto& b) {
                     return a.role == "assistant" && b.role == "assistant";
                   }) != all.end();
      });
}

} // namespace

void check_chat_template(
    const fs::path& model,
    const std::vector<train::PreferenceExample>& examples) {
  if (std::ranges::none_of(
          examples, &train::PreferenceExample::is_conversational)) {
    return;
  }
  const ChatTemplate found = find_template(model);
  const uint64_t hash = hash_of(found.text);
  if (found.text.empty() || hash == kNewestTemplate) {
    return;
  }
  if (std::ranges::count(kOlderTemplates, hash) > 0) {
    const auto example = std::ranges::find_if(examples, depends_on_revision);
    TORCHLORA_CHECK_DATA(
        example == examples.end(),
        example->source,
        " has assistant messages that follow each other, or a system message "
        "that is a list; ",
        found.file.string(),
        " is an older template of Gemma 4 and prints these otherwise than the "
        "newest, whose format torchlora writes; use the newest template");
    return;
  }
  const auto has = [&](const char* token) {
    return found.text.find(token) != std::string::npos;
  };
  TORCHLORA_CHECK_DATA(
      has("<|turn>") && has("<turn|>"),
      found.file.string(),
      " does not write Gemma 4's turns (<|turn>role … <turn|>), and torchlora "
      "writes conversations in that format only; give data whose prompt, "
      "chosen and rejected are strings that the template printed");
  TORCH_WARN(
      found.file.string(),
      " is no chat template of Gemma 4 that torchlora knows; conversations are "
      "written in Gemma 4's format all the same. If the template prints "
      "something else, give data whose prompt, chosen and rejected are strings "
      "that it printed");
}

} // namespace torchlora::cli
