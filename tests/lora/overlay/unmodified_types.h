#pragma once

#include <torchlora/lora/overlay.h>

#include "lora/layer_types.h"

namespace torchlora::test {

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

struct EmbeddingBagType : UnmodifiedEmbeddingType {
  using Layer = torch::nn::EmbeddingBag;
  static constexpr bool kMixes = false; // its input is one list of indices
  static at::Tensor
  dense(Layer& /*layer*/, const at::Tensor& x, const at::Tensor& weight) {
    return at::embedding(weight, x).mean(1);
  }
  static Layer make() {
    return Layer(torch::nn::EmbeddingBagOptions(11, 10).mode(torch::kMean));
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
    return test::randn({2, 5, 6, 7});
  }
};

struct UnmodifiedGroupedConvType : LayerType {
  using Layer = torch::nn::Conv2d;
  static at::Tensor
  dense(Layer& layer, const at::Tensor& x, const at::Tensor& weight) {
    return at::conv2d(x, weight, layer->bias, 1, 1, 1, /*groups=*/2);
  }
  static Layer make() {
    return Layer(torch::nn::Conv2dOptions(6, 8, 3).padding(1).groups(2));
  }
  static at::Tensor input() {
    return test::randn({2, 6, 5, 4});
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
    return test::randn({2, 8, 3, 4});
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
    return test::randn({4, 3, 12}) * 0.3;
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

} // namespace torchlora::test
