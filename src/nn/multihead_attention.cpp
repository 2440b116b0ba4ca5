#include <torchlora/nn/multihead_attention.h>

#include <cmath>
#include <limits>

#include <torch/types.h>

#include <torchlora/nn/compute.h>

#include "nn/scoped_value.h"

namespace torchlora::nn {
namespace {

struct Rows {
  int64_t begin, size;
};

/// Of the forward at work: a LoRA layer takes one tensor and no more.
thread_local std::optional<Rows> rows_at_work;

at::Tensor narrow_or_none(const at::Tensor& bias, int64_t begin, int64_t size) {
  return bias.defined() ? bias.narrow(0, begin, size) : bias;
}

/// What is added to the scores, with zeros for keys that the layer adds.
at::Tensor
additive(const at::Tensor& mask, at::ScalarType dtype, int64_t added_keys) {
  auto result = mask.scalar_type() == at::kBool
      ? at::zeros(mask.sizes(), mask.options().dtype(dtype))
            .masked_fill(mask, -std::numeric_limits<double>::infinity())
      : mask.to(dtype);
  return at::constant_pad_nd(result, {0, added_keys}, 0);
}

} // namespace

MultiheadAttentionImpl::MultiheadAttentionImpl(
    const torch::nn::MultiheadAttentionOptions& options_)
    : torch::nn::MultiheadAttentionImpl(options_) {
  adopt_out_proj();
}

MultiheadAttentionImpl::MultiheadAttentionImpl(
    const torch::nn::MultiheadAttentionImpl& base)
    : torch::nn::MultiheadAttentionImpl(base) {
  adopt_out_proj();
}

void MultiheadAttentionImpl::adopt_out_proj() {
  const std::shared_ptr<torch::nn::LinearImpl> layer =
      std::make_shared<LinearImpl>(
          static_cast<const torch::nn::LinearImpl&>(*out_proj));
  out_proj = torch::nn::Linear(layer);
  replace_module("out_proj", layer);
}

// NOTE: by LibTorch's handle, as a member of its own would be left behind where
// a module that holds this one is cloned.
LinearImpl& MultiheadAttentionImpl::projection() {
  auto* layer = dynamic_cast<LinearImpl*>(out_proj.get());
  TORCH_CHECK(
      layer,
      "[MultiheadAttention] out_proj must be a torchlora::nn::Linear, found ",
      out_proj->name());
  return *layer;
}

std::vector<std::string> MultiheadAttentionImpl::adapted_children() const {
  return {"out_proj"};
}

std::shared_ptr<torch::nn::Module> MultiheadAttentionImpl::clone(
    const std::optional<torch::Device>& device) const {
  check_cloneable();
  const auto copy = torch::nn::MultiheadAttentionImpl::clone(device);
  return std::make_shared<MultiheadAttentionImpl>(
      *std::dynamic_pointer_cast<torch::nn::MultiheadAttentionImpl>(copy));
}

at::Tensor MultiheadAttentionImpl::projected_rows(
    const at::Tensor& tensor) const {
  return rows_at_work
      ? tensor.narrow(0, rows_at_work->begin, rows_at_work->size)
      : tensor;
}

at::Tensor MultiheadAttentionImpl::base_forward(const at::Tensor& input) {
  return nn::linear(
      input,
      projected_rows(in_proj_weight),
      in_proj_bias.defined() ? projected_rows(in_proj_bias) : in_proj_bias);
}

/// By the parts first, first + 1, … of queries, keys and values.
at::Tensor MultiheadAttentionImpl::project(
    const at::Tensor& input,
    int64_t first,
    int64_t parts) {
  const auto E = options.embed_dim();
  if (_qkv_same_embed_dim) {
    const ScopedValue guard(
        rows_at_work, std::optional<Rows>({first * E, parts * E}));
    return redirected_forward(input);
  }
  const auto& weight = first == 0 ? q_proj_weight
      : first == 1                ? k_proj_weight
                                  : v_proj_weight;
  return nn::linear(input, weight, narrow_or_none(in_proj_bias, first * E, E));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor>
MultiheadAttentionImpl::project_inputs(
    const at::Tensor& query,
    const at::Tensor& key,
    const at::Tensor& value) {
  if (_qkv_same_embed_dim && key.is_same(value)) {
    if (query.is_same(key)) {
      const auto parts = project(query, 0, 3).chunk(3, -1);
      return {parts[0], parts[1], parts[2]};
    }
    auto q = project(query, 0, 1);
    const auto parts = project(key, 1, 2).chunk(2, -1);
    return {q, parts[0], parts[1]};
  }
  auto q = project(query, 0, 1);
  auto k = project(key, 1, 1);
  return {q, k, project(value, 2, 1)};
}

std::tuple<at::Tensor, at::Tensor> MultiheadAttentionImpl::forward(
    const at::Tensor& query,
    const at::Tensor& key,
    const at::Tensor& value,
    const at::Tensor& key_padding_mask,
    bool need_weights,
    const at::Tensor& attn_mask,
    bool average_attn_weights) {
  TORCH_CHECK_VALUE(
      query.dim() == 3 && key.dim() == 3 && value.dim() == 3 &&
          query.size(1) == key.size(1) && key.size(0) == value.size(0) &&
          key.size(1) == value.size(1),
      "[MultiheadAttention] query must be [L, N, E], key and value [S, N, E], "
      "found ",
      query.sizes(),
      ", ",
      key.sizes(),
      " and ",
      value.sizes());
  const auto N = query.size(1), H = options.num_heads();
  auto [q, k, v] = project_inputs(query, key, value);
  int64_t added_keys = 0;
  if (bias_k.defined()) {
    const auto append = [&](const at::Tensor& to, const at::Tensor& bias) {
      return at::cat({to, bias.to(to.scalar_type()).expand({1, N, -1})});
    };
    k = append(k, bias_k);
    v = append(v, bias_v);
    ++added_keys;
  }
  // [N, heads, L or S, head_dim]
  const auto heads = [&](const at::Tensor& tensor) {
    return tensor.reshape({tensor.size(0), N, H, head_dim})
        .permute({1, 2, 0, 3});
  };
  q = heads(q);
  k = heads(k);
  v = heads(v);
  if (options.add_zero_attn()) {
    k = at::constant_pad_nd(k, {0, 0, 0, 1}, 0);
    v = at::constant_pad_nd(v, {0, 0, 0, 1}, 0);
    ++added_keys;
  }

  const auto dtype = q.scalar_type();
  at::Tensor mask;
  if (attn_mask.defined()) {
    mask = additive(attn_mask, dtype, added_keys);
    mask = mask.dim() == 3 ? mask.view({N, H, mask.size(1), mask.size(2)})
                           : mask.view({1, 1, mask.size(0), mask.size(1)});
  }
  if (key_padding_mask.defined()) {
    const auto keys = additive(key_padding_mask, dtype, added_keys)
                          .view({N, 1, 1, k.size(2)});
    mask = mask.defined() ? mask + keys : keys;
  }

  const double p = is_training() ? options.dropout() : 0;
  at::Tensor output, weights;
  if (need_weights) {
    q = q / std::sqrt(static_cast<double>(head_dim));
    auto scores = at::matmul(q, k.transpose(2, 3));
    weights = (mask.defined() ? scores + mask : scores).softmax(-1);
    weights = at::dropout(weights, p, /*train=*/true);
    output = at::matmul(weights, v);
    weights = average_attn_weights ? weights.mean(1) : weights;
  } else {
    output = at::scaled_dot_product_attention(
        q,
        k,
        v,
        mask.defined() ? std::make_optional(mask.expand({N, -1, q.size(2), -1}))
                       : std::nullopt,
        p);
  }
  output = output.permute({2, 0, 1, 3}).reshape({query.size(0), N, -1});
  return {projection().forward(output), weights};
}

} // namespace torchlora::nn
