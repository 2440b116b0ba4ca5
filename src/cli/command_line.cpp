#include "cli/command_line.h"

#include <algorithm>
#include <memory>
#include <set>
#include <sstream>

#include <c10/util/Exception.h>
#include <fmt/ranges.h>

#include <torchlora/error.h>

#include "cli/help_formatter.h"
#include "cli/numbers.h"
#include "cli/terminal.h"
#include "io/input_file.h"
#include "io/recognize.h"
#include "text/nearest.h"

namespace torchlora::cli {
namespace {

std::string with_underscores(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    names.insert(
        names.end(), option->get_lnames().begin(), option->get_lnames().end());
  }
  return names;
}

/// Judges names of flags and collects those that do not exist, so that a user
/// learns of all of them at once.
class Names {
 public:
  Names(const CLI::App& app, const std::vector<ForeignFlag>& foreign)
      : app_(app), foreign_(foreign) {}

  /// Returns the option `name`, or nullptr if there is none. `where` says where
  /// the name was found, and `values` what it was given.
  const CLI::Option* find(
      const std::string& name,
      const std::string& where,
      const std::vector<std::string>& values) {
    const CLI::Option* found = app_.get_option_no_throw("--" + name);
    if (found == nullptr) {
      judge(name, where, values);
    }
    return found;
  }

  /// ValueError if names were refused, a warning if names have no effect.
  void report() const {
    TORCH_CHECK_VALUE(
        refused_.empty(),
        fmt::format(
            "{} (all flags: {} --help)",
            fmt::join(refused_, "\n  "),
            app_.get_name()));
    if (!ignored_.empty()) {
      TORCH_WARN(fmt::format(
          "without effect here:\n  {}", fmt::join(ignored_, "\n  ")));
    }
  }

 private:
  void judge(
      const std::string& name,
      const std::string& where,
      const std::vector<std::string>& values) {
    const auto flag =
        std::find_if(foreign_.begin(), foreign_.end(), [&](const auto& entry) {
          return entry.name == name || "no_" + entry.name == name;
        });
    if (flag == foreign_.end()) {
      const std::string near = detail::nearest(name, option_names(app_));
      refused_.push_back(
          where + " is unknown" +
          (near.empty() ? "" : "; did you mean --" + near + "?"));
      return;
    }
    const std::string value = flag->name != name ? "false"
        : values.empty()                         ? "true"
                                                 : values.front();
    const bool is_neutral = std::any_of(
        flag->neutral_values.begin(),
        flag->neutral_values.end(),
        [&](const auto& neutral) {
          return CLI::detail::to_lower(neutral) == CLI::detail::to_lower(value);
        });
    if (!is_neutral) {
      (flag->is_harmless ? ignored_ : refused_)
          .push_back(
              where + (flag->is_harmless ? ": " : " does not exist: ") +
              flag->advice);
    }
  }

  const CLI::App& app_;
  const std::vector<ForeignFlag>& foreign_;
  std::vector<std::string> refused_, ignored_;
};

bool is_boolean_word(const std::string& text) {
  static const std::set<std::string> words{
      "true", "false", "yes", "no", "on", "off", "1", "0"};
  return words.contains(CLI::detail::to_lower(text));
}

bool is_flag(const CLI::Option& option) {
  return option.get_items_expected_max() == 0;
}

/// Returns the values behind the flag at `begin`: everything up to the next
/// flag.
std::vector<std::string> values_behind(
    const std::vector<std::string>& args,
    size_t begin) {
  std::vector<std::string> values;
  while (++begin < args.size() && !args[begin].starts_with("--")) {
    values.push_back(args[begin]);
  }
  return values;
}

/// Checks that `path` can be read as a file of flags. CLI11 reads whatever it
/// is, to its end.
void check_config_file(const std::string& path) {
  constexpr uint64_t kMaxBytes = 1 << 20;
  try {
    const io::InputFile file(path, "--config: ");
    TORCHLORA_CHECK_DATA(
        file.size() <= kMaxBytes,
        "--config: ",
        path,
        " has ",
        file.size(),
        " bytes; a file of flags has at most ",
        kMaxBytes);
  } catch (const DataError& error) {
    TORCH_CHECK_VALUE(false, error.what_without_backtrace());
  }
}

/// Joins a boolean flag and its value to `--flag=value`, the only form that
/// CLI11 reads, replaces hyphens in the names of flags, and leaves out flags
/// that do not exist with their values.
std::vector<std::string> normalized(
    const std::vector<std::string>& args,
    Names& names) {
  std::vector<std::string> result;
  bool after_flag = false;
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& arg = args[i];
    if (after_flag && is_boolean_word(arg)) {
      result.back() += "=" + arg;
      after_flag = false;
      continue;
    }
    after_flag = false;
    if (arg.size() < 3 || !arg.starts_with("--")) {
      result.push_back(arg);
      continue;
    }
    const size_t end = std::min(arg.find('='), arg.size());
    const std::string name = with_underscores(arg.substr(2, end - 2));
    std::vector<std::string> values = values_behind(args, i);
    const size_t num_values = values.size();
    if (end < arg.size()) {
      values.insert(values.begin(), arg.substr(end + 1));
    }
    const CLI::Option* option = names.find(name, arg.substr(0, end), values);
    if (option == nullptr) {
      i += num_values;
      continue;
    }
    if (name == "config" && !values.empty()) {
      check_config_file(values.front());
    }
    after_flag = is_flag(*option) && end == arg.size();
    result.push_back("--" + name + arg.substr(end));
  }
  return result;
}

/// CLI11's reader of TOML and INI, with the same rules for names as the command
/// line.
class ConfigFile : public CLI::ConfigTOML {
 public:
  ConfigFile(std::string section, const Names& names)
      : section_(std::move(section)), names_(names) {}

  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override {
    std::ostringstream content;
    content << input.rdbuf();
    const std::string text = std::move(content).str();
    const std::string format = io::recognized_format(text);
    TORCH_CHECK_VALUE(
        format.empty(),
        "--config should be a TOML or INI file, one `key = value` per line; "
        "found ",
        format);
    std::istringstream lines(text);
    std::vector<CLI::ConfigItem> kept;
    std::set<std::string> seen;
    Names names = names_;
    for (CLI::ConfigItem& item : CLI::ConfigTOML::from_config(lines)) {
      if (item.name == "++" || item.name == "--") {
        continue;
      }
      const std::string where =
          "the key \"" + item.fullname() + "\" of the --config file";
      TORCH_CHECK_VALUE(
          item.parents.empty() ||
              item.parents == std::vector<std::string>{section_},
          where,
          " is in a section that is unknown; the only one is [",
          section_,
          "]");
      item.parents.clear();
      item.name = with_underscores(item.name);
      TORCH_CHECK_VALUE(
          seen.insert(item.name).second, where, " is there twice");
      if (names.find(item.name, where, item.inputs) != nullptr) {
        kept.push_back(std::move(item));
      }
    }
    names.report();
    return kept;
  }

 private:
  std::string section_;
  Names names_;
};

nlohmann::ordered_json typed(
    const CLI::Option& option,
    const std::string& text) {
  if (is_flag(option)) {
    return !text.empty() && CLI::detail::to_flag_value(text) > 0;
  }
  if (text.empty()) {
    return nullptr;
  }
  // Read by the parser: ".5" and "+1" are not JSON.
  const std::string type = option.get_type_name();
  if (type.starts_with("UINT")) {
    return option.as<uint64_t>();
  }
  if (type.starts_with("INT")) {
    return option.as<int64_t>();
  }
  if (type.starts_with("FLOAT")) {
    return option.as<double>();
  }
  return text;
}

} // namespace

bool parse_command_line(
    CLI::App& app,
    std::vector<std::string> args,
    const std::vector<ForeignFlag>& foreign_flags) {
  const std::string command =
      app.get_name().substr(app.get_name().rfind(' ') + 1);
  Names names(app, foreign_flags);
  app.set_config("--config")
      ->type_name("FILE")
      ->description(
          "TOML or INI file of flags (key = value); the command line wins");
  app.config_formatter(
      std::make_shared<ConfigFile>(command, Names(app, foreign_flags)));
  app.allow_config_extras(false);
  app.formatter(std::make_shared<HelpFormatter>());
  check_numbers(app);
  args = normalized(args, names);
  names.report();
  std::reverse(args.begin(), args.end());
  try {
    app.parse(std::move(args));
  } catch (const CLI::CallForHelp&) {
    say(app.help());
    return false;
  } catch (const CLI::ParseError& error) {
    TORCH_CHECK_VALUE(
        false, error.what(), " (all flags: ", app.get_name(), " --help)");
  }
  return true;
}

nlohmann::ordered_json resolved_arguments(const CLI::App& app) {
  nlohmann::ordered_json arguments;
  for (const CLI::Option* option : app.get_options()) {
    if (option == app.get_help_ptr() || option == app.get_config_ptr()) {
      continue;
    }
    const std::string& name = option->get_lnames().front();
    std::vector<std::string> values = option->results();
    if (values.empty() && !option->get_default_str().empty()) {
      values = {option->get_default_str()};
    }
    if (option->get_items_expected_max() > 1) {
      arguments[name] = values;
    } else {
      arguments[name] = typed(*option, values.empty() ? "" : values.front());
    }
  }
  return arguments;
}

} // namespace torchlora::cli
