#pragma once

#include <torchlora/model.h>

namespace torchlora {

/// Replaces the weights, ranks, scalings and configuration of the adapter
/// `adapter_name` by those of the adapter in `directory`. The adapter stays
/// active or inactive, trainable or frozen. Tensors of equal sizes are
/// overwritten in place. A layer that the new adapter does not adapt gets an
/// update of zero. PEFT's `hotswap_adapter`, which also requires equal
/// `use_rslora` and `alpha_pattern` and leaves the old rank in the
/// configuration.
///
/// Whatever it throws, nothing has changed. DataError if the file's tensors do
/// not fit. ValueError in these cases: the new adapter adapts a layer that the
/// old one does not; the two differ in their variant, `lora_bias` or
/// `lora_dropout`; they have `velora_config`; one of them has
/// `modules_to_save`, `bias` or `trainable_token_indices` or changed the base
/// weights; the old one is merged.
TORCHLORA_API void hotswap_adapter(
    PeftModel& model,
    const std::filesystem::path& directory,
    const std::string& adapter_name = "default");

} // namespace torchlora
