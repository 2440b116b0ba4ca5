#pragma once

#include <filesystem>

#include <torchlora/train/dataset.h>

namespace torchlora::cli {

/// Compares the chat template in the folder of a checkpoint with those of
/// Gemma 4, if `examples` are conversations, which `gemma4::ChatFormat` writes.
/// DataError if the template has other turn tokens, as the model has then
/// learnt another format, or is an older one that prints one of `examples`
/// otherwise. A warning if it is unknown. A folder without a template passes.
void check_chat_template(
    const std::filesystem::path& model,
    const std::vector<train::PreferenceExample>& examples);

} // namespace torchlora::cli
