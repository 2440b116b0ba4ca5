#include "adapter_files/out_proj.h"

#include <algorithm>

#include <fmt/format.h>

#include <torchlora/lora/variant.h>

#include "adapter_files/match_tensors.h"
#include "text/first_few.h"

namespace torchlora {
namespace {

constexpr auto kOutProjMark = "torchlora_out_proj";
constexpr auto kHalved = "halved";
constexpr auto kFactor = ".lora_B.weight";

void warn(const std::vector<std::string>& names, const std::string& what) {
  if (!names.empty()) {
    TORCH_WARN(fmt::format(
        "{}: PEFT adds the update of a MultiheadAttention's out_proj twice, "
        "torchlora once ({})",
        what,
        detail::first_few(names)));
  }
}

} // namespace

void write_out_proj(
    Module& model,
    const std::string& adapter_name,
    bool for_peft,
    NamedTensors& tensors,
    std::map<std::string, std::string>& metadata) {
  std::vector<std::string> names;
  std::vector<std::string> keys;
  for (const auto& site : lora_sites(model)) {
    const auto* adapter = site.kind == TargetSite::kPart
        ? site.layer->find_adapter(adapter_name)
        : nullptr;
    if (!adapter) {
      continue;
    }
    TORCH_CHECK_VALUE(
        !for_peft || !adapter->variant,
        "[save_pretrained] peft_multihead_attention: PEFT has no variant for "
        "\"",
        site.name,
        "\"; save the adapter without the option");
    names.push_back(site.name);
    keys.push_back(kFilePrefix + site.peft_name + kFactor);
  }
  if (!for_peft) {
    warn(
        names,
        "[save_pretrained] this adapter computes something else in PEFT unless "
        "it is saved by SaveOptions().peft_multihead_attention(true)");
    return;
  }
  for (auto& [key, tensor] : tensors) {
    if (std::ranges::find(keys, key) != keys.end()) {
      tensor = tensor.detach() * 0.5;
      metadata[kOutProjMark] = kHalved;
    }
  }
}

void read_out_proj(
    AdapterFile& file,
    const InjectionPlan& plan,
    bool of_peft,
    const char* function) {
  const auto mark = file.metadata.find(kOutProjMark);
  const bool doubles =
      of_peft || (mark != file.metadata.end() && mark->second == kHalved);
  std::vector<std::string> names;
  for (const auto& target : plan.targets) {
    if (target.site.kind != TargetSite::kPart) {
      continue;
    }
    names.push_back(target.site.name);
    for (const auto& name : {target.site.name, target.site.peft_name}) {
      const auto found = file.tensors.find(kFilePrefix + name + kFactor);
      if (doubles && found != file.tensors.end()) {
        found->second = found->second * 2;
      }
    }
  }
  if (!doubles) {
    warn(
        names,
        c10::str(
            "[",
            function,
            "] if PEFT trained this adapter, it must be loaded by "
            "LoadOptions().peft_multihead_attention(true) and saved again"));
  }
}

} // namespace torchlora
