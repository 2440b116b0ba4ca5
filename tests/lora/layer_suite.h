#pragma once

#include "device/device.h"
#include "lora/overlay/unmodified_types.h"

namespace torchlora::test {

/// The layer types whose weight is one matrix; every initializer works for
/// them. A new type joins here, or `LayerTypes` below if an initializer refuses
/// it.
template <class... Others>
using MatrixLayersAnd = testing::Types<
    LinearType,
    ClippableLinearType,
    EmbeddingType,
    Conv1dType,
    Conv2dType,
    Conv3dType,
    AttentionType,
    TransposedLinearType,
    UnmodifiedLinearType,
    UnmodifiedEmbeddingType,
    UnmodifiedConv1dType,
    UnmodifiedConv2dType,
    UnmodifiedConv3dType,
    UnmodifiedAttentionType,
    ConvTransposeType,
    BilinearType,
    Others...>;
using MatrixLayerTypes = MatrixLayersAnd<>;
/// Every adaptable layer type.
using LayerTypes = MatrixLayersAnd<
    ExpertsType<false>,
    ExpertsType<true>,
    EmbeddingBagType,
    GroupedConvType,
    UnmodifiedGroupedConvType>;

/// A model with two layers of a type, one of them below another module.
template <class Type>
struct PairImpl : torch::nn::Module {
  PairImpl() {
    target = register_module("target", Type::make());
    auto block =
        register_module("block", std::make_shared<torch::nn::Module>("block"));
    other = block->register_module("other", Type::make());
  }
  at::Tensor forward(const at::Tensor& x) {
    return target(x) - other(x).sin();
  }
  typename Type::Layer target{nullptr}, other{nullptr};
};

/// The fixture of the suites over all layer types.
template <class Type>
class LayerSuite : public testing::Test {
 protected:
  explicit LayerSuite(uint64_t seed) {
    torch::manual_seed(seed);
    model_ = test::make_module<PairImpl<Type>>();
    x_ = Type::input();
  }
  void SetUp() override {
    constexpr bool kIsUnmodified =
        !std::
            is_base_of_v<nn::Redirectable, typename Type::Layer::ContainedType>;
    if (kIsUnmodified && !has_weight_overlay()) {
      GTEST_SKIP() << "no weight overlay";
    }
  }
  PeftModel adapt(LoraConfig config = LoraConfig(4)) {
    return get_peft_model(*model_, target(std::move(config)));
  }
  static LoraConfig target(
      LoraConfig config,
      std::vector<std::string> names = {"target", "other"}) {
    return Type::target(std::move(config), std::move(names));
  }
  at::Tensor run() {
    torch::NoGradGuard no_grad;
    return model_->forward(x_);
  }
  /// How far two runs of the same function may be apart.
  static double rounding() {
    return test_device().is_cpu() ? 1e-6 : 1e-5;
  }
  static double difference(const at::Tensor& a, const at::Tensor& b) {
    return torchlora::difference(a, b);
  }

  std::shared_ptr<PairImpl<Type>> model_;
  at::Tensor x_;
};

} // namespace torchlora::test
