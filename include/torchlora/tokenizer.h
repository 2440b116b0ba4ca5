#pragma once

/// The component tokenizer: tokenizers of Hugging Face folders and the
/// interface of chat formats.

#include <torchlora/tokenizer/chat_format.h>
#include <torchlora/tokenizer/tokenizer.h>
