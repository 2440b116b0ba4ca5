#pragma once

/// The component core: everything that a program needs to adapt its own
/// modules, save and load. `gemma4.h`, `tokenizer.h` and `train.h` are the
/// headers of the other components.

#include <torchlora/adapter_files/adapter_config.h>
#include <torchlora/adapter_files/hotswap.h>
#include <torchlora/config/lora_config.h>
#include <torchlora/error.h>
#include <torchlora/io/checkpoint.h>
#include <torchlora/io/safetensors.h>
#include <torchlora/lora/layer.h>
#include <torchlora/lora/layers/bilinear.h>
#include <torchlora/lora/layers/clippable_linear.h>
#include <torchlora/lora/layers/conv.h>
#include <torchlora/lora/layers/conv_transpose.h>
#include <torchlora/lora/layers/embedding.h>
#include <torchlora/lora/layers/embedding_bag.h>
#include <torchlora/lora/layers/experts.h>
#include <torchlora/lora/layers/linear.h>
#include <torchlora/lora/layers/multihead_attention.h>
#include <torchlora/lora/overlay.h>
#include <torchlora/lora/registry.h>
#include <torchlora/lora/variants/dora.h>
#include <torchlora/lora/variants/kasa.h>
#include <torchlora/lora/variants/velora.h>
#include <torchlora/model.h>
#include <torchlora/model/status.h>
#include <torchlora/model/trainable_tokens.h>
#include <torchlora/nn/clippable_linear.h>
#include <torchlora/nn/compute.h>
#include <torchlora/nn/conv.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/experts.h>
#include <torchlora/nn/inspect.h>
#include <torchlora/nn/linear.h>
#include <torchlora/nn/multihead_attention.h>
#include <torchlora/nn/pretrained.h>
#include <torchlora/nn/replaced_rows.h>
#include <torchlora/optim/lorafa.h>
#include <torchlora/optim/loraplus.h>
#include <torchlora/optim/riemannian.h>
#include <torchlora/tools/intruders.h>
#include <torchlora/tools/preprocess.h>
