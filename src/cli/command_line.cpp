#include "cli/command_line.h"

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <numeric>
#include <set>

#include <c10/util/Exception.h>

namespace torchlora::cli {
namespace {

size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row.back();
}

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

class Names {
 public:
  Names(const CLI::App& app, std::vector<RetiredFlag> retired)
      : app_(app), retired_(std::move(retired)) {}

  /// Returns the option `name`. If there is none, ValueError says where the
  /// name was found.
  const CLI::Option& option(const std::string& name, const std::string& where)
      const {
    for (const RetiredFlag& flag : retired_) {
      TORCH_CHECK_VALUE(
          flag.name != name, where, " does not exist: ", flag.advice);
    }
    const CLI::Option* found = app_.get_option_no_throw("--" + name);
    if (found == nullptr) {
      const std::string near = nearest(name, option_names(app_));
      TORCH_CHECK_VALUE(
          false,
          where,
          " is unknown",
          near.empty() ? "" : "; did you mean --" + near + "?",
          " (all flags: ",
          app_.get_name(),
          " --help)");
    }
    return *found;
  }

 private:
  const CLI::App& app_;
  std::vector<RetiredFlag> retired_;
};

bool is_boolean_word(const std::string& text) {
  static const std::set<std::string> words{
      "true", "false", "yes", "no", "on", "off", "1", "0"};
  return words.contains(CLI::detail::to_lower(text));
}

bool is_flag(const CLI::Option& option) {
  return option.get_items_expected_max() == 0;
}

/// Joins a boolean flag and its value to `--flag=value`, the only form that
/// CLI11 reads, and replaces hyphens in the names of flags.
std::vector<std::string> normalized(
    const std::vector<std::string>& args,
    const Names& names) {
  std::vector<std::string> result;
  bool after_flag = false;
  for (const std::string& arg : args) {
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
    after_flag =
        is_flag(names.option(name, arg.substr(0, end))) && end == arg.size();
    result.push_back("--" + name + arg.substr(end));
  }
  return result;
}

/// CLI11's reader of TOML and INI, with the same rules for names as the command
/// line.
class ConfigFile : public CLI::ConfigTOML {
 public:
  ConfigFile(std::string section, Names names)
      : section_(std::move(section)), names_(std::move(names)) {}

  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override {
    std::vector<CLI::ConfigItem> kept;
    std::set<std::string> seen;
    for (CLI::ConfigItem& item : CLI::ConfigTOML::from_config(input)) {
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
      names_.option(item.name, where);
      TORCH_CHECK_VALUE(
          seen.insert(item.name).second, where, " is there twice");
      kept.push_back(std::move(item));
    }
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
  if (type.starts_with("INT") || type.starts_with("UINT")) {
    return option.as<int64_t>();
  }
  if (type.starts_with("FLOAT")) {
    return option.as<double>();
  }
  return text;
}

} // namespace

std::string nearest(
    const std::string& name,
    const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, name.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(name, candidate);
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

bool parse_command_line(
    CLI::App& app,
    std::vector<std::string> args,
    const std::vector<RetiredFlag>& retired_flags) {
  const std::string command =
      app.get_name().substr(app.get_name().rfind(' ') + 1);
  const Names names(app, retired_flags);
  app.set_config("--config")
      ->type_name("FILE")
      ->description(
          "TOML or INI file of flags (key = value); the command line wins");
  app.config_formatter(std::make_shared<ConfigFile>(command, names));
  app.allow_config_extras(false);
  args = normalized(args, names);
  std::reverse(args.begin(), args.end());
  try {
    app.parse(std::move(args));
  } catch (const CLI::CallForHelp&) {
    std::cout << app.help();
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
