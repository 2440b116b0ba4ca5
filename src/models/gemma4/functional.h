#pragma once

#include <torchlora/models/gemma4/config.h>
#include <torchlora/models/gemma4/text.h>

namespace torchlora::gemma4 {

/// Computes the RMS norm over the last dimension. `weight` undefined: no scale.
Tensor rms_norm(const Tensor& input, const Tensor& weight, double eps);

/// Returns cos and sin [T, head_dim] for positions 0..T-1.
std::pair<Tensor, Tensor> rotary_embedding(
    const RopeParameters& rope,
    int64_t head_dim,
    int64_t length,
    const at::TensorOptions& options);

/// Rotates [B, heads, T, head_dim] by cos and sin [T, head_dim].
Tensor apply_rotary(const Tensor& input, const Tensor& cos, const Tensor& sin);

/// Returns an additive mask [1 or B, 1, T, T] of causal attention to the last
/// `window` positions (0: all) and to the real tokens of `attention_mask`, or
/// an undefined tensor if plain causal attention is the same. Masked entries
/// are the lowest value of the dtype and not -inf, so that a row without any
/// key has no NaN.
Tensor causal_mask(
    int64_t length,
    int64_t window,
    const Tensor& attention_mask,
    const at::TensorOptions& options);

/// Computes softmax(q kᵀ + mask) v with scale 1. q is [B, heads, T, H], k and v
/// are [B, key-value heads, T, H].
Tensor attention(
    const Tensor& query,
    const KeyValue& key_value,
    const AttentionInputs& inputs);

} // namespace torchlora::gemma4
