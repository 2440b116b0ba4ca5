#include <torchlora/init/initializer.h>

#include <algorithm>
#include <cctype>
#include <list>
#include <mutex>

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <torchlora/init/corda.h>
#include <torchlora/init/default.h>
#include <torchlora/init/eva.h>
#include <torchlora/init/gaussian.h>
#include <torchlora/init/loftq.h>
#include <torchlora/init/lora_ga.h>
#include <torchlora/init/mica.h>
#include <torchlora/init/olora.h>
#include <torchlora/init/orthogonal.h>
#include <torchlora/init/pissa.h>

namespace torchlora::init {
namespace {

bool never(const LoraConfig& /*config*/) {
  return false;
}

/// The field of `LoraConfig` that configures an initializer.
struct OwnConfig {
  const char* field = nullptr;
  bool (*is_given)(const LoraConfig& config) = nullptr;
};

struct Entry {
  Initializer initializer;
  OwnConfig own = {};
  bool ignores_case = false;
  /// Whether a number follows the name.
  bool has_number = false;
  /// PEFT rejects a file that names it: the file says `true` then.
  bool is_unknown_to_peft = false;

  bool matches(std::string name) const {
    if (ignores_case) {
      std::ranges::transform(name, name.begin(), [](unsigned char c) {
        return static_cast<char>(std::tolower(c));
      });
    }
    return has_number ? name.starts_with(initializer.name)
                      : name == initializer.name;
  }
};

/// The initializers of this process. Entries are never removed, so that
/// references to them stay valid without the lock.
class Table {
 public:
  const Entry* find(const InitLoraWeights& value) const {
    const std::lock_guard lock(mutex_);
    return value.is_name() ? find(value.name())
        : value.flag()     ? &true_
                           : &false_;
  }

  bool add(Entry entry) {
    const std::lock_guard lock(mutex_);
    if (find(entry.initializer.name)) {
      return false;
    }
    entries_.push_back(std::move(entry));
    return true;
  }

  std::vector<const Entry*> entries() const {
    const std::lock_guard lock(mutex_);
    std::vector<const Entry*> result;
    for (const auto& entry : entries_) {
      result.push_back(&entry);
    }
    return result;
  }

 private:
  const Entry* find(const std::string& name) const {
    const auto found = std::ranges::find_if(
        entries_, [&](const Entry& entry) { return entry.matches(name); });
    return found == entries_.end() ? nullptr : &*found;
  }

  mutable std::mutex mutex_;
  const Entry true_{
      {"true",
       default_init,
       {.draws_A = true,
        .supports_lora_bias = true,
        .supports_target_parameters = true}}};
  const Entry false_{
      {"false",
       no_init,
       {.supports_lora_bias = true, .supports_target_parameters = true}}};
  /// The named ones.
  std::list<Entry> entries_{
      {{"corda",
        corda_init,
        {.modifies_base = true, .is_repeatable = never, .needs_data = true}},
       {"corda_config",
        [](const LoraConfig& c) { return c.corda_config().has_value(); }}},
      {{"eva", eva_init, {.needs_data = true}},
       {"eva_config",
        [](const LoraConfig& c) { return c.eva_config().has_value(); }}},
      {{"gaussian",
        gaussian_init,
        {.draws_A = true, .supports_target_parameters = true}},
       {},
       /*ignores_case=*/true},
      {{"loftq",
        loftq_init,
        {.modifies_base = true,
         .is_repeatable = loftq_is_repeatable,
         .is_convertible = false,
         .needs_config = true}},
       {"loftq_config",
        [](const LoraConfig& c) { return c.loftq_config().has_value(); }}},
      {{"lora_ga",
        lora_ga_init,
        {.modifies_base = true,
         .is_repeatable = never,
         .needs_data = true,
         .needs_config = true}},
       {"lora_ga_config",
        [](const LoraConfig& c) { return c.lora_ga_config().has_value(); }}},
      {{"mica", mica_init, {.trains_B = false, .supports_velora = false}},
       {},
       /*ignores_case=*/true},
      {{"olora", olora_init, {.modifies_base = true}},
       {},
       /*ignores_case=*/true},
      {{"orthogonal", orthogonal_init}},
      {{"pissa", pissa_init, {.modifies_base = true}}},
      {{"pissa_niter_",
        pissa_niter_init,
        {.modifies_base = true, .is_repeatable = never}},
       {},
       /*ignores_case=*/false,
       /*has_number=*/true},
  };
};

Table& table() {
  static Table table;
  return table;
}

} // namespace

void register_initializer(
    const std::string& name,
    InitFunction function,
    const Traits& traits) {
  Entry entry{{name, std::move(function), traits}};
  entry.is_unknown_to_peft = true;
  TORCH_CHECK_VALUE(
      !name.empty() && table().add(std::move(entry)),
      "[register_initializer] the name of an initializer must be new and not "
      "empty, found \"",
      name,
      "\"");
}

const Initializer& find_initializer(const InitLoraWeights& value) {
  if (const auto* entry = table().find(value)) {
    return entry->initializer;
  }
  std::vector<std::string> known;
  for (const auto* entry : table().entries()) {
    const auto& name = entry->initializer.name;
    known.push_back(entry->has_number ? name + "N" : name);
  }
  TORCH_CHECK_VALUE(
      false,
      fmt::format(
          "[init_lora_weights] unknown initialization \"{}\"; it must be true, "
          "false, one of \"{}\", or a name that register_initializer added",
          value.name(),
          fmt::join(known, "\", \"")));
}

bool is_unknown_to_peft(const InitLoraWeights& value) {
  const auto* entry = table().find(value);
  return entry && entry->is_unknown_to_peft;
}

void check_own_config(const LoraConfig& config) {
  const auto* chosen = &find_initializer(config.init_lora_weights());
  for (const auto* entry : table().entries()) {
    const auto& [field, is_given] = entry->own;
    if (!field) {
      continue;
    }
    const auto& [name, function, traits] = entry->initializer;
    const bool is_chosen = &entry->initializer == chosen;
    if (is_given(config) && !is_chosen) {
      TORCH_WARN(
          "`",
          field,
          "` is specified but will be ignored when `init_lora_weights` is not "
          "'",
          name,
          "'.");
    }
    TORCH_CHECK_VALUE(
        !is_chosen || !traits.needs_config || is_given(config),
        "[init_lora_weights] `",
        field,
        "` must be specified when `init_lora_weights` is '",
        name,
        "'");
  }
}

} // namespace torchlora::init
