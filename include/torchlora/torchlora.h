#pragma once

/// Everything that a program needs to adapt, train, save and load.

#include <torchlora/error.h>
#include <torchlora/hotswap.h>
#include <torchlora/intruders.h>
#include <torchlora/io/checkpoint.h>
#include <torchlora/io/peft.h>
#include <torchlora/io/safetensors.h>
#include <torchlora/lora/clippable_linear.h>
#include <torchlora/lora/config.h>
#include <torchlora/lora/conv.h>
#include <torchlora/lora/embedding.h>
#include <torchlora/lora/experts.h>
#include <torchlora/lora/layer.h>
#include <torchlora/lora/linear.h>
#include <torchlora/lora/multihead_attention.h>
#include <torchlora/lora/registry.h>
#include <torchlora/model.h>
#include <torchlora/models/gemma4/model.h>
#include <torchlora/nn/clippable_linear.h>
#include <torchlora/nn/compute.h>
#include <torchlora/nn/conv.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/experts.h>
#include <torchlora/nn/inspect.h>
#include <torchlora/nn/linear.h>
#include <torchlora/nn/multihead_attention.h>
#include <torchlora/nn/pretrained.h>
#include <torchlora/optim/lorafa.h>
#include <torchlora/optim/loraplus.h>
#include <torchlora/optim/riemannian.h>
#include <torchlora/preprocess.h>
#include <torchlora/status.h>
#include <torchlora/tokenizer/chat.h>
#include <torchlora/tokenizer/tokenizer.h>
#include <torchlora/train/dpo.h>
