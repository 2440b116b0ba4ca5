#pragma once

#include <ATen/core/Tensor.h>

#include <torchlora/lora/adapter.h>

namespace torchlora {

/// The module of the vectors, and their key in the files.
constexpr const char* kVeloraEmbed = "lora_velora_embed";

/// The length of a group of features; the last may be shorter.
int64_t velora_group_size(int64_t in_features, const VeloraConfig& config);

/// The vector before the first batch, [group size], with these options.
at::Tensor initial_velora_embed(
    int64_t group_size,
    const VeloraConfig& config,
    const at::TensorOptions& options);

/// The vector for the input x [tokens, in_features] of the update, which may
/// make it a new one.
at::Tensor velora_embed(LoraVelora& velora, const at::Tensor& x);

/// What is kept of x: the projections of its groups, [tokens, num_groups].
at::Tensor velora_compress(
    const at::Tensor& x,
    const at::Tensor& embed,
    const VeloraConfig& config);

/// The gradient of A [r, in_features] by that of A x [tokens, r], with x
/// rebuilt from its projections.
at::Tensor velora_grad_A(
    const at::Tensor& grad_Ax,
    const at::Tensor& compressed,
    const at::Tensor& embed,
    int64_t in_features,
    double scale);

} // namespace torchlora
