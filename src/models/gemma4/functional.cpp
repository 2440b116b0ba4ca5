#include "models/gemma4/functional.h"

#include <limits>

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <torch/autograd.h>
#include <torch/types.h>

namespace torchlora::gemma4 {

namespace {

at::ScalarType compute_dtype(const Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

/// Saves the input and one number per row for the backward pass.
struct RmsNormFunction : torch::autograd::Function<RmsNormFunction> {
  static Tensor forward(
      torch::autograd::AutogradContext* ctx,
      const Tensor& input,
      const std::optional<Tensor>& weight,
      double eps) {
    const auto x = input.to(compute_dtype(input));
    const auto scale =
        x.square().mean(-1, /*keepdim=*/true).add_(eps).pow_(-0.5);
    auto y = x * scale;
    if (weight) {
      y.mul_(*weight);
    }
    ctx->save_for_backward({input, weight.value_or(Tensor()), scale});
    return y.to(input.scalar_type());
  }

  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* ctx,
      torch::autograd::variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto& input = saved[0];
    const auto& weight = saved[1];
    const auto& scale = saved[2];
    const auto g = grads[0].to(scale.scalar_type());
    const auto normed = input.to(scale.scalar_type()) * scale;
    Tensor grad_input, grad_weight;
    if (weight.defined() && ctx->needs_input_grad(1)) {
      grad_weight = (g * normed)
                        .reshape({-1, normed.size(-1)})
                        .sum(0)
                        .to(weight.scalar_type());
    }
    if (ctx->needs_input_grad(0)) {
      const auto gn = weight.defined() ? g * weight : g;
      grad_input = (gn - normed * (gn * normed).mean(-1, /*keepdim=*/true))
                       .mul_(scale)
                       .to(input.scalar_type());
    }
    return {grad_input, grad_weight, Tensor()};
  }
};

} // namespace

Tensor rms_norm(const Tensor& input, const Tensor& weight, double eps) {
  return RmsNormFunction::apply(
      input, weight.defined() ? std::make_optional(weight) : std::nullopt, eps);
}

std::pair<Tensor, Tensor> rotary_embedding(
    const RopeParameters& rope,
    int64_t head_dim,
    int64_t length,
    const at::TensorOptions& options) {
  const auto fp32 = options.dtype(at::kFloat);
  const auto exponents = at::arange(0, head_dim, 2, fp32).div_(head_dim);
  auto frequencies =
      at::pow(at::Scalar(rope.rope_theta), exponents).reciprocal_();
  if (rope.rope_type == "proportional") {
    const auto rotated = static_cast<int64_t>(
        rope.partial_rotary_factor * static_cast<double>(head_dim) / 2);
    frequencies.slice(0, rotated).zero_();
  }
  frequencies.div_(rope.factor);
  const auto angles = at::outer(at::arange(length, fp32), frequencies);
  const auto both = at::cat({angles, angles}, -1);
  return {both.cos().to(options.dtype()), both.sin().to(options.dtype())};
}

Tensor apply_rotary(const Tensor& input, const Tensor& cos, const Tensor& sin) {
  const auto halves = input.chunk(2, -1);
  return input * cos + at::cat({-halves[1], halves[0]}, -1) * sin;
}

Tensor causal_mask(
    int64_t length,
    int64_t window,
    const Tensor& attention_mask,
    const at::TensorOptions& options) {
  const bool windowed = window > 0 && window < length;
  if (!windowed && !attention_mask.defined()) {
    return {};
  }
  const auto device_options = options.dtype(at::kBool);
  auto visible = at::ones({length, length}, device_options).tril_();
  if (windowed) {
    visible = visible.triu_(1 - window);
  }
  visible = visible.view({1, 1, length, length});
  if (attention_mask.defined()) {
    visible = visible & attention_mask.to(at::kBool).view({-1, 1, 1, length});
  }
  const double lowest = options.dtype() == at::kHalf
      ? std::numeric_limits<c10::Half>::lowest()
      : std::numeric_limits<c10::BFloat16>::lowest();
  return at::zeros(visible.sizes(), options)
      .masked_fill_(visible.logical_not(), lowest);
}

Tensor attention(
    const Tensor& query,
    const KeyValue& key_value,
    const AttentionInputs& inputs) {
  const auto& [k, v] = key_value;
  const auto& mask = inputs.mask;
  const auto batch = query.size(0), heads = k.size(1);
  const auto groups = query.size(1) / heads;
  if (inputs.has_padding) {
    // NOTE: a padding row without any visible key is the mean over all keys
    // here, as in transformers; the fused kernels' backward is not right for
    // such a row.
    const auto scores =
        at::matmul(query, k.repeat_interleave(groups, 1).transpose(-1, -2)) +
        mask;
    const auto probabilities =
        at::softmax(scores, -1, compute_dtype(query)).to(v.scalar_type());
    return at::matmul(probabilities, v.repeat_interleave(groups, 1));
  }
  // The key-value heads become part of the batch dimension, so the queries of a
  // group share their head as an expanded view: nothing is copied, and the
  // gradients of a head are summed once.
  const auto shared = [&](const Tensor& t) {
    return t.flatten(0, 1).unsqueeze(1).expand({-1, groups, -1, -1});
  };
  return at::scaled_dot_product_attention(
             query.reshape(
                 {batch * heads, groups, query.size(2), query.size(3)}),
             shared(k),
             shared(v),
             mask.defined() ? std::make_optional(mask) : std::nullopt,
             /*dropout_p=*/0.0,
             /*is_causal=*/!mask.defined(),
             /*scale=*/1.0)
      .unflatten(0, {batch, heads})
      .flatten(1, 2);
}

} // namespace torchlora::gemma4
