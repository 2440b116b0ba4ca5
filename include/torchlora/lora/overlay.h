#pragma once

#include <torchlora/export.h>

namespace torchlora {

/// How a layer that does not know torchlora (`torch::nn::Linear` and the like,
/// also where LibTorch's own modules hold them) gets its update: its public
/// `weight` member becomes a tensor that computes base and low-rank product
/// where `linear`, `matmul`, `addmm`, `embedding`, a convolution or `bilinear`
/// meets it, and is the dense adapted weight to every other operation. The
/// module's registered parameter stays the raw weight.
///
/// Whatever reads the member gets the adapted weight, also a head that computes
/// from an embedding's table by `linear(x, table->weight)`, where PEFT's and
/// torchlora::nn layers give the raw one. An `autograd::Function` of yours that
/// takes the member gives the factors no gradient: pass it
/// `LoraLayer::adapted_weight`.
///
/// False if the library was built without TORCHLORA_WITH_OVERLAY, or if another
/// library in the process has taken the dispatch key. The `weight` member is
/// then the dense adapted weight itself: no dropout, lora_bias, VeLoRA, mixed
/// batches or data-driven initialisers, and `PeftModel::refresh_weights` must
/// be called before each forward.
TORCHLORA_API bool has_weight_overlay();

/// Makes layers that are adapted from now on take the dense form even where
/// there is an overlay; true takes it back.
TORCHLORA_API void set_weight_overlay(bool enabled);

} // namespace torchlora
