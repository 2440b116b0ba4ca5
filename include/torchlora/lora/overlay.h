#pragma once

#include <torchlora/export.h>

namespace torchlora {

/// Whether layers that do not know torchlora can be adapted
/// (`torch::nn::Linear` and the like, also where LibTorch's own modules hold
/// them).
///
/// Their public `weight` member becomes a tensor that computes base and
/// low-rank product where `linear`, `matmul`, `addmm`, `embedding`,
/// `embedding_bag`, a convolution or `bilinear` meets it, and is the dense
/// adapted weight to every other operation. The module's registered parameter
/// stays the raw weight.
///
/// Whatever reads the member gets the adapted weight, also a head that computes
/// from an embedding's table by `linear(x, table->weight)`, where PEFT's and
/// torchlora::nn layers give the raw one. An `autograd::Function` of yours that
/// takes the member gives the factors no gradient: pass it
/// `LoraLayer::adapted_weight`.
///
/// False if the library was built without TORCHLORA_WITH_OVERLAY, or if other
/// libraries in the process have taken the dispatch keys that it could use.
/// Such a layer is then refused by name.
TORCHLORA_API bool has_weight_overlay();

} // namespace torchlora
