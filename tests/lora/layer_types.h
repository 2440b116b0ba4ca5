#pragma once

#include <memory>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/lora/linear.h>
#include <torchlora/lora/overlay.h>
#include <torchlora/lora/registry.h>
#include <torchlora/model.h>
#include <torchlora/nn/clippable_linear.h>
#include <torchlora/nn/conv.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/linear.h>
#include <torchlora/nn/multihead_attention.h>

#include "support.h"

namespace torchlora::test {

/// What most layer types have in common.
struct LayerType {
  static constexpr bool kHasDropout = true;
  static constexpr bool kAutocasts = true;
  static constexpr bool kMixes = true;
  static constexpr bool kHasDora = true;
  /// Whether LibTorch's operation gives the same bits for frozen factors.
  static constexpr bool kRepeats = true;
  static constexpr bool kHasLoraBias = true;
  /// Unmodified layers: whether they have the weight overlay.
  static constexpr bool kOverlay = true;
  static constexpr size_t kFactorsOfALayer = 2;
  static constexpr const char* kA = "lora_A.default.weight";
  static constexpr const char* kB = "lora_B.default.weight";
};

/// One entry a layer type: how the suites make a layer and an input for it,
/// and its function of a dense weight. In about half of its values a clipped
/// layer clips.
struct LinearType : LayerType {
  using Layer = nn::Linear;
  static at::Tensor
  dense(Layer& layer, const at::Tensor& x, const at::Tensor& weight) {
    return at::linear(x, weight, layer->bias);
  }
  static Layer make() {
    return Layer(12, 10);
  }
  static at::Tensor input() {
    return torch::randn({4, 3, 12});
  }
};

struct ClippableLinearType : LayerType {
  using Layer = nn::ClippableLinear;
  static at::Tensor
  dense(Layer& layer, const at::Tensor& x, const at::Tensor& weight) {
    return layer->clamp_output(at::linear(layer->clamp_input(x), weight));
  }
  static Layer make() {
    Layer layer(12, 10);
    layer->input_min.fill_(-0.7);
    layer->input_max.fill_(0.6);
    layer->output_min.fill_(-0.25);
    layer->output_max.fill_(0.2);
    return layer;
  }
  static at::Tensor input() {
    return torch::randn({4, 3, 12});
  }
};

struct EmbeddingType : LayerType {
  using Layer = nn::Embedding;
  static constexpr bool kHasDropout = false;
  static constexpr bool kAutocasts = false;
  static constexpr const char* kA = "lora_embedding_A.default";
  static constexpr const char* kB = "lora_embedding_B.default";
  static at::Tensor
  dense(Layer& layer, const at::Tensor& x, const at::Tensor& weight) {
    return at::embedding(weight, x, *layer->options.padding_idx()) *
        layer->embed_scale;
  }
  static Layer make() {
    Layer layer(torch::nn::EmbeddingOptions(11, 10).padding_idx(2));
    layer->embed_scale = 3;
    return layer;
  }
  static at::Tensor input() {
    return torch::randint(3, 11, {4, 3}); // the row of padding has no gradient
  }
};

struct ConvType : LayerType {
  template <class Layer>
  static at::Tensor
  dense(Layer& layer, const at::Tensor& x, const at::Tensor& weight) {
    return layer->convolve(x, weight, layer->bias);
  }
};

struct Conv1dType : ConvType {
  using Layer = nn::Conv1d;
  static torch::nn::Conv1dOptions options() {
    return torch::nn::Conv1dOptions(5, 8, 3)
        .padding(2)
        .dilation(2)
        .padding_mode(torch::kReflect);
  }
  static Layer make() {
    return Layer(options());
  }
  static at::Tensor input() {
    return torch::randn({4, 5, 9});
  }
};

struct Conv2dType : ConvType {
  using Layer = nn::Conv2d;
  static Layer make() {
    return Layer(torch::nn::Conv2dOptions(5, 8, 3)
                     .padding(torch::kSame)
                     .dilation({1, 2})
                     .padding_mode(torch::kCircular));
  }
  static at::Tensor input() {
    return torch::randn({2, 5, 6, 7});
  }
};

struct Conv3dType : ConvType {
  using Layer = nn::Conv3d;
  static torch::nn::Conv3dOptions options() {
    return torch::nn::Conv3dOptions(5, 8, {1, 1, 2})
        .stride({1, 2, 1})
        .padding(torch::kValid);
  }
  static Layer make() {
    return Layer(options());
  }
  static at::Tensor input() {
    return torch::randn({2, 5, 3, 4, 5});
  }
};

/// Attends to itself.
struct SelfAttention : nn::MultiheadAttention {
  using nn::MultiheadAttention::MultiheadAttention;
  at::Tensor operator()(const at::Tensor& x) {
    return std::get<0>(get()->forward(x, x, x, {}, /*need_weights=*/false));
  }
};

struct AttentionType : LayerType {
  using Layer = SelfAttention;
  static constexpr size_t kFactorsOfALayer = 4; // of in_proj and of out_proj
  static constexpr bool kMixes = false;         // its batch comes second
  /// `weight` is that of in_proj.
  static at::Tensor
  dense(Layer& layer, const at::Tensor& x, const at::Tensor& weight) {
    return attend(*layer, x, weight);
  }
  static at::Tensor attend(
      torch::nn::MultiheadAttentionImpl& layer,
      const at::Tensor& x,
      const at::Tensor& weight) {
    const auto heads = [](const at::Tensor& t) {
      return t.reshape({t.size(0), t.size(1), 3, 4}).permute({1, 2, 0, 3});
    };
    const auto qkv = at::linear(x, weight, layer.in_proj_bias).chunk(3, -1);
    auto scores = at::matmul(heads(qkv[0]), heads(qkv[1]).transpose(2, 3)) / 2;
    const auto output =
        at::matmul(scores.softmax(-1), heads(qkv[2])).permute({2, 0, 1, 3});
    if (auto* out = dynamic_cast<nn::LinearImpl*>(layer.out_proj.get())) {
      return out->forward(output.reshape(x.sizes()));
    }
    return layer.out_proj->forward(output.reshape(x.sizes()));
  }
  static Layer make() {
    return Layer(12, 3);
  }
  static at::Tensor input() {
    return torch::randn({4, 3, 12});
  }
};

/// A layer type of user code, as the library has none: y = x W + b with W
/// [in, out], transformers' Conv1D.
struct TransposedLinearModule : torch::nn::Cloneable<TransposedLinearModule> {
  TransposedLinearModule(int64_t in, int64_t out) : in_(in), out_(out) {
    TransposedLinearModule::reset();
  }
  void reset() override {
    weight = register_parameter("weight", torch::randn({in_, out_}).mul_(0.3));
    bias = register_parameter("bias", torch::randn({out_}).mul_(0.3));
  }
  at::Tensor forward(const at::Tensor& x) {
    return at::linear(x, weight.t(), bias);
  }
  int64_t in_, out_;
  at::Tensor weight, bias;
};
struct TransposedLinearImpl
    : nn::Adaptable<TransposedLinearModule, TransposedLinearImpl> {
  using Adaptable::Adaptable;
};
TORCH_MODULE(TransposedLinear);

inline const bool transposed_linear_is_registered = [] {
  LoraRegistry::global().add<TransposedLinearImpl, LoraLinear>(
      "TransposedLinear", [](TransposedLinearImpl& module) {
        return BaseWeight(module.weight, module.bias, "", WeightLayout::kInOut);
      });
  return true;
}();

struct TransposedLinearType : LayerType {
  using Layer = TransposedLinear;
  static at::Tensor
  dense(Layer& layer, const at::Tensor& x, const at::Tensor& weight) {
    return at::matmul(x, weight) + layer->bias;
  }
  static Layer make() {
    return Layer(12, 10);
  }
  static at::Tensor input() {
    return torch::randn({4, 3, 12});
  }
};

/// Layers that do not know torchlora, by the weight overlay.
struct UnmodifiedLinearType : LinearType {
  using Layer = torch::nn::Linear;
  static at::Tensor
  dense(Layer& layer, const at::Tensor& x, const at::Tensor& weight) {
    return at::linear(x, weight, layer->bias);
  }
  static Layer make() {
    return Layer(12, 10);
  }
};

struct UnmodifiedEmbeddingType : EmbeddingType {
  using Layer = torch::nn::Embedding;
  static at::Tensor
  dense(Layer& layer, const at::Tensor& x, const at::Tensor& weight) {
    return at::embedding(weight, x, *layer->options.padding_idx());
  }
  static Layer make() {
    return Layer(torch::nn::EmbeddingOptions(11, 10).padding_idx(2));
  }
};

struct UnmodifiedConv1dType : Conv1dType {
  using Layer = torch::nn::Conv1d;
  static at::Tensor
  dense(Layer& layer, const at::Tensor& x, const at::Tensor& weight) {
    return at::conv1d(
        at::reflection_pad1d(x, {2, 2}),
        weight,
        layer->bias,
        at::IntArrayRef{1},
        at::IntArrayRef{0},
        at::IntArrayRef{2});
  }
  static Layer make() {
    return Layer(options());
  }
};

struct UnmodifiedConv2dType : LayerType {
  using Layer = torch::nn::Conv2d;
  static at::Tensor
  dense(Layer& layer, const at::Tensor& x, const at::Tensor& weight) {
    return at::conv2d(x, weight, layer->bias, 1, "same");
  }
  static Layer make() {
    return Layer(torch::nn::Conv2dOptions(5, 8, 3).padding(torch::kSame));
  }
  static at::Tensor input() {
    return torch::randn({2, 5, 6, 7});
  }
};

struct UnmodifiedConv3dType : Conv3dType {
  using Layer = torch::nn::Conv3d;
  static at::Tensor
  dense(Layer& layer, const at::Tensor& x, const at::Tensor& weight) {
    return at::conv3d(x, weight, layer->bias, {1, 2, 1});
  }
  static Layer make() {
    return Layer(options());
  }
};

struct ConvTransposeType : LayerType {
  using Layer = torch::nn::ConvTranspose2d;
  static constexpr bool kRepeats = false;
  static constexpr bool kHasDora = false;
  static constexpr bool kHasLoraBias = false;
  static at::Tensor
  dense(Layer& layer, const at::Tensor& x, const at::Tensor& weight) {
    return at::conv_transpose2d(x, weight, layer->bias, 2, 1, {0, 1});
  }
  static Layer make() {
    return Layer(torch::nn::ConvTranspose2dOptions(8, 5, {2, 3})
                     .stride(2)
                     .padding(1)
                     .output_padding({0, 1}));
  }
  static at::Tensor input() {
    return torch::randn({2, 8, 3, 4});
  }
};

/// Of two inputs that come one behind the other.
struct Bilinear : torch::nn::Bilinear {
  using torch::nn::Bilinear::Bilinear;
  at::Tensor operator()(const at::Tensor& x) {
    return get()->forward(x.narrow(-1, 0, 5), x.narrow(-1, 5, 7));
  }
};

struct BilinearType : LayerType {
  static constexpr bool kAutocasts = false;
  using Layer = Bilinear;
  static at::Tensor
  dense(Layer& layer, const at::Tensor& x, const at::Tensor& weight) {
    return at::bilinear(
        x.narrow(-1, 0, 5), x.narrow(-1, 5, 7), weight, layer->bias);
  }
  static Layer make() {
    return Layer(torch::nn::BilinearOptions(5, 7, 10));
  }
  static at::Tensor input() {
    return torch::randn({4, 3, 12}) * 0.3;
  }
};

struct UnmodifiedSelfAttention : torch::nn::MultiheadAttention {
  using torch::nn::MultiheadAttention::MultiheadAttention;
  at::Tensor operator()(const at::Tensor& x) {
    return std::get<0>(get()->forward(x, x, x));
  }
};

struct UnmodifiedAttentionType : AttentionType {
  using Layer = UnmodifiedSelfAttention;
  static at::Tensor
  dense(Layer& layer, const at::Tensor& x, const at::Tensor& weight) {
    return AttentionType::attend(*layer, x, weight);
  }
  static Layer make() {
    return Layer(12, 3);
  }
};

/// The same without it.
template <class Type>
struct DenseType : Type {
  static constexpr bool kOverlay = false;
  static constexpr bool kMixes = false;
  static constexpr bool kHasLoraBias = false;
};

/// Every adaptable layer type. A new one joins here.
using LayerTypes = testing::Types<
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
    DenseType<BilinearType>>;

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
  PeftModel adapt(LoraConfig config = LoraConfig(4)) {
    return get_peft_model(*model_, config.target_modules({"target", "other"}));
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
