#include <torchlora/detail/low_rank.h>

#include <limits>
#include <mutex>

#include <ATen/Context.h>
#include <torch/autograd.h>
#include <torch/types.h>

#include <torchlora/detail/rows.h>
#include <torchlora/lora/variant.h>
#include <torchlora/nn/compute.h>

namespace torchlora::detail {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Positions in the function's list of tensors; the factors follow, A and B
/// of each term.
enum { kInput, kWeight, kFactors };

/// What is saved of each term, behind the input and the weight; what its
/// variant made of the input follows.
enum { kA, kB, kAx, kCompressed };

/// The variants of the terms that compress the input, for backward.
struct Variants : torch::CustomClassHolder {
  std::vector<std::shared_ptr<LoraVariant>> of_terms;
};

// NOTE: drawn on the CPU on every device, so that nothing waits for a GPU and
// re-computation under activation checkpointing draws the same one.
int64_t draw_seed() {
  return at::randint(std::numeric_limits<int64_t>::max(), {1}, at::kLong)
      .item<int64_t>();
}

/// x of a term: [tokens, in] in the factors' dtype, after dropout.
Tensor drop(const Tensor& mask, const Tensor& input) {
  return mask.defined() ? input * mask : input;
}

/// The dropout mask of a term, 0 or 1/(1-p), real and the same for the same
/// seed.
Tensor dropout_mask(int64_t tokens, const Tensor& A, double p, int64_t seed) {
  if (p == 0) {
    return {};
  }
  auto generator = at::globalContext().defaultGenerator(A.device()).clone();
  generator.set_current_seed(static_cast<uint64_t>(seed));
  const auto dtype = c10::toRealValueType(A.scalar_type());
  return at::empty(
             {tokens, A.size(1)}, A.options().dtype(dtype).requires_grad(false))
      .bernoulli_(1 - p, generator)
      .div_(1 - p);
}

at::ScalarType accumulation_dtype(
    const Tensor& product,
    at::TensorList factors) {
  auto dtype = product.scalar_type();
  for (const auto& factor : factors) {
    dtype = c10::promoteTypes(dtype, factor.scalar_type());
  }
  return dtype;
}

struct LowRankLinear : torch::autograd::Function<LowRankLinear> {
  static Tensor forward(
      AutogradContext* ctx,
      at::TensorList tensors,
      const std::optional<Tensor>& bias,
      const std::vector<LowRankTerm>& terms) {
    const auto& input = tensors[kInput];
    const auto& weight = tensors[kWeight];
    const auto factors = tensors.slice(kFactors);

    // LibTorch's products take a bias of the weight's dtype only; that of an
    // fp32 adapter over a half-precision weight is added to the sum.
    const bool is_fused = bias && bias->scalar_type() == weight.scalar_type();
    auto output = nn::linear(input, weight, is_fused ? *bias : Tensor());
    const auto dtype = accumulation_dtype(output, factors);
    auto sum = as_rows(output).to(dtype);
    if (bias && !is_fused) {
      sum.add_(*bias);
    }
    const auto x = as_rows(input);
    bool keeps_input = weight.requires_grad();
    variable_list saved{input, weight};
    std::vector<int64_t> seeds;
    std::vector<int64_t> compressed_counts;
    std::vector<double> scalings, dropouts;
    auto variants = c10::make_intrusive<Variants>();
    for (const auto& [A, B, scaling, dropout, variant] : terms) {
      scalings.push_back(scaling);
      dropouts.push_back(dropout);
      seeds.push_back(dropout > 0 ? draw_seed() : 0);
      const auto xi = x.to(A.scalar_type());
      const auto dropped =
          drop(dropout_mask(xi.size(0), A, dropout, seeds.back()), xi);
      auto h = at::mm(dropped, A.t());
      sum.addmm_(h.to(dtype), B.t().to(dtype), /*beta=*/1, scaling);
      const auto compressed = A.requires_grad() && variant
          ? variant->compress(dropped)
          : std::vector<Tensor>();
      keeps_input |= A.requires_grad() && !variant;
      compressed_counts.push_back(static_cast<int64_t>(compressed.size()));
      variants->of_terms.push_back(variant);
      saved.insert(saved.end(), {A, B, std::move(h)});
      saved.insert(saved.end(), compressed.begin(), compressed.end());
    }
    ctx->saved_data["sizes"] = input.sizes().vec();
    ctx->saved_data["dtype"] = static_cast<int64_t>(input.scalar_type());
    if (!keeps_input) {
      saved[kInput] = Tensor();
    }
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["bias_dtype"] = static_cast<int64_t>(
        bias ? bias->scalar_type() : at::ScalarType::Undefined);
    ctx->saved_data["scalings"] = scalings;
    ctx->saved_data["dropouts"] = dropouts;
    ctx->saved_data["seeds"] = seeds;
    ctx->saved_data["compressed_counts"] = compressed_counts;
    ctx->saved_data["variants"] =
        c10::IValue::make_capsule(std::move(variants));
    // NOTE: no view of the rows, as in nn::linear.
    return at::_unsafe_view(sum.to(output.scalar_type()), output.sizes());
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    // The conjugates are for complex tensors; those of real ones are
    // themselves. The graph does not know that A x depends on A and x.
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
    const auto compressed_counts =
        ctx->saved_data["compressed_counts"].toIntVector();
    const auto variants = ctx->saved_data["variants"].toCapsule();
    const auto& of_terms = static_cast<Variants&>(*variants).of_terms;
    const auto terms = scalings.size();

    // NOTE: behind the tensors come the bias and, without a gradient, the
    // terms.
    const auto bias_edge = kFactors + 2 * terms;
    variable_list result(bias_edge + 2);
    const auto x = input.defined() ? as_rows(input) : Tensor();
    const auto grad = as_rows(grads[0]);
    Tensor grad_x;
    if (ctx->needs_input_grad(kInput)) {
      grad_x = nn::linear_backward_input(grad, weight);
    }
    if (ctx->needs_input_grad(kWeight)) {
      result[kWeight] = at::mm(grad.t(), x.to(grad.scalar_type()).conj());
    }
    const auto bias_dtype =
        static_cast<at::ScalarType>(ctx->saved_data["bias_dtype"].toInt());
    if (bias_dtype != at::ScalarType::Undefined &&
        ctx->needs_input_grad(bias_edge)) {
      result[bias_edge] = grad.sum(
          0,
          /*keepdim=*/false,
          c10::promoteTypes(bias_dtype, grad.scalar_type()));
    }
    auto of_term = saved.begin() + kFactors;
    for (size_t i = 0; i < terms;
         of_term += kCompressed + compressed_counts[i++]) {
      const auto& A = of_term[kA];
      const auto& B = of_term[kB];
      const auto& h = of_term[kAx];
      const auto g = grad.to(A.scalar_type());
      const auto edge = kFactors + 2 * i;
      if (ctx->needs_input_grad(edge + 1)) {
        result[edge + 1] =
            at::mm(g.t(), h.to(g.scalar_type()).conj()).mul_(scalings[i]);
      }
      if (!ctx->needs_input_grad(edge) && !grad_x.defined()) {
        continue;
      }
      const auto grad_h = at::mm(g, B.conj()).mul_(scalings[i]);
      const bool is_compressed = compressed_counts[i] > 0;
      const bool needs_mask = grad_x.defined() || !is_compressed;
      const auto mask = needs_mask
          ? dropout_mask(grad.size(0), A, dropouts[i], seeds[i])
          : Tensor();
      if (ctx->needs_input_grad(edge)) {
        result[edge] = is_compressed
            ? of_terms[i]->grad_A(
                  grad_h,
                  {of_term + kCompressed,
                   of_term + kCompressed + compressed_counts[i]},
                  A.size(1))
            : at::mm(grad_h.t(), drop(mask, x.to(A.scalar_type())).conj());
      }
      if (grad_x.defined()) {
        grad_x =
            grad_x.to(c10::promoteTypes(grad_x.scalar_type(), A.scalar_type()));
        if (mask.defined()) {
          grad_x.add_(at::mm(grad_h, A.conj()).mul_(mask));
        } else {
          grad_x.addmm_(
              grad_h.to(grad_x.scalar_type()),
              A.conj().to(grad_x.scalar_type()));
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

Tensor low_rank_linear(
    const Tensor& input,
    const Tensor& weight,
    const Tensor& bias,
    const std::vector<LowRankTerm>& terms) {
  std::vector<Tensor> tensors{input, weight};
  for (const auto& term : terms) {
    tensors.insert(tensors.end(), {term.A, term.B});
  }
  return LowRankLinear::apply(
      at::TensorList(tensors),
      bias.defined() ? std::make_optional(bias) : std::nullopt,
      terms);
}

} // namespace torchlora::detail
