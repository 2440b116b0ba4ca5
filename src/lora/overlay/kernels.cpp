// The weight overlay: a TensorImpl without storage and with a dispatch key of
// its own, above autograd and autocast. The dispatcher sends every operation
// that meets it here first. A kernel for each operation by which a layer uses
// its weight (linear, embedding, a convolution …) calls the LoRA layer with
// "the operation with other tensors"; every other operation goes to `fallback`,
// which puts the dense adapted weight in the stand-in's place and runs the
// operation below. `t` and `slice` keep the stand-in, transposed or narrowed,
// as LibTorch's own layers use their weights so before they multiply.
#include "lora/overlay/kernels.h"

#ifdef TORCHLORA_OVERLAY_KEYS

#include <algorithm>
#include <array>

#include <ATen/core/dispatch/Dispatcher.h>
#include <dlfcn.h>
#include <torch/library.h>

#include "lora/overlay/overlay_impl.h"

namespace torchlora {

c10::DispatchKey overlay_key = c10::DispatchKey::Undefined;

namespace {

/// DeferredInit and TESTING_ONLY_GenericWrapper, as far as this LibTorch has
/// them (cmake/TorchloraOverlay.cmake). NOTE: PyTorch has no dispatch key to
/// give to libraries. The first was torchdistx's, which is archived, the second
/// is for LibTorch's own tests; both lie above autograd and autocast.
constexpr std::array kKeys{TORCHLORA_OVERLAY_KEYS};

Tensor plain(
    const Tensor& tensor,
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
    const auto plain_one = [&](const Tensor& tensor) {
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
        if (const std::optional<Tensor> tensor = list.get(k)) {
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
const OverlayImpl* linear_overlay(const Tensor& weight, bool is_in_out) {
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

Tensor linear(
    const Tensor& input,
    const Tensor& weight,
    const std::optional<Tensor>& bias) {
  constexpr const char* kName = "aten::linear";
  const auto b = bias.value_or(Tensor());
  const auto* impl = linear_overlay(weight, /*is_in_out=*/false);
  if (!impl || any_overlay(input, b)) {
    return at::linear(
        plain(input, kName), plain(weight, kName), plain(b, kName));
  }
  return impl->run(input, b, [&](const auto& x, const auto& w, const auto& y) {
    return at::linear(x, impl->is_transposed ? w.t() : w, y);
  });
}

Tensor matmul(const Tensor& input, const Tensor& weight) {
  constexpr const char* kName = "aten::matmul";
  const auto* impl = linear_overlay(weight, /*is_in_out=*/true);
  if (!impl || any_overlay(input)) {
    return at::matmul(plain(input, kName), plain(weight, kName));
  }
  return impl->run(input, {}, [&](const auto& x, const auto& w, const auto&) {
    return at::matmul(x, impl->is_transposed ? w.t() : w);
  });
}

Tensor addmm(
    const Tensor& bias,
    const Tensor& input,
    const Tensor& weight,
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

Tensor t(const Tensor& weight) {
  return overlay_of(weight)->transpose();
}

Tensor slice(
    const Tensor& weight,
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
  return Tensor(c10::make_intrusive<OverlayImpl>(
      impl->overlay,
      /*is_transposed=*/false,
      std::max<int64_t>(impl->first_row, 0) + first,
      last - first));
}

/// LibTorch's embedding holds the rows of its table to a norm in place; an
/// adapted one holds what it looks up.
Tensor& embedding_renorm_(
    Tensor& table,
    const Tensor& indices,
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
  // Whether the weight's gradient is sparse, which no factor's can be.
  constexpr int kSparse = kUse == WeightUse::kEmbedding ? 4
      : kUse == WeightUse::kEmbeddingBag                ? 5
                                                        : -1;
  const auto count = op.schema().arguments().size();
  torch::jit::Stack arguments(stack->end() - count, stack->end());
  const auto tensor = [&](int i) {
    return i >= 0 && arguments[i].isTensor() ? arguments[i].toTensor()
                                             : Tensor();
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
  // Behind the first: what embedding_bag says of its bags.
  torch::jit::Stack other_outputs;
  const auto run = [&](const Tensor& x, const Tensor& w, const Tensor& b) {
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
    if (kSparse >= 0 && !w.is_same(impl->overlay->last_weight())) {
      values[kSparse] = false;
    }
    op.callBoxed(values);
    other_outputs.assign(values.begin() + 1, values.end());
    return values.front().toTensor();
  };
  auto output = impl->run(input, tensor(kBias), run);
  torch::jit::drop(stack, count);
  stack->emplace_back(std::move(output));
  stack->insert(stack->end(), other_outputs.begin(), other_outputs.end());
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

using Libraries = std::vector<std::unique_ptr<torch::Library>>;

/// Registers the kernels for one key. c10::Error if another library has it.
Libraries register_kernels(c10::DispatchKey key) {
  using torch::Library;
  Libraries libraries;
  const auto implement = [&](const char* ns) -> Library& {
    return *libraries.emplace_back(
        std::make_unique<Library>(Library::IMPL, ns, key, __FILE__, __LINE__));
  };
  implement("_").fallback(
      torch::CppFunction::makeFromBoxedFunction<&fallback>());
  auto& aten = implement("aten");
  aten.impl("linear", &linear);
  aten.impl("matmul", &matmul);
  aten.impl("mm", &matmul);
  aten.impl("addmm", &addmm);
  aten.impl("t", &t);
  aten.impl("slice.Tensor", &slice);
  aten.impl("embedding_renorm_", &embedding_renorm_);
  aten.impl("embedding", boxed<WeightUse::kEmbedding, 1, 0, -1>());
  for (const auto* name : {"embedding_bag", "embedding_bag.padding_idx"}) {
    aten.impl(name, boxed<WeightUse::kEmbeddingBag, 1, 0, -1>());
  }
  aten.impl("bilinear", boxed<WeightUse::kBilinear, 0, 2, 3>());
  for (const std::string name : {"conv1d", "conv2d", "conv3d"}) {
    for (const auto* overload : {"", ".padding"}) {
      aten.impl(
          (name + overload).c_str(), boxed<WeightUse::kConvolution, 0, 1, 2>());
    }
  }
  for (const auto* name :
       {"conv_transpose1d",
        "conv_transpose2d.input",
        "conv_transpose3d.input"}) {
    aten.impl(name, boxed<WeightUse::kTransposedConvolution, 0, 1, 2>());
  }
  return libraries;
}

/// Takes a key once in the process. NOTE: a second copy of the library (in a
/// plugin, say) finds the first one's mark, whose kernels act on its overlays
/// too.
c10::DispatchKey take_key() {
  const auto mark = [](c10::DispatchKey key) {
    return std::string("weight_overlay_0_1_") + c10::toString(key);
  };
  for (const auto key : kKeys) {
    if (c10::Dispatcher::singleton().findSchema(
            {"torchlora::" + mark(key), ""})) {
      return key;
    }
  }
  for (const auto key : kKeys) {
    try {
      // NOTE: for good, and not destroyed at exit: LibTorch may be gone then.
      static auto* const libraries = new Libraries;
      *libraries = register_kernels(key);
      auto& library = libraries->emplace_back(std::make_unique<torch::Library>(
          torch::Library::FRAGMENT,
          "torchlora",
          std::nullopt,
          __FILE__,
          __LINE__));
      library->def((mark(key) + "() -> ()").c_str());
      stay_loaded();
      return key;
    } catch (const c10::Error& e) {
      TORCH_WARN(
          "the dispatch key ",
          c10::toString(key),
          " of the weight overlay is taken: ",
          e.what_without_backtrace());
    }
  }
  return c10::DispatchKey::Undefined;
}

} // namespace

bool overlay_is_registered() {
  static const bool is_registered = [] {
    overlay_key = take_key();
    return overlay_key != c10::DispatchKey::Undefined;
  }();
  return is_registered;
}

Tensor make_overlay(std::shared_ptr<const WeightOverlay> overlay) {
  return Tensor(c10::make_intrusive<OverlayImpl>(
      std::move(overlay), /*is_transposed=*/false, /*first_row=*/0, -1));
}

} // namespace torchlora

#else // without a key

namespace torchlora {

bool overlay_is_registered() {
  return false;
}

Tensor make_overlay(std::shared_ptr<const WeightOverlay> /*overlay*/) {
  return {};
}

} // namespace torchlora

#endif
