#include "lora/low_rank.h"

#include <limits>
#include <mutex>

#include <ATen/Context.h>
#include <torch/autograd.h>
#include <torch/types.h>

#include <torchlora/nn/compute.h>

#include "lora/variants/velora.h"

namespace torchlora {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Positions in the function's list of tensors; the factors follow, A and B
/// of each term.
enum { kInput, kWeight, kFactors };

/// What is saved of each term, behind the input and the weight.
enum { kA, kB, kAx, kCompressed, kEmbed, kSavedOfTerm };

// NOTE: drawn on the CPU on every device, so that nothing waits for a GPU and
// re-computation under activation checkpointing draws the same one.
int64_t draw_seed() {
  return at::randint(std::numeric_limits<int64_t>::max(), {1}, at::kLong)
      .item<int64_t>();
}

/// x of a term: [tokens, in] in the factors' dtype, after dropout.
at::Tensor drop(const at::Tensor& mask, const at::Tensor& input) {
  return mask.defined() ? input * mask : input;
}

/// The dropout mask of a term, 0 or 1/(1-p), the same for the same seed.
at::Tensor
dropout_mask(int64_t tokens, const at::Tensor& A, double p, int64_t seed) {
  if (p == 0) {
    return {};
  }
  auto generator = at::globalContext().defaultGenerator(A.device()).clone();
  generator.set_current_seed(static_cast<uint64_t>(seed));
  return at::empty({tokens, A.size(1)}, A.options().requires_grad(false))
      .bernoulli_(1 - p, generator)
      .div_(1 - p);
}

at::Tensor rows(const at::Tensor& tensor) {
  return tensor.reshape({-1, tensor.size(-1)});
}

at::ScalarType accumulation_dtype(
    const at::Tensor& product,
    at::TensorList factors) {
  auto dtype = product.scalar_type();
  for (const auto& factor : factors) {
    dtype = c10::promoteTypes(dtype, factor.scalar_type());
  }
  return dtype;
}

std::vector<LowRankTerm> without_velora(std::vector<LowRankTerm> terms) {
  for (auto& term : terms) {
    term.velora = nullptr;
  }
  return terms;
}

struct LowRankLinear : torch::autograd::Function<LowRankLinear> {
  static at::Tensor forward(
      AutogradContext* ctx,
      at::TensorList tensors,
      const std::optional<at::Tensor>& bias,
      const std::vector<LowRankTerm>& terms) {
    const auto& input = tensors[kInput];
    const auto& weight = tensors[kWeight];
    const auto factors = tensors.slice(kFactors);

    auto output = nn::linear(input, weight, bias.value_or(at::Tensor()));
    const auto dtype = accumulation_dtype(output, factors);
    auto sum = rows(output).to(dtype);
    const auto x = rows(input);
    bool keeps_input = weight.requires_grad();
    variable_list saved{input, weight};
    std::vector<int64_t> seeds;
    std::vector<double> scalings, dropouts, velora_scales;
    for (const auto& [A, B, scaling, dropout, velora] : terms) {
      scalings.push_back(scaling);
      dropouts.push_back(dropout);
      seeds.push_back(dropout > 0 ? draw_seed() : 0);
      const auto xi = x.to(A.scalar_type());
      const auto dropped =
          drop(dropout_mask(xi.size(0), A, dropout, seeds.back()), xi);
      auto h = at::mm(dropped, A.t());
      sum.addmm_(h.to(dtype), B.t().to(dtype), /*beta=*/1, scaling);
      at::Tensor compressed, embed;
      if (A.requires_grad() && velora) {
        embed = velora_embed(*velora, dropped);
        compressed = velora_compress(dropped, embed, velora->config);
      }
      keeps_input |= A.requires_grad() && !velora;
      velora_scales.push_back(velora ? velora->config.scale() : 0);
      saved.insert(
          saved.end(),
          {A, B, std::move(h), std::move(compressed), std::move(embed)});
    }
    ctx->saved_data["sizes"] = input.sizes().vec();
    ctx->saved_data["dtype"] = static_cast<int64_t>(input.scalar_type());
    if (!keeps_input) {
      saved[kInput] = at::Tensor();
    }
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["has_bias"] = bias.has_value();
    ctx->saved_data["scalings"] = scalings;
    ctx->saved_data["dropouts"] = dropouts;
    ctx->saved_data["seeds"] = seeds;
    ctx->saved_data["velora_scales"] = velora_scales;
    // NOTE: no view of the rows, as in nn::linear.
    return at::_unsafe_view(sum.to(output.scalar_type()), output.sizes());
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    // The graph does not know that A x depends on A and x.
    TORCH_CHECK(
        !at::GradMode::is_enabled(),
        "[LoraLinear] second derivatives are not supported: call backward "
        "without create_graph");
    const auto saved = ctx->get_saved_variables();
    const auto& input = saved[kInput];
    const auto& weight = saved[kWeight];
    const auto scalings = ctx->saved_data["scalings"].toDoubleVector();
    const auto dropouts = ctx->saved_data["dropouts"].toDoubleVector();
    const auto seeds = ctx->saved_data["seeds"].toIntVector();
    const auto velora_scales =
        ctx->saved_data["velora_scales"].toDoubleVector();
    const auto terms = scalings.size();

    // NOTE: behind the tensors come the bias and, without a gradient, the
    // terms.
    const auto bias_edge = kFactors + 2 * terms;
    variable_list result(bias_edge + 2);
    const auto x = input.defined() ? rows(input) : at::Tensor();
    const auto grad = rows(grads[0]);
    at::Tensor grad_x;
    if (ctx->needs_input_grad(kInput)) {
      grad_x = nn::linear_backward_input(grad, weight);
    }
    if (ctx->needs_input_grad(kWeight)) {
      result[kWeight] = at::mm(grad.t(), x.to(grad.scalar_type()));
    }
    if (ctx->saved_data["has_bias"].toBool() &&
        ctx->needs_input_grad(bias_edge)) {
      result[bias_edge] = grad.sum(0);
    }
    for (size_t i = 0; i < terms; ++i) {
      const auto* of_term = &saved[kFactors + kSavedOfTerm * i];
      const auto& A = of_term[kA];
      const auto& B = of_term[kB];
      const auto& h = of_term[kAx];
      const auto g = grad.to(A.scalar_type());
      const auto edge = kFactors + 2 * i;
      if (ctx->needs_input_grad(edge + 1)) {
        result[edge + 1] =
            at::mm(g.t(), h.to(g.scalar_type())).mul_(scalings[i]);
      }
      if (!ctx->needs_input_grad(edge) && !grad_x.defined()) {
        continue;
      }
      const auto grad_h = at::mm(g, B).mul_(scalings[i]);
      const auto& compressed = of_term[kCompressed];
      const bool needs_mask = grad_x.defined() || !compressed.defined();
      const auto mask = needs_mask
          ? dropout_mask(grad.size(0), A, dropouts[i], seeds[i])
          : at::Tensor();
      if (ctx->needs_input_grad(edge)) {
        result[edge] = compressed.defined()
            ? velora_grad_A(
                  grad_h,
                  compressed,
                  of_term[kEmbed],
                  A.size(1),
                  velora_scales[i])
            : at::mm(grad_h.t(), drop(mask, x.to(A.scalar_type())));
      }
      if (grad_x.defined()) {
        grad_x =
            grad_x.to(c10::promoteTypes(grad_x.scalar_type(), A.scalar_type()));
        if (mask.defined()) {
          grad_x.add_(at::mm(grad_h, A).mul_(mask));
        } else {
          grad_x.addmm_(
              grad_h.to(grad_x.scalar_type()), A.to(grad_x.scalar_type()));
        }
      }
    }
    if (grad_x.defined()) {
      result[kInput] =
          grad_x
              .to(static_cast<at::ScalarType>(ctx->saved_data["dtype"].toInt()))
              .view(ctx->saved_data["sizes"].toIntVector());
    }
    return result;
  }
};

} // namespace

at::Tensor low_rank_linear(
    const at::Tensor& input,
    const at::Tensor& weight,
    const at::Tensor& bias,
    const std::vector<LowRankTerm>& terms) {
  std::vector<at::Tensor> tensors{input, weight};
  for (const auto& term : terms) {
    tensors.insert(tensors.end(), {term.A, term.B});
  }
  return LowRankLinear::apply(
      at::TensorList(tensors),
      bias.defined() ? std::make_optional(bias) : std::nullopt,
      at::GradMode::is_enabled() ? terms : without_velora(terms));
}

} // namespace torchlora
