#include "lora/overlay/kernels.h"

#ifdef TORCHLORA_WITH_OVERLAY

#include <algorithm>

#include <ATen/core/dispatch/Dispatcher.h>
#include <dlfcn.h>
#include <torch/library.h>
#include <torch/types.h>

namespace torchlora {
namespace {

/// NOTE: PyTorch has no dispatch key to give to libraries. This one was
/// torchdistx's, which is archived, and lies above autograd and autocast.
constexpr auto kOverlayKey = c10::DispatchKey::DeferredInit;

/// No storage: whatever reads memory past the dispatcher throws.
struct OverlayImpl final : c10::TensorImpl {
  OverlayImpl(
      std::shared_ptr<const WeightOverlay> overlay_,
      bool is_transposed_,
      int64_t first_row_,
      int64_t rows_)
      : TensorImpl(
            (overlay_->last_weight().key_set() -
             c10::autograd_dispatch_keyset) |
                c10::DispatchKeySet(kOverlayKey),
            overlay_->last_weight().dtype(),
            overlay_->last_weight().device()),
        overlay(std::move(overlay_)),
        is_transposed(is_transposed_),
        first_row(first_row_),
        rows(rows_) {
    auto sizes = overlay->last_weight().sizes().vec();
    auto strides = overlay->last_weight().strides().vec();
    if (rows >= 0) {
      sizes[0] = rows;
    }
    if (is_transposed) {
      std::swap(sizes[0], sizes[1]);
      std::swap(strides[0], strides[1]);
    }
    set_sizes_and_strides(sizes, strides);
    set_storage_access_should_throw();
  }

  c10::intrusive_ptr<TensorImpl> shallow_copy_and_detach(
      const c10::VariableVersion& /*version*/,
      bool /*allow_change*/) const override {
    return copy();
  }
  c10::intrusive_ptr<TensorImpl> shallow_copy_and_detach(
      c10::VariableVersion&& /*version*/,
      bool /*allow_change*/) const override {
    return copy();
  }
  void shallow_copy_from(
      const c10::intrusive_ptr<TensorImpl>& /*impl*/) override {
    TORCH_CHECK(
        false,
        "[set_data] the weight is adapted; merge or unload the adapter first");
  }
  // Part of the message of who asks for the storage, torch::save for one.
  const char* tensorimpl_type_name() const override {
    return "an adapted weight (torchlora::WeightOverlay), which has none; "
           "merge or unload the adapter first, or take "
           "LoraLayer::adapted_weight()";
  }

  c10::intrusive_ptr<TensorImpl> copy() const {
    return c10::make_intrusive<OverlayImpl>(
        overlay, is_transposed, first_row, rows);
  }
  at::Tensor transpose() const {
    return at::Tensor(c10::make_intrusive<OverlayImpl>(
        overlay, !is_transposed, first_row, rows));
  }
  /// The part of a tensor like the weight that this one stands for.
  at::Tensor part(const at::Tensor& weight) const {
    const auto narrowed = rows < 0 ? weight : weight.narrow(0, first_row, rows);
    return is_transposed ? narrowed.t() : narrowed;
  }
  at::Tensor dense() const {
    return part(overlay->adapted_weight());
  }
  at::Tensor run(
      const at::Tensor& input,
      const at::Tensor& bias,
      c10::function_ref<
          at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&)>
          operation) const {
    return overlay->run(input, {operation, bias, first_row, rows});
  }

  std::shared_ptr<const WeightOverlay> overlay;
  bool is_transposed;
  int64_t first_row, rows;
};

OverlayImpl* overlay_of(const at::Tensor& tensor) {
  return tensor.defined() && tensor.key_set().has(kOverlayKey)
      ? static_cast<OverlayImpl*>(tensor.unsafeGetTensorImpl())
      : nullptr;
}

at::Tensor plain(
    const at::Tensor& tensor,
    const std::string& operation,
    bool is_written = false) {
  const auto* impl = overlay_of(tensor);
  if (!impl) {
    return tensor;
  }
  if (!impl->overlay->layer()) { // of a handle that was kept
    return impl->part(impl->overlay->last_weight());
  }
  TORCH_CHECK(
      !is_written,
      "[",
      operation,
      "] would write to an adapted weight; merge or unload the adapter first");
  const auto* reason = impl->overlay->why_not_dense();
  TORCH_CHECK_VALUE(
      !*reason,
      "[",
      operation,
      "] reads an adapted weight as one matrix, which cannot have ",
      reason);
  if (impl->overlay->has_dropout()) {
    TORCH_WARN_ONCE(
        "[",
        operation,
        "] reads an adapted weight as one matrix: lora_dropout does not act "
        "there");
  }
  return impl->dense();
}

/// Every operation without a kernel: on the dense adapted weight.
void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& arguments = op.schema().arguments();
  const auto first = stack->size() - arguments.size();
  for (size_t i = 0; i < arguments.size(); ++i) {
    const auto* alias = arguments[i].alias_info();
    const auto plain_one = [&](const at::Tensor& tensor) {
      return plain(tensor, op.schema().name(), alias && alias->isWrite());
    };
    auto& value = (*stack)[first + i];
    if (value.isTensor()) {
      value = plain_one(value.toTensor());
    } else if (value.isTensorList()) {
      auto list = value.toTensorVector();
      std::ranges::transform(list, list.begin(), plain_one);
      value = std::move(list);
    } else if (value.isOptionalTensorList()) {
      auto list = value.toOptionalTensorList().copy();
      for (size_t k = 0; k < list.size(); ++k) {
        if (const std::optional<at::Tensor> tensor = list.get(k)) {
          list.set(k, plain_one(*tensor));
        }
      }
      value = std::move(list);
    }
  }
  op.callBoxed(stack);
}

/// The overlay of a weight that an operation uses as its layer does: [in,
/// out] for `is_in_out`.
const OverlayImpl* linear_overlay(const at::Tensor& weight, bool is_in_out) {
  const auto* impl = overlay_of(weight);
  return impl && impl->overlay->is_used_as(WeightUse::kLinear) &&
          impl->is_transposed ==
              (is_in_out != (impl->overlay->layout() == WeightLayout::kInOut))
      ? impl
      : nullptr;
}

template <class... Tensors>
bool any_overlay(const Tensors&... tensors) {
  return (overlay_of(tensors) || ...);
}

at::Tensor linear(
    const at::Tensor& input,
    const at::Tensor& weight,
    const std::optional<at::Tensor>& bias) {
  constexpr const char* kName = "aten::linear";
  const auto b = bias.value_or(at::Tensor());
  const auto* impl = linear_overlay(weight, /*is_in_out=*/false);
  if (!impl || any_overlay(input, b)) {
    return at::linear(
        plain(input, kName), plain(weight, kName), plain(b, kName));
  }
  return impl->run(input, b, [&](const auto& x, const auto& w, const auto& y) {
    return at::linear(x, impl->is_transposed ? w.t() : w, y);
  });
}

at::Tensor matmul(const at::Tensor& input, const at::Tensor& weight) {
  constexpr const char* kName = "aten::matmul";
  const auto* impl = linear_overlay(weight, /*is_in_out=*/true);
  if (!impl || any_overlay(input)) {
    return at::matmul(plain(input, kName), plain(weight, kName));
  }
  return impl->run(input, {}, [&](const auto& x, const auto& w, const auto&) {
    return at::matmul(x, impl->is_transposed ? w.t() : w);
  });
}

at::Tensor addmm(
    const at::Tensor& bias,
    const at::Tensor& input,
    const at::Tensor& weight,
    const at::Scalar& beta,
    const at::Scalar& alpha) {
  constexpr const char* kName = "aten::addmm";
  const auto* impl = linear_overlay(weight, /*is_in_out=*/true);
  if (!impl || any_overlay(bias, input) || bias.dim() != 1 || !beta.equal(1) ||
      !alpha.equal(1)) {
    return at::addmm(
        plain(bias, kName),
        plain(input, kName),
        plain(weight, kName),
        beta,
        alpha);
  }
  return impl->run(
      input, bias, [&](const auto& x, const auto& w, const auto& b) {
        return at::addmm(b, x, impl->is_transposed ? w.t() : w);
      });
}

at::Tensor t(const at::Tensor& weight) {
  return overlay_of(weight)->transpose();
}

at::Tensor slice(
    const at::Tensor& weight,
    int64_t dim,
    std::optional<int64_t> start,
    std::optional<int64_t> end,
    int64_t step) {
  const auto* impl = overlay_of(weight);
  const auto size = weight.size(0);
  const auto bound = [&](int64_t i) {
    return std::clamp<int64_t>(i < 0 ? i + size : i, 0, size);
  };
  const auto first = bound(start.value_or(0));
  const auto last = std::max(first, bound(end.value_or(size)));
  if (dim != 0 || step != 1 || impl->is_transposed ||
      !linear_overlay(weight, /*is_in_out=*/false)) {
    return at::slice(plain(weight, "aten::slice"), dim, start, end, step);
  }
  return at::Tensor(c10::make_intrusive<OverlayImpl>(
      impl->overlay,
      /*is_transposed=*/false,
      std::max<int64_t>(impl->first_row, 0) + first,
      last - first));
}

/// LibTorch's embedding holds the rows of its table to a norm in place; an
/// adapted one holds what it looks up.
at::Tensor& embedding_renorm_(
    at::Tensor& table,
    const at::Tensor& indices,
    double max_norm,
    double norm_type) {
  const auto& overlay = *overlay_of(table)->overlay;
  if (!overlay.has_adapters()) {
    auto weight = overlay.last_weight();
    at::embedding_renorm_(weight, indices, max_norm, norm_type);
  }
  return table;
}

/// An operation of the arguments `kInput`, `kWeight` and, unless it is -1,
/// `kBias`, and others.
template <WeightUse kUse, int kInput, int kWeight, int kBias>
void operation(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  constexpr bool kTwoInputs = kUse == WeightUse::kBilinear;
  const auto count = op.schema().arguments().size();
  torch::jit::Stack arguments(stack->end() - count, stack->end());
  const auto tensor = [&](int i) {
    return i >= 0 && arguments[i].isTensor() ? arguments[i].toTensor()
                                             : at::Tensor();
  };
  const auto weight = tensor(kWeight);
  auto input = tensor(kInput);
  const auto* impl = overlay_of(weight);
  if (!impl || !impl->overlay->is_used_as(kUse) || impl->is_transposed ||
      impl->rows >= 0 ||
      any_overlay(input, tensor(kInput + kTwoInputs), tensor(kBias))) {
    fallback(op, stack);
    return;
  }
  if (kTwoInputs) {
    input = at::cat({input, tensor(kInput + 1)}, -1);
  }
  const auto run =
      [&](const at::Tensor& x, const at::Tensor& w, const at::Tensor& b) {
        auto values = arguments;
        values[kWeight] = w;
        if (kTwoInputs) {
          values[kInput] = x.narrow(-1, 0, w.size(1));
          values[kInput + 1] = x.narrow(-1, w.size(1), w.size(2));
        } else {
          values[kInput] = x;
        }
        if (kBias >= 0) {
          values[kBias] = b.defined() ? c10::IValue(b) : c10::IValue();
        }
        op.callBoxed(values);
        return values.front().toTensor();
      };
  auto output = impl->run(input, tensor(kBias), run);
  torch::jit::drop(stack, count);
  stack->emplace_back(std::move(output));
}

template <WeightUse kUse, int kInput, int kWeight, int kBias>
torch::CppFunction boxed() {
  return torch::CppFunction::makeFromBoxedFunction<
      &operation<kUse, kInput, kWeight, kBias>>();
}

/// NOTE: the kernels may serve other copies of the library, so the shared
/// library that holds them stays when a program closes it.
void stay_loaded() {
  Dl_info here;
  if (dladdr(reinterpret_cast<void*>(&stay_loaded), &here)) {
    dlopen(here.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
  }
}

/// Registers the kernels once in the process.
bool register_kernels() {
  // NOTE: a second copy of the library (in a plugin, say) finds the first
  // one's, which act on its overlays too.
  constexpr const char* kMark = "torchlora::weight_overlay_0_1";
  if (c10::Dispatcher::singleton().findSchema({kMark, ""})) {
    return true;
  }
  using torch::Library;
  try {
    static Library mark(
        Library::FRAGMENT, "torchlora", std::nullopt, __FILE__, __LINE__);
    static Library all(Library::IMPL, "_", kOverlayKey, __FILE__, __LINE__);
    static Library aten(Library::IMPL, "aten", kOverlayKey, __FILE__, __LINE__);
    all.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
    aten.impl("linear", &linear);
    aten.impl("matmul", &matmul);
    aten.impl("mm", &matmul);
    aten.impl("addmm", &addmm);
    aten.impl("t", &t);
    aten.impl("slice.Tensor", &slice);
    aten.impl("embedding_renorm_", &embedding_renorm_);
    aten.impl("embedding", boxed<WeightUse::kEmbedding, 1, 0, -1>());
    aten.impl("bilinear", boxed<WeightUse::kBilinear, 0, 2, 3>());
    for (const std::string name : {"conv1d", "conv2d", "conv3d"}) {
      for (const auto* overload : {"", ".padding"}) {
        aten.impl(
            (name + overload).c_str(),
            boxed<WeightUse::kConvolution, 0, 1, 2>());
      }
    }
    for (const auto* name :
         {"conv_transpose1d",
          "conv_transpose2d.input",
          "conv_transpose3d.input"}) {
      aten.impl(name, boxed<WeightUse::kTransposedConvolution, 0, 1, 2>());
    }
    mark.def("weight_overlay_0_1() -> ()");
    stay_loaded();
    return true;
  } catch (const c10::Error& e) {
    TORCH_WARN(
        "the weight overlay is not to be had, adapted torch::nn layers take "
        "dense weights: ",
        e.what_without_backtrace());
    return false;
  }
}

} // namespace

bool overlay_is_registered() {
  static const bool is_registered = register_kernels();
  return is_registered;
}

at::Tensor make_overlay(std::shared_ptr<const WeightOverlay> overlay) {
  return at::Tensor(c10::make_intrusive<OverlayImpl>(
      std::move(overlay), /*is_transposed=*/false, /*first_row=*/0, -1));
}

} // namespace torchlora

#else // the key is not to be had

namespace torchlora {

bool overlay_is_registered() {
  return false;
}

at::Tensor make_overlay(std::shared_ptr<const WeightOverlay> /*overlay*/) {
  return {};
}

} // namespace torchlora

#endif
