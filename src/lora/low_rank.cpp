#include <torchlora/detail/low_rank.h>

#include <algorithm>

#include <torch/autograd.h>
#include <torch/types.h>

#include <torchlora/detail/rows.h>
#include <torchlora/lora/variant.h>
#include <torchlora/nn/compute.h>

#include "lora/dropout.h"
#include "lora/small_products.h"

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

/// Returns the multiplications of the larger product of a term for one row of
/// the input.
int64_t multiplications(const Tensor& A, const Tensor& B) {
  return std::max(A.numel(), B.numel());
}

/// x of a term: rows [*, in] in the factors' dtype, after dropout.
Tensor drop(const Tensor& mask, const Tensor& input) {
  return mask.defined() ? input * mask : input;
}

/// Visits all rows, `block_rows` at a time, at least once: `visit(first,
/// count)`.
template <class Visit>
void for_each_block(int64_t rows, int64_t block_rows, const Visit& visit) {
  int64_t first = 0;
  do {
    const auto count = std::min(block_rows, rows - first);
    visit(first, count);
    first += count;
  } while (first < rows);
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
      const SmallProducts on_this_thread(x.size(0) * multiplications(A, B));
      const DropoutMask mask(dropout);
      seeds.push_back(mask.seed());
      const auto xi = x.to(A.scalar_type());
      const auto tokens = xi.size(0);
      const bool compresses = A.requires_grad() && variant;
      std::vector<Tensor> compressed, products;
      for_each_block(
          tokens,
          compresses ? tokens : mask.block_rows(A, tokens),
          [&](int64_t first, int64_t count) {
            const auto dropped =
                drop(mask.rows(A, first, count), xi.narrow(0, first, count));
            products.push_back(at::mm(dropped, A.t()));
            if (compresses) {
              compressed = variant->compress(dropped);
            }
          });
      auto h = products.size() == 1 ? products.front() : at::cat(products);
      sum.addmm_(h.to(dtype), B.t().to(dtype), /*beta=*/1, scaling);
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
      const SmallProducts on_this_thread(grad.size(0) * multiplications(A, B));
      if (ctx->needs_input_grad(edge + 1)) {
        // NOTE: transposed, as gᵀ h takes MKL twice the time of hᵀ g.
        result[edge + 1] = at::mm(h.to(g.scalar_type()).conj().t(), g)
                               .mul_(scalings[i])
                               .t()
                               .contiguous();
      }
      if (!ctx->needs_input_grad(edge) && !grad_x.defined()) {
        continue;
      }
      const auto grad_h = at::mm(g, B.conj()).mul_(scalings[i]);
      const bool is_compressed = compressed_counts[i] > 0;
      auto& grad_A = result[edge];
      const bool needs_A = ctx->needs_input_grad(edge);
      if (needs_A && is_compressed) {
        grad_A = of_terms[i]->grad_A(
            grad_h,
            {of_term + kCompressed,
             of_term + kCompressed + compressed_counts[i]},
            A.size(1));
      }
      if (grad_x.defined()) {
        grad_x =
            grad_x.to(c10::promoteTypes(grad_x.scalar_type(), A.scalar_type()));
      } else if (is_compressed) {
        continue;
      }
      const DropoutMask mask(dropouts[i], seeds[i]);
      for_each_block(
          grad.size(0),
          mask.block_rows(A, grad.size(0)),
          [&](int64_t first, int64_t count) {
            const auto block = mask.rows(A, first, count);
            const auto rows = grad_h.narrow(0, first, count);
            if (needs_A && !is_compressed) {
              const auto dropped =
                  drop(block, x.narrow(0, first, count).to(A.scalar_type()))
                      .conj();
              auto part = at::mm(rows.t(), dropped);
              // Half precision would lose the later blocks of a long sum.
              grad_A = grad_A.defined()
                  ? grad_A.to(at::promoteTypes(part.scalar_type(), at::kFloat))
                        .add_(part)
                  : part;
            }
            if (!grad_x.defined()) {
              return;
            }
            auto sum = grad_x.narrow(0, first, count);
            if (block.defined()) {
              sum.addcmul_(at::mm(rows, A.conj()), block);
            } else {
              sum.addmm_(
                  rows.to(sum.scalar_type()), A.conj().to(sum.scalar_type()));
            }
          });
      if (grad_A.defined()) {
        grad_A = grad_A.to(A.scalar_type());
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
