
#include <torchlora/nn/clippable_linear.h>
#include <torchlora/nn/conv.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/experts.h>
#include <torchlora/nn/linear.h>
#include <torchlora/nn/multihead_attention.h>
#include <torchlora/nn/pretrained.h>
#include <torchlora/nn/replaced_rows.h>

// The layers are headers with their code. What must exist once per process is
// here: each destructor is the key function of its class, so that the vtable
// and the type information are emitted in this library alone, and the values of
// the thread are variables of this file.

namespace torchlora::nn {

ForwardTarget::~ForwardTarget() = default;
RowReplacer::~RowReplacer() = default;
Redirectable::~Redirectable() = default;
LinearImpl::~LinearImpl() = default;
EmbeddingImpl::~EmbeddingImpl() = default;
Convolution::~Convolution() = default;
Conv1dImpl::~Conv1dImpl() = default;
Conv2dImpl::~Conv2dImpl() = default;
Conv3dImpl::~Conv3dImpl() = default;
ClippableLinearImpl::~ClippableLinearImpl() = default;
StackedExperts::~StackedExperts() = default;
StackedExperts::Product::~Product() = default;
MultiheadAttentionImpl::~MultiheadAttentionImpl() = default;
PretrainedModel::~PretrainedModel() = default;
CausalLM::~CausalLM() = default;

std::optional<at::IntArrayRef>& StackedExperts::running_rows() {
  thread_local std::optional<at::IntArrayRef> rows;
  return rows;
}

std::optional<MultiheadAttentionImpl::Rows>&
MultiheadAttentionImpl::running_rows() {
  thread_local std::optional<Rows> rows;
  return rows;
}

int64_t convolution_groups(const Module& module) {
  int64_t groups = 1;
  const auto look = [&]<class... Types>() {
    const auto of = [&](const auto* convolution) {
      groups = convolution ? convolution->options.groups() : groups;
    };
    (of(dynamic_cast<const Types*>(&module)), ...);
  };
  look.operator()<
      torch::nn::Conv1dImpl,
      torch::nn::Conv2dImpl,
      torch::nn::Conv3dImpl,
      torch::nn::ConvTranspose1dImpl,
      torch::nn::ConvTranspose2dImpl,
      torch::nn::ConvTranspose3dImpl>();
  return groups;
}

} // namespace torchlora::nn
