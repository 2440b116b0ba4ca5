#include <torchlora/init/initializer.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <initializer_list>
#include <optional>
#include <tuple>

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

namespace torchlora::init {
namespace {

struct Entry {
  const char* name;
  Initializer initializer;
  bool changes_base = false;
  bool ignore_case = false;
  /// A number follows the name.
  bool has_number = false;
};

constexpr std::array kInitializers{
    Entry{"corda", corda_init, /*changes_base=*/true},
    Entry{"eva", eva_init},
    Entry{"gaussian", gaussian_init, false, /*ignore_case=*/true},
    Entry{"loftq", loftq_init, /*changes_base=*/true},
    Entry{"lora_ga", lora_ga_init, /*changes_base=*/true},
    Entry{"mica", mica_init, false, /*ignore_case=*/true},
    Entry{"olora", olora_init, /*changes_base=*/true, /*ignore_case=*/true},
    Entry{"orthogonal", orthogonal_init},
    Entry{"pissa", pissa_init, /*changes_base=*/true},
    Entry{
        "pissa_niter_",
        pissa_niter_init,
        /*changes_base=*/true,
        false,
        /*has_number=*/true},
};

std::string to_lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) {
    return static_cast<char>(std::tolower(c));
  });
  return text;
}

/// nullptr for true, false and a name that nobody knows.
const Entry* find_entry(const InitLoraWeights& value) {
  if (!value.is_name()) {
    return nullptr;
  }
  for (const auto& entry : kInitializers) {
    const auto name = entry.ignore_case ? to_lower(value.name()) : value.name();
    if (entry.has_number ? name.starts_with(entry.name) : name == entry.name) {
      return &entry;
    }
  }
  return nullptr;
}

void check_one_of(
    const char* field,
    const std::string& value,
    std::initializer_list<const char*> known) {
  TORCH_CHECK_VALUE(
      std::ranges::find(known, value) != known.end(),
      fmt::format(
          "[init_lora_weights] `{}` must be one of '{}', found '{}'",
          field,
          fmt::join(known, "', '"),
          value));
}

template <class Config>
const Config* config_of(
    const InitLoraWeights& init,
    const char* name,
    const char* field,
    const std::optional<Config>& config) {
  const bool is_used = init == InitLoraWeights(name);
  if (config && !is_used) {
    TORCH_WARN(
        "`",
        field,
        "` is specified but will be ignored when `init_lora_weights` is not '",
        name,
        "'.");
  }
  return config && is_used ? &*config : nullptr;
}

} // namespace

void check_init_config(const LoraConfig& config) {
  const auto& init = config.init_lora_weights();
  if (const auto* corda =
          config_of(init, "corda", "corda_config", config.corda_config())) {
    check_one_of("corda_method", corda->corda_method(), {"ipm", "kpm"});
  }
  const auto* lora_ga =
      config_of(init, "lora_ga", "lora_ga_config", config.lora_ga_config());
  if (lora_ga) {
    check_one_of(
        "direction",
        lora_ga->direction(),
        {"ArBr", "A2rBr", "ArB2r", "random"});
    check_one_of(
        "scale",
        lora_ga->scale(),
        {"stable", "weight_svd", "gd_scale", "unit"});
    TORCH_CHECK_VALUE(
        lora_ga->stable_gamma() > 0,
        "[init_lora_weights] `stable_gamma` must be positive, found ",
        lora_ga->stable_gamma());
  }
  const auto* loftq =
      config_of(init, "loftq", "loftq_config", config.loftq_config());
  if (loftq) {
    TORCH_CHECK_VALUE(
        loftq->loftq_bits() == 4 || loftq->loftq_bits() == 8,
        "[init_lora_weights] `loftq_bits` must be 4 or 8, found ",
        loftq->loftq_bits());
    TORCH_CHECK_VALUE(
        loftq->loftq_iter() > 0,
        "[init_lora_weights] `loftq_iter` must be greater than 0, found ",
        loftq->loftq_iter());
  }
  if (const auto* eva =
          config_of(init, "eva", "eva_config", config.eva_config())) {
    TORCH_CHECK_VALUE(
        eva->rho() >= 1,
        "[init_lora_weights] `rho` must be >= 1.0, found ",
        eva->rho());
    TORCH_CHECK_VALUE(
        eva->tau() >= 0 && eva->tau() <= 1,
        "[init_lora_weights] `tau` must be between 0.0 and 1.0, found ",
        eva->tau());
  }
  for (const auto& [name, field, is_given] :
       {std::tuple("lora_ga", "lora_ga_config", lora_ga != nullptr),
        std::tuple("loftq", "loftq_config", loftq != nullptr)}) {
    TORCH_CHECK_VALUE(
        is_given || !(init == InitLoraWeights(name)),
        "[init_lora_weights] `",
        field,
        "` must be specified when `init_lora_weights` is '",
        name,
        "'");
  }
}

bool changes_the_base(const LoraConfig& config) {
  const auto* entry = find_entry(config.init_lora_weights());
  return entry && entry->changes_base;
}

bool changes_the_base_for_good(const LoraConfig& config) {
  const auto& init = config.init_lora_weights();
  if (!init.is_name()) {
    return false;
  }
  // One quantisation can be repeated; what follows of it is up to the
  // decomposition's rounding.
  const bool repeats = init.name() == "loftq" && config.loftq_config() &&
      config.loftq_config()->loftq_iter() == 1;
  return init.name().starts_with("pissa_niter_") || init.name() == "corda" ||
      init.name() == "lora_ga" || (init.name() == "loftq" && !repeats);
}

Initializer find_initializer(const InitLoraWeights& value) {
  if (!value.is_name()) {
    return value.flag() ? default_init : no_init;
  }
  if (const auto* entry = find_entry(value)) {
    return entry->initializer;
  }
  std::vector<std::string> known;
  for (const auto& entry : kInitializers) {
    known.push_back(
        fmt::format("\"{}{}\"", entry.name, entry.has_number ? "N" : ""));
  }
  TORCH_CHECK_VALUE(
      false,
      fmt::format(
          "[init_lora_weights] unknown initialization \"{}\"; it must be true, "
          "false or one of {}",
          value.name(),
          fmt::join(known, ", ")));
}

} // namespace torchlora::init
