#include <torchlora/nn/compute.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string_view>

#include <torch/autograd.h>
#include <torch/types.h>

#include <torchlora/detail/rows.h>

// The native route rounds an fp32 input to the weight's dtype, multiplies and
// returns fp32, as autocast does, but what is then added to the product keeps
// its digits.
//
// The upcast route. A block of kBlockRows rows of the weight is copied to an
// fp32 buffer and multiplied while it is in the cache; forward writes a block
// of output columns, backward adds a block's share of the input's gradient. The
// buffer belongs to the thread and is kept, and the autograd function saves the
// weight as it is, so nothing of the weight's size is allocated.

namespace torchlora::nn {
namespace {

using detail::as_rows;

/// Rows of the weight that are upcast at a time.
constexpr int64_t kBlockRows = 512;

/// Returns whether LibTorch's matrix products in `dtype` are fast on this CPU.
/// On other CPUs than x86 the answer is no: upcast is never much slower than
/// fp32.
bool cpu_multiplies([[maybe_unused]] at::ScalarType dtype) {
#if defined(__x86_64__)
  return dtype == at::kBFloat16 ? __builtin_cpu_supports("avx512bf16") != 0
                                : __builtin_cpu_supports("avx512fp16") != 0;
#else
  return false;
#endif
}

std::optional<ComputeRoute> route_of_environment() {
  const char* value = std::getenv("TORCHLORA_COMPUTE_ROUTE");
  const std::string_view name = value ? value : "";
  TORCH_CHECK_VALUE(
      name.empty() || name == "native" || name == "upcast",
      "[compute_route] the environment variable TORCHLORA_COMPUTE_ROUTE must "
      "be native or upcast, found ",
      name);
  if (name.empty()) {
    return std::nullopt;
  }
  return name == "native" ? ComputeRoute::kNative : ComputeRoute::kUpcast;
}

std::atomic<int> forced_route{-1};

/// Returns fp32 memory on the weight's device. On the CPU it belongs to the
/// thread and is kept, as mapping new pages for each product takes as long as
/// filling them.
Tensor scratch_of(const Tensor& weight, int64_t size) {
  if (!weight.is_cpu()) {
    return at::empty({size}, weight.options().dtype(at::kFloat));
  }
  thread_local Tensor scratch;
  if (!scratch.defined() || scratch.numel() < size) {
    // An inference tensor could not be written to in training.
    const c10::InferenceMode off(false);
    scratch = at::empty({size}, at::kFloat);
  }
  return scratch.narrow(0, 0, size);
}

/// Upcasts a half-precision weight block by block: `visit(begin, rows)`
/// receives W[begin : begin + n] in fp32.
template <class Visit>
void for_each_block(const Tensor& weight, const Visit& visit) {
  const auto rows = weight.size(0), block_rows = std::min(rows, kBlockRows);
  const auto scratch = scratch_of(weight, block_rows * weight.size(1))
                           .view({block_rows, weight.size(1)});
  for (int64_t begin = 0; begin < rows; begin += kBlockRows) {
    const auto n = std::min(kBlockRows, rows - begin);
    auto block = scratch.narrow(0, 0, n);
    block.copy_(weight.narrow(0, begin, n));
    visit(begin, block);
  }
}

/// Computes x Wᵀ in fp32; `x` [T, in] of any floating dtype.
Tensor upcast_product(const Tensor& x, const Tensor& weight) {
  const auto x32 = x.to(at::kFloat);
  auto out = at::empty({x.size(0), weight.size(0)}, x32.options());
  for_each_block(weight, [&](int64_t begin, const Tensor& block) {
    auto columns = out.narrow(1, begin, block.size(0));
    at::mm_out(columns, x32, block.t());
  });
  return out;
}

/// Computes g W in fp32; `g` [T, out] of any floating dtype.
Tensor upcast_product_transposed(const Tensor& g, const Tensor& weight) {
  const auto g32 = g.to(at::kFloat);
  auto out = at::empty({g.size(0), weight.size(1)}, g32.options());
  if (weight.size(0) == 0) {
    return out.zero_();
  }
  for_each_block(weight, [&](int64_t begin, const Tensor& block) {
    out.addmm_(
        g32.narrow(1, begin, block.size(0)), block, begin == 0 ? 0.0 : 1.0);
  });
  return out;
}

// NOTE: the result must not be a view, as the user may change what a function
// returns in place.
Tensor with_last_size(const Tensor& rows, const Tensor& like, int64_t size) {
  auto sizes = like.sizes().vec();
  sizes.back() = size;
  return at::_unsafe_view(rows, sizes);
}

bool is_half(at::ScalarType dtype) {
  return dtype == at::kBFloat16 || dtype == at::kHalf;
}

enum class Product {
  /// LibTorch's, of two tensors of one dtype or under autocast.
  kPlain,
  /// LibTorch's in the weight's dtype, between fp32 tensors.
  kRounded,
  /// In fp32, a block of the weight at a time.
  kUpcast,
};

Product product_of(const Tensor& rows, const Tensor& weight) {
  const auto dtype = weight.scalar_type();
  if (!is_half(dtype)) {
    return Product::kPlain;
  }
  const bool is_rounded = rows.scalar_type() == at::kFloat;
  const bool is_upcast =
      weight.is_cpu() && compute_route(dtype) == ComputeRoute::kUpcast;
  if (is_upcast || (rows.scalar_type() != dtype && !is_rounded)) {
    return Product::kUpcast;
  }
  return is_rounded ? Product::kRounded : Product::kPlain;
}

struct UpcastLinear : torch::autograd::Function<UpcastLinear> {
  static Tensor forward(
      torch::autograd::AutogradContext* ctx,
      const Tensor& input,
      const Tensor& weight,
      const std::optional<Tensor>& bias) {
    // Only the gradient of the weight needs the input, and the weight is
    // usually frozen.
    ctx->save_for_backward({weight.requires_grad() ? input : Tensor(), weight});
    auto out = upcast_product(as_rows(input), weight);
    if (bias) {
      out.add_(*bias);
    }
    ctx->saved_data["has_bias"] = bias.has_value();
    return with_last_size(out.to(input.scalar_type()), input, weight.size(0));
  }

  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* ctx,
      torch::autograd::variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto& weight = saved[1];
    const auto g = as_rows(grads[0]);
    Tensor grad_input, grad_weight, grad_bias;
    if (ctx->needs_input_grad(0)) {
      grad_input = with_last_size(
          upcast_product_transposed(g, weight).to(g.scalar_type()),
          grads[0],
          weight.size(1));
    }
    if (ctx->needs_input_grad(1)) {
      grad_weight =
          at::mm(g.to(at::kFloat).t(), as_rows(saved[0]).to(at::kFloat))
              .to(weight.scalar_type());
    }
    if (ctx->saved_data["has_bias"].toBool() && ctx->needs_input_grad(2)) {
      grad_bias = g.sum(0, /*keepdim=*/false, at::kFloat);
    }
    return {grad_input, grad_weight, grad_bias};
  }
};

} // namespace

ComputeRoute compute_route(at::ScalarType dtype) {
  if (!is_half(dtype)) {
    return ComputeRoute::kNative;
  }
  const int forced = forced_route.load(std::memory_order_relaxed);
  if (forced >= 0) {
    return static_cast<ComputeRoute>(forced);
  }
  static const auto from_environment = route_of_environment();
  if (from_environment) {
    return *from_environment;
  }
  return cpu_multiplies(dtype) ? ComputeRoute::kNative : ComputeRoute::kUpcast;
}

void set_compute_route(std::optional<ComputeRoute> route) {
  forced_route = route ? static_cast<int>(*route) : -1;
}

Tensor linear(const Tensor& input, const Tensor& weight, const Tensor& bias) {
  const auto optional_bias =
      bias.defined() ? std::make_optional(bias) : std::nullopt;
  switch (product_of(input, weight)) {
    case Product::kUpcast:
      return UpcastLinear::apply(input, weight, optional_bias);
    case Product::kRounded: {
      const auto product =
          at::linear(input.to(weight.scalar_type()), weight).to(at::kFloat);
      return optional_bias ? product + *optional_bias : product;
    }
    default:
      return at::linear(input, weight, optional_bias);
  }
}

Tensor linear_in_fp32(const Tensor& input, const Tensor& weight) {
  const torch::NoGradGuard no_grad;
  if (!is_half(weight.scalar_type())) {
    return at::linear(input, weight.to(input.scalar_type()));
  }
  return with_last_size(
      upcast_product(as_rows(input), weight).to(input.scalar_type()),
      input,
      weight.size(0));
}

Tensor linear_backward_input(const Tensor& grad_output, const Tensor& weight) {
  switch (product_of(grad_output, weight)) {
    case Product::kUpcast:
      return with_last_size(
          upcast_product_transposed(as_rows(grad_output), weight)
              .to(grad_output.scalar_type()),
          grad_output,
          weight.size(1));
    case Product::kRounded:
      return at::matmul(grad_output.to(weight.scalar_type()), weight)
          .to(at::kFloat);
    default:
      // The dtypes differ under autocast, which does not keep its cast of the
      // weight.
      return at::matmul(
          grad_output, weight.conj().to(grad_output.scalar_type()));
  }
}

} // namespace torchlora::nn
