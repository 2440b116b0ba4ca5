#include <torchlora/nn/replaced_rows.h>

#include <algorithm>

#include <torch/types.h>

#include <torchlora/nn/compute.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/linear.h>

#include <torchlora/detail/max_norm.h>

namespace torchlora::nn {

Tensor ReplacedRows::project(
    const Tensor& output,
    const Tensor& input,
    const Tensor& bias) const {
  const auto replaced = linear(
      input, values, bias.defined() ? bias.index_select(0, index) : bias);
  return output.index_copy(-1, index, replaced.to(output.scalar_type()));
}

std::optional<ReplacedRows> replaced_rows(const Redirectable& layer) {
  const auto* replacer =
      dynamic_cast<const RowReplacer*>(layer.redirect_target());
  return replacer ? replacer->replaced_rows() : std::nullopt;
}

Tensor forward_with_rows(
    EmbeddingImpl& layer,
    const Tensor& input,
    const ReplacedRows& rows) {
  const auto& options = layer.options;
  const auto look_up =
      [&](const Tensor& table, const Tensor& ids, int64_t padding) {
        return at::embedding(table, ids, padding, options.scale_grad_by_freq());
      };
  const auto ids = input.to(at::kLong).contiguous();
  const auto padding = options.padding_idx().value_or(-1);
  auto result = look_up(layer.weight, ids, padding);
  if (!rows.indices.empty()) {
    const auto count = rows.values.size(0);
    auto place = at::searchsorted(rows.index, ids);
    const auto is_replaced =
        rows.index.take(place.clamp_max(count - 1)).eq(ids);
    // All other ids look up one additional row, which gets no gradient.
    place = at::where(is_replaced, place, count);
    const auto values = at::constant_pad_nd(rows.values, {0, 0, 0, 1});
    const auto found = std::ranges::find(rows.indices, padding);
    result = at::where(
        is_replaced.unsqueeze(-1),
        look_up(
            values,
            place,
            found == rows.indices.end() ? -1 : found - rows.indices.begin()),
        result);
  }
  if (options.max_norm()) {
    // NOTE: the scale has no gradient, as at::embedding_renorm_ has none.
    const auto own = result.detach();
    const auto change = own * (detail::max_norm_scale(own, options) - 1);
    result = result + change.to(result.scalar_type());
  }
  return layer.scaled(result);
}

Tensor forward_with_rows(
    LinearImpl& layer,
    const Tensor& input,
    const ReplacedRows& rows) {
  return rows.project(layer.base_forward(input), input, layer.bias);
}

} // namespace torchlora::nn
