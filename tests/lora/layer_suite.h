#pragma once

#include "lora/overlay/unmodified_types.h"

namespace torchlora::test {

/// The layer types of one matrix, which have all initialisers, and others. A
/// new one joins here.
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
    DenseType<UnmodifiedLinearType>,
    DenseType<UnmodifiedEmbeddingType>,
    DenseType<UnmodifiedConv2dType>,
    DenseType<UnmodifiedAttentionType>,
    DenseType<ConvTransposeType>,
    DenseType<BilinearType>,
    Others...>;
using MatrixLayerTypes = MatrixLayersAnd<>;
/// Every adaptable layer type.
using LayerTypes = MatrixLayersAnd<ExpertsType<false>, ExpertsType<true>>;

/// `PeftModel::refresh_weights`.
inline void refresh_weights(torch::nn::Module& model) {
  for (const auto& module : model.modules()) {
    if (auto* layer = dynamic_cast<LoraLayer*>(module.get())) {
      layer->refresh_weight();
    }
  }
}

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
    if (!Type::kOverlay) {
      refresh_weights(*this);
    }
    return target(x) - other(x).sin();
  }
  typename Type::Layer target{nullptr}, other{nullptr};
};

/// The fixture of the suites over all layer types.
template <class Type>
class LayerSuite : public testing::Test {
 protected:
  explicit LayerSuite(uint64_t seed) {
    set_weight_overlay(Type::kOverlay);
    torch::manual_seed(seed);
    model_ = std::make_shared<PairImpl<Type>>();
    x_ = Type::input();
  }
  ~LayerSuite() override {
    set_weight_overlay(true);
  }
  void SetUp() override {
    constexpr bool kIsUnmodified =
        !std::
            is_base_of_v<nn::Redirectable, typename Type::Layer::ContainedType>;
    if (kIsUnmodified && Type::kOverlay && !has_weight_overlay()) {
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
  static double difference(const at::Tensor& a, const at::Tensor& b) {
    return torchlora::difference(a, b);
  }

  std::shared_ptr<PairImpl<Type>> model_;
  at::Tensor x_;
};

} // namespace torchlora::test
