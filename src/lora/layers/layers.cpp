// The key functions of the layer types: their vtables are in this library only.
#include <torchlora/lora/layers/bilinear.h>
#include <torchlora/lora/layers/clippable_linear.h>
#include <torchlora/lora/layers/conv.h>
#include <torchlora/lora/layers/conv_transpose.h>
#include <torchlora/lora/layers/embedding.h>
#include <torchlora/lora/layers/embedding_bag.h>
#include <torchlora/lora/layers/experts.h>
#include <torchlora/lora/layers/linear.h>
#include <torchlora/lora/layers/multihead_attention.h>

namespace torchlora {

LoraBilinear::~LoraBilinear() = default;
LoraClippableLinear::~LoraClippableLinear() = default;
LoraConv::~LoraConv() = default;
LoraConvTranspose::~LoraConvTranspose() = default;
LoraEmbedding::~LoraEmbedding() = default;
LoraEmbeddingBag::~LoraEmbeddingBag() = default;
LoraExperts::~LoraExperts() = default;
LoraLinear::~LoraLinear() = default;
LoraMultiheadAttention::~LoraMultiheadAttention() = default;
LoraTable::~LoraTable() = default;

} // namespace torchlora
