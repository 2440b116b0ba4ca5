#include <exception>
#include <memory>
#include <new>

#include <fmt/format.h>
#include <torch/version.h>

#include <torchlora/error.h>
#include <torchlora/lora/overlay.h>
#include <torchlora/nn/compute.h>

#include "cli/commands.h"
#include "cli/terminal.h"
#include "text/nearest.h"

namespace torchlora::cli {
namespace {

constexpr int kOk = 0;
constexpr int kFailed = 1;
constexpr int kUsage = 2;
constexpr int kBadData = 3;

struct Subcommand {
  const char* name;
  const char* description;
  Command run;
};

constexpr Subcommand kSubcommands[] = {
    {"dpo",
     "fine-tune on preference pairs (direct preference optimization)",
     dpo},
};

std::string help() {
  std::string text =
      "torchlora: LoRA fine-tuning of Gemma 4 checkpoints\n\n"
      "Usage: torchlora COMMAND [flags]\n\nCommands:\n";
  for (const Subcommand& command : kSubcommands) {
    text += fmt::format("  {:<12}{}\n", command.name, command.description);
  }
  return text +
      "\n  --help, --version; `torchlora COMMAND --help` for a command's "
      "flags\n"
      "\nExit codes: 0 done, 1 the run failed, 2 wrong flags, 3 bad data, "
      "130 interrupted";
}

std::string version() {
  const bool native = nn::compute_route() == nn::ComputeRoute::kNative;
  return fmt::format(
      "torchlora {}\nLibTorch {}\ncompiler {}\nbf16 matrix products: {}\n"
      "weight overlay: {}",
      TORCHLORA_VERSION,
      TORCH_VERSION,
      TORCHLORA_COMPILER,
      native ? "native" : "upcast to float32 a block at a time",
      has_weight_overlay() ? "yes" : "no, unmodified layers are refused");
}

int run(const std::vector<std::string>& args) {
  if (args.empty()) {
    say_error(help());
    return kUsage;
  }
  const std::string& name = args.front();
  if (name == "--help" || name == "-h" || name == "help") {
    say(help());
    return kOk;
  }
  if (name == "--version") {
    say(version());
    return kOk;
  }
  std::vector<std::string> names;
  for (const Subcommand& command : kSubcommands) {
    if (name == command.name) {
      return command.run({args.begin() + 1, args.end()});
    }
    names.emplace_back(command.name);
  }
  const std::string near = detail::nearest(name, names);
  TORCH_CHECK_VALUE(
      false,
      "no command \"",
      name,
      "\"",
      near.empty() ? std::string() : "; did you mean " + near + "?",
      " (all commands: torchlora --help)");
}

class WarningsToStderr : public c10::WarningHandler {
 public:
  void process(const c10::Warning& warning) override {
    say_error("torchlora: warning: " + warning.msg());
  }
};

int report(int code, const std::string& message) {
  say_error("torchlora: error: " + message);
  return code;
}

int run_and_report(const std::vector<std::string>& args) {
  WarningsToStderr warnings;
  c10::WarningUtils::WarningHandlerGuard guard(&warnings);
  try {
    return run(args);
  } catch (const DataError& error) {
    return report(kBadData, error.what_without_backtrace());
  } catch (const c10::ValueError& error) {
    return report(kUsage, error.what_without_backtrace());
  } catch (const c10::Error& error) {
    return report(kFailed, error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return report(kFailed, "not enough memory");
  } catch (const std::exception& error) {
    return report(kFailed, error.what());
  }
}

} // namespace
} // namespace torchlora::cli

int main(int argc, char** argv) {
  torchlora::cli::prepare_standard_streams();
  return torchlora::cli::run_and_report({argv + 1, argv + argc});
}
