#pragma once

/// The component gemma4: the model and its chat format.

#include <torchlora/models/gemma4/chat_format.h>
#include <torchlora/models/gemma4/config.h>
#include <torchlora/models/gemma4/model.h>
#include <torchlora/models/gemma4/text.h>
