#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/lora/layers/linear.h>
#include <torchlora/lora/overlay.h>
#include <torchlora/lora/registry.h>
#include <torchlora/model.h>
#include <torchlora/nn/clippable_linear.h>
#include <torchlora/nn/conv.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/experts.h>
#include <torchlora/nn/linear.h>
#include <torchlora/nn/multihead_attention.h>

#include "support.h"

namespace torchlora::test {

/// What most layer types have in common.
struct LayerType {
  /// Whether a dropout is accepted, and acts.
  static constexpr bool kTakesDropout = true;
  static constexpr bool kHasDropout = true;
  static constexpr bool kAutocasts = true;
  static constexpr bool kMixes = true;
  static constexpr bool kHasDora = true;
  /// Whether LibTorch's operation gives the same bits for frozen factors.
  static constexpr bool kRepeats = true;
  static constexpr bool kHasLoraBias = true;
  static constexpr size_t kFactorsOfALayer = 2;
  static constexpr const char* kA = "lora_A.default.weight";
  static constexpr const char* kB = "lora_B.default.weight";
  /// The configuration with these layers as its targets.
  static LoraConfig target(LoraConfig config, std::vector<std::string> names) {
    return config.target_modules(std::move(names));
  }
  /// B A in the weight's own layout.
  static at::Tensor
  product(const BaseWeight& base, const at::Tensor& A, const at::Tensor& B) {
    return base.from_matrix(at::mm(B.flatten(1), A.flatten(1)));
  }
};

/// One entry per layer type: how the suites make a layer and an input for it,
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
    return test::randn({4, 3, 12});
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
    return test::randn({4, 3, 12});
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
    return test::randint(3, 11, {4, 3}); // the row of padding has no gradient
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
    return test::randn({4, 5, 9});
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
    return test::randn({2, 5, 6, 7});
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
    return test::randn({2, 5, 3, 4, 5});
  }
};

struct GroupedConvType : ConvType {
  using Layer = nn::Conv1d;
  static Layer make() {
    return Layer(torch::nn::Conv1dOptions(6, 9, 3)
                     .stride(2)
                     .groups(3)
                     .padding(1)
                     .padding_mode(torch::kReflect));
  }
  static at::Tensor input() {
    return test::randn({4, 6, 9});
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
    return test::randn({4, 3, 12});
  }
};

/// A layer type of user code, as the library has none: y = x W + b with W
/// [in, out], transformers' Conv1D.
struct TransposedLinearModule : torch::nn::Cloneable<TransposedLinearModule> {
  TransposedLinearModule(int64_t in, int64_t out) : in_(in), out_(out) {
    TransposedLinearModule::reset();
  }
  void reset() override {
    weight = register_parameter("weight", test::randn({in_, out_}).mul_(0.3));
    bias = register_parameter("bias", test::randn({out_}).mul_(0.3));
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
    return test::randn({4, 3, 12});
  }
};

/// The stacked weight of three experts that take the rows in turn.
struct ExpertsInTurnImpl : torch::nn::Cloneable<ExpertsInTurnImpl>,
                           nn::StackedExperts {
  explicit ExpertsInTurnImpl(bool is_transposed)
      : StackedExperts(is_transposed) {
    ExpertsInTurnImpl::reset();
  }
  void reset() override {
    weight = register_parameter(
        "weight",
        test::randn(
            is_transposed() ? at::IntArrayRef{3, 12, 10}
                            : at::IntArrayRef{3, 10, 12})
            .mul_(0.3));
  }
  static at::Tensor experts_of(const at::Tensor& rows) {
    return torch::arange(rows.size(0), rows.options().dtype(at::kLong))
        .remainder(3);
  }
  at::Tensor forward(const at::Tensor& x) {
    const auto rows = x.flatten(0, 1);
    const auto [order, counts] = nn::sort_by_expert(experts_of(rows), 3);
    return expert_linear("weight", rows.index_select(0, order), counts)
        .index_select(0, order.argsort())
        .unflatten(0, {x.size(0), x.size(1)});
  }
  at::Tensor weight;
};
TORCH_MODULE(ExpertsInTurn);

template <bool is_transposed>
struct ExpertsType : LayerType {
  using Layer = ExpertsInTurn;
  static constexpr bool kTakesDropout = false;
  static constexpr bool kMixes = false; // its rows are no batch
  static LoraConfig target(LoraConfig config, std::vector<std::string> names) {
    for (auto& name : names) {
      name += ".weight";
    }
    return config.target_parameters(std::move(names));
  }
  /// Of expert e the rows e r, e r + 1, … of A and the columns e, e + 3, … of
  /// B.
  static at::Tensor
  product(const BaseWeight&, const at::Tensor& A, const at::Tensor& B) {
    const auto r = A.size(0) / 3;
    std::vector<at::Tensor> deltas;
    for (int64_t e = 0; e < 3; ++e) {
      const auto delta = at::mm(
          B.slice(1, e, std::nullopt, 3), A.slice(0, e * r, (e + 1) * r));
      deltas.push_back(is_transposed ? delta.t() : delta);
    }
    return at::stack(deltas);
  }
  static at::Tensor
  dense(Layer&, const at::Tensor& x, const at::Tensor& weight) {
    const auto rows = x.flatten(0, 1);
    const auto own = weight.index({ExpertsInTurnImpl::experts_of(rows)});
    return at::einsum(is_transposed ? "tio,ti->to" : "toi,ti->to", {own, rows})
        .unflatten(0, {x.size(0), x.size(1)});
  }
  static Layer make() {
    return Layer(is_transposed);
  }
  static at::Tensor input() {
    return test::randn({4, 3, 12});
  }
};

} // namespace torchlora::test
