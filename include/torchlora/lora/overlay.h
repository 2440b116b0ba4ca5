#pragma once

#include <torchlora/export.h>

namespace torchlora {

/// Returns whether torchlora can adapt layers that do not know it
/// (`torch::nn::Linear` and the like, also inside LibTorch's own modules).
///
/// While such a layer is adapted, its public `weight` member is a tensor that
/// computes base plus low-rank product in `linear`, `matmul`, `addmm`,
/// `embedding`, `embedding_bag`, convolutions and `bilinear`. Every other
/// operation computes with the dense adapted weight. The module's registered
/// parameter stays the raw weight.
///
/// Any code that reads the member gets the adapted weight, also a head that
/// computes `linear(x, table->weight)` from an embedding's table; PEFT's and
/// `torchlora::nn` layers give such a head the raw weight. An
/// `autograd::Function` of yours that takes the member gives the factors no
/// gradient: pass it `LoraLayer::adapted_weight()`.
///
/// False if the library was built without TORCHLORA_WITH_OVERLAY, or if other
/// libraries in the process use the dispatch keys that the overlay needs.
/// Adapting such a layer is then an error.
TORCHLORA_API bool has_weight_overlay();

} // namespace torchlora
