#pragma once

#include <cmath>
#include <limits>
#include <tuple>

#include <torch/nn/modules/activation.h>
#include <torch/nn/pimpl.h>

#include <torchlora/detail/scoped_value.h>
#include <torchlora/nn/compute.h>
#include <torchlora/nn/linear.h>
#include <torchlora/nn/redirect.h>

// Attention projects queries, keys and values by one weight `in_proj_weight` [3
// E, E], so one LoRA layer adapts all three. A forward projects each of the
// distinct inputs once, by the rows of the weight that the input needs. The
// redirection takes one tensor; the range of rows travels beside it as a value
// of the thread, for the time of one projection, and `projected_rows` applies
// it to the weight and to B.

namespace torchlora::nn {

/// A `torch::nn::MultiheadAttention` whose projections a LoRA layer can take
/// over. It multiplies by `nn::linear` (`nn/compute.h`). An adapter of this
/// layer has two parts: one for `in_proj_weight` and one for the child
/// `out_proj`, which is an `nn::Linear` behind LibTorch's handle.
///
/// A layer with `kdim` or `vdim` computes, but refuses to be a target of an
/// adapter, as in PEFT.
class TORCHLORA_API MultiheadAttentionImpl
    : public torch::nn::MultiheadAttentionImpl,
      public Redirectable {
 public:
  /// @{
  /// Takes the arguments of `torch::nn::MultiheadAttention`. A layer made from
  /// `base` shares the tensors of `base`.
  MultiheadAttentionImpl(int64_t embed_dim, int64_t num_heads)
      : MultiheadAttentionImpl(
            torch::nn::MultiheadAttentionOptions(embed_dim, num_heads)) {}
  explicit MultiheadAttentionImpl(
      const torch::nn::MultiheadAttentionOptions& options_)
      : torch::nn::MultiheadAttentionImpl(options_) {
    adopt_out_proj();
  }
  explicit MultiheadAttentionImpl(const torch::nn::MultiheadAttentionImpl& base)
      : torch::nn::MultiheadAttentionImpl(base) {
    adopt_out_proj();
  }
  /// @}
  ~MultiheadAttentionImpl() override;

  /// Attends from `query` [L, N, E] to `key` and `value` [S, N, E], where N is
  /// the batch, L and S are lengths and E is embed_dim. Returns the output
  /// [L, N, E] and, with `need_weights`, the attention weights [N, L, S], or
  /// [N, heads, L, S] without `average_attn_weights`. `key_padding_mask` is
  /// [N, S], `attn_mask` is [L, S] or [N · heads, L, S]. A mask is boolean
  /// (true hides the key) or floating (the layer adds it to the scores).
  /// Without `need_weights` the layer calls `scaled_dot_product_attention`. It
  /// projects inputs that are the same tensor together.
  std::tuple<Tensor, Tensor> forward(
      const Tensor& query,
      const Tensor& key,
      const Tensor& value,
      const Tensor& key_padding_mask = {},
      bool need_weights = true,
      const Tensor& attn_mask = {},
      bool average_attn_weights = true) {
    TORCH_CHECK_VALUE(
        query.dim() == 3 && key.dim() == 3 && value.dim() == 3 &&
            query.size(1) == key.size(1) && key.size(0) == value.size(0) &&
            key.size(1) == value.size(1),
        "[MultiheadAttention] query must be [L, N, E], key and value [S, N, "
        "E], "
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
      const auto append = [&](const Tensor& to, const Tensor& bias) {
        return at::cat({to, bias.to(to.scalar_type()).expand({1, N, -1})});
      };
      k = append(k, bias_k);
      v = append(v, bias_v);
      ++added_keys;
    }
    // [N, heads, L or S, head_dim]
    const auto heads = [&](const Tensor& tensor) {
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
    Tensor mask;
    if (attn_mask.defined()) {
      mask = additive_mask(attn_mask, dtype, added_keys);
      mask = mask.dim() == 3 ? mask.view({N, H, mask.size(1), mask.size(2)})
                             : mask.view({1, 1, mask.size(0), mask.size(1)});
    }
    if (key_padding_mask.defined()) {
      const auto keys = additive_mask(key_padding_mask, dtype, added_keys)
                            .view({N, 1, 1, k.size(2)});
      mask = mask.defined() ? mask + keys : keys;
    }

    const double p = is_training() ? options.dropout() : 0;
    Tensor output, weights;
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
          mask.defined()
              ? std::make_optional(mask.expand({N, -1, q.size(2), -1}))
              : std::nullopt,
          p);
    }
    output = output.permute({2, 0, 1, 3}).flatten(2);
    return {projection().forward(output), weights};
  }

  /// Projects `input` [*, E] by rows of `in_proj_weight` [3 E, E], without any
  /// adapter: by the rows that `projected_rows` returns, which are all 3 E
  /// outside of a forward.
  Tensor base_forward(const Tensor& input) override {
    return nn::linear(
        input,
        projected_rows(in_proj_weight),
        in_proj_bias.defined() ? projected_rows(in_proj_bias) : in_proj_bias);
  }
  /// Returns {"out_proj"}: the child that each adapter of this layer adapts
  /// too.
  std::vector<std::string> adapted_children() const override {
    return {"out_proj"};
  }
  /// Returns a copy with its own tensors, on `device` if given. Throws
  /// c10::Error while an adapter is attached to the layer, because the copy
  /// would lack it; unload the adapter first.
  std::shared_ptr<Module> clone(
      const std::optional<torch::Device>& device =
          std::nullopt) const override {
    check_cloneable();
    const auto copy = torch::nn::MultiheadAttentionImpl::clone(device);
    return std::make_shared<MultiheadAttentionImpl>(
        *std::dynamic_pointer_cast<torch::nn::MultiheadAttentionImpl>(copy));
  }

  /// Returns the rows of `tensor` that the projection in this thread uses.
  /// `tensor` has 3 E rows (queries, keys, values), as `in_proj_weight` and a
  /// LoRA factor B have. Returns all rows if no projection is running.
  Tensor projected_rows(const Tensor& tensor) const {
    const auto& rows = running_rows();
    return rows ? tensor.narrow(0, rows->begin, rows->size) : tensor;
  }

 private:
  struct Rows {
    int64_t begin, size;
  };

  /// The rows that the projection in this thread uses.
  static std::optional<Rows>& running_rows();

  /// Returns a mask in the form that is added to the scores: −inf hides a key.
  /// Appends zeros for the keys that the layer adds.
  static Tensor
  additive_mask(const Tensor& mask, at::ScalarType dtype, int64_t added_keys) {
    auto result = mask.scalar_type() == at::kBool
        ? at::zeros(mask.sizes(), mask.options().dtype(dtype))
              .masked_fill(mask, -std::numeric_limits<double>::infinity())
        : mask.to(dtype);
    return at::constant_pad_nd(result, {0, added_keys}, 0);
  }

  void adopt_out_proj() {
    const std::shared_ptr<torch::nn::LinearImpl> layer =
        std::make_shared<LinearImpl>(
            static_cast<const torch::nn::LinearImpl&>(*out_proj));
    out_proj = torch::nn::Linear(layer);
    replace_module("out_proj", layer);
  }

  /// Returns `out_proj`. NOTE: there is no member of its type, as a clone of a
  /// module that holds this one would leave such a member behind.
  LinearImpl& projection() {
    auto* layer = dynamic_cast<LinearImpl*>(out_proj.get());
    TORCH_CHECK(
        layer,
        "[MultiheadAttention] out_proj must be a torchlora::nn::Linear, found ",
        out_proj->name());
    return *layer;
  }

  /// Projects `input` by `parts` of the three parts (queries, keys, values) of
  /// `in_proj_weight`, from part `first` on.
  Tensor project(const Tensor& input, int64_t first, int64_t parts) {
    const auto E = options.embed_dim();
    if (_qkv_same_embed_dim) {
      const detail::ScopedValue guard(
          running_rows(), std::optional<Rows>({first * E, parts * E}));
      return redirected_forward(input);
    }
    const auto& weight = first == 0 ? q_proj_weight
        : first == 1                ? k_proj_weight
                                    : v_proj_weight;
    return nn::linear(
        input,
        weight,
        in_proj_bias.defined() ? in_proj_bias.narrow(0, first * E, E)
                               : in_proj_bias);
  }

  std::tuple<Tensor, Tensor, Tensor>
  project_inputs(const Tensor& query, const Tensor& key, const Tensor& value) {
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
};
TORCH_MODULE(MultiheadAttention);

} // namespace torchlora::nn
