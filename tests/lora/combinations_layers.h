#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "lora/layer_types.h"

// The layers of the test over combinations. Each entry draws the sizes and
// options of a layer, an input for it, and the plain layer of the same sizes
// that is its reference.

namespace torchlora::test {

/// Draws numbers from a seed, the same ones everywhere.
class Draw {
 public:
  explicit Draw(uint64_t seed) : engine_(seed) {}
  int64_t operator()(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(engine_() % (high - low + 1));
  }
  bool flip() {
    return (*this)(0, 1) == 1;
  }

 private:
  std::mt19937_64 engine_;
};

/// A layer and its forward.
struct AnyLayer {
  std::shared_ptr<torch::nn::Module> module;
  std::function<at::Tensor(const at::Tensor&)> forward;
};

template <class Impl, class... Args>
AnyLayer make_layer(const Args&... args) {
  const auto module = test::make_module<Impl>(args...);
  return {module, [module](const at::Tensor& x) { return module->forward(x); }};
}

/// One layer of drawn sizes. `plain` computes the same function of the same
/// parameters, by LibTorch's layer where there is one.
struct DrawnLayer {
  std::function<AnyLayer()> adapted, plain;
  at::Tensor input;
};

/// What an entry of the table can be asked for.
struct CanDo {
  bool is_linear = false; // KaSA and VeLoRA
  bool has_bias = true;   // of its own, into which lora_bias merges
  bool lora_bias = true;
  bool dora = true;
  bool mixes = true;
  bool is_experts = false;
  /// Whether a value may round to the other side of a clamp's bound, so that
  /// gradients in half precision agree roughly.
  bool clamps = false;
};

struct LayerEntry {
  const char* name;
  DrawnLayer (*draw)(Draw&);
  CanDo can;

  friend std::ostream& operator<<(std::ostream& out, const LayerEntry& entry) {
    return out << entry.name;
  }
};

template <class Impl, class PlainImpl>
DrawnLayer draw_linear(Draw& draw) {
  const auto in = draw(2, 13), out = draw(2, 13);
  const auto x = draw.flip() ? test::randn({draw(1, 5), in})
                             : test::randn({draw(1, 4), draw(1, 3), in});
  return {
      [=] { return make_layer<Impl>(in, out); },
      [=] { return make_layer<PlainImpl>(in, out); },
      x.to(torch::kDouble)};
}

/// A clipped layer with a bias, which an adapter with lora_bias adds to it.
struct PlainClippableImpl : nn::ClippableLinearImpl {
  PlainClippableImpl(int64_t in, int64_t out)
      : ClippableLinearImpl(in, out),
        added_bias(register_parameter("added_bias", test::zeros({out}))) {}
  at::Tensor forward(const at::Tensor& x) {
    return clamp_output(at::linear(clamp_input(x), linear->weight, added_bias));
  }
  at::Tensor added_bias;
};

inline DrawnLayer draw_clippable(Draw& draw) {
  auto layer = draw_linear<nn::ClippableLinearImpl, PlainClippableImpl>(draw);
  layer.adapted = [make = layer.adapted] {
    auto made = make();
    auto& clipped = *made.module->as<nn::ClippableLinearImpl>();
    clipped.input_min.fill_(-0.75);
    clipped.input_max.fill_(1);
    clipped.output_min.fill_(-0.5);
    clipped.output_max.fill_(0.625);
    return made;
  };
  return layer;
}

/// No index is the padding's, whose row the table's gradient leaves out and
/// that of B does not.
template <class Impl>
DrawnLayer draw_embedding(Draw& draw) {
  const auto rows = draw(3, 12), dim = draw(2, 9);
  auto options = torch::nn::EmbeddingOptions(rows, dim).sparse(draw.flip());
  if (draw.flip()) {
    options.padding_idx(0);
  }
  if (draw.flip()) {
    options.max_norm(1.5);
  }
  const double scale =
      std::is_same_v<Impl, nn::EmbeddingImpl> && draw.flip() ? 3 : 1;
  const auto adapted = [=] {
    auto layer = make_layer<Impl>(options);
    if (auto* scaled = layer.module->template as<nn::EmbeddingImpl>()) {
      scaled->embed_scale = scale;
    }
    return layer;
  };
  const auto plain = [=] {
    const auto table = test::make_module<torch::nn::EmbeddingImpl>(rows, dim);
    return AnyLayer{
        table, [=](const at::Tensor& x) {
          auto found = at::embedding(table->weight, x) * scale;
          if (!options.max_norm()) {
            return found;
          }
          const auto norm = found.detach().norm(2, {-1}, true) / scale;
          return found * at::where(norm > 1.5, 1.5 / (norm + 1e-7), 1.0);
        }};
  };
  return {adapted, plain, test::randint(1, rows, {draw(1, 5), draw(1, 3)})};
}

inline DrawnLayer draw_bag(Draw& draw) {
  const auto rows = draw(3, 12), dim = draw(2, 9);
  const auto options = draw.flip()
      ? torch::nn::EmbeddingBagOptions(rows, dim).mode(torch::kSum)
      : torch::nn::EmbeddingBagOptions(rows, dim);
  const bool sparse = draw.flip();
  return {
      [=] {
        auto own = options;
        return make_layer<torch::nn::EmbeddingBagImpl>(own.sparse(sparse));
      },
      [=] { return make_layer<torch::nn::EmbeddingBagImpl>(options); },
      test::randint(0, rows, {draw(1, 5), draw(1, 4)})};
}

template <size_t D>
at::Tensor draw_image(Draw& draw, int64_t channels) {
  std::vector<int64_t> sizes{draw(1, 3), channels};
  for (size_t i = 0; i < D; ++i) {
    sizes.push_back(draw(5, 7));
  }
  return test::randn(sizes, torch::kDouble);
}

template <size_t D, class Impl, class PlainImpl>
DrawnLayer draw_conv(Draw& draw) {
  const auto groups = draw(1, 3);
  const auto in = groups * draw(2, 3), out = groups * draw(1, 3) + groups;
  auto options = torch::nn::ConvOptions<D>(in, out, draw(1, 3))
                     .groups(groups)
                     .stride(draw(1, 2))
                     .dilation(draw(1, 2));
  switch (draw(0, 4)) {
    case 0:
      options.stride(1).padding(torch::kSame);
      break;
    case 1:
      options.padding(draw(0, 2)).padding_mode(torch::kReflect);
      break;
    case 2:
      options.padding(draw(0, 2)).padding_mode(torch::kReplicate);
      break;
    case 3:
      options.padding(draw(0, 2)).padding_mode(torch::kCircular);
      break;
    default:
      options.padding(draw(0, 2));
  }
  return {
      [=] { return make_layer<Impl>(options); },
      [=] { return make_layer<PlainImpl>(options); },
      draw_image<D>(draw, in)};
}

template <size_t D, class Impl>
DrawnLayer draw_conv_transpose(Draw& draw) {
  const auto in = draw(2, 4);
  const auto stride = draw(1, 2);
  const auto options =
      torch::nn::ConvTransposeOptions<D>(in, draw(2, 4), draw(1, 3))
          .stride(stride)
          .output_padding(stride - 1)
          .dilation(draw(1, 2))
          .padding(draw(0, 1));
  const auto make = [=] { return make_layer<Impl>(options); };
  return {make, make, draw_image<D>(draw, in)};
}

inline DrawnLayer draw_bilinear(Draw& draw) {
  const auto in1 = draw(2, 6), in2 = draw(2, 6), out = draw(2, 8);
  const auto make = [=] {
    const auto module =
        test::make_module<torch::nn::BilinearImpl>(in1, in2, out);
    return AnyLayer{module, [=](const at::Tensor& x) {
                      return module->forward(
                          x.narrow(-1, 0, in1), x.narrow(-1, in1, in2));
                    }};
  };
  return {
      make,
      make,
      test::randn({draw(1, 4), draw(1, 3), in1 + in2}, torch::kDouble)};
}

template <class Impl>
AnyLayer make_attention(int64_t embed_dim, int64_t heads) {
  const auto module = test::make_module<Impl>(embed_dim, heads);
  return {module, [module](const at::Tensor& x) {
            return std::get<0>(module->forward(x, x, x));
          }};
}

template <class Impl>
DrawnLayer draw_attention(Draw& draw) {
  const auto heads = draw(1, 3);
  const auto embed_dim = heads * draw(2, 4);
  return {
      [=] { return make_attention<Impl>(embed_dim, heads); },
      [=] {
        return make_attention<torch::nn::MultiheadAttentionImpl>(
            embed_dim, heads);
      },
      test::randn({draw(1, 5), draw(1, 3), embed_dim}, torch::kDouble)};
}

/// Experts that take the rows in turn.
struct DrawnExpertsImpl : torch::nn::Module, nn::StackedExperts {
  DrawnExpertsImpl(int64_t experts, int64_t in, int64_t out, bool transposed)
      : StackedExperts(transposed),
        weight(register_parameter(
            "weight",
            test::randn(
                transposed ? at::IntArrayRef{experts, in, out}
                           : at::IntArrayRef{experts, out, in}))) {}
  at::Tensor forward(const at::Tensor& x) {
    const auto experts = weight.size(0);
    const auto ids = test::arange(x.size(0)).remainder(experts);
    const auto [order, counts] = nn::sort_by_expert(ids, experts);
    return expert_linear("weight", x.index_select(0, order), counts)
        .index_select(0, order.argsort());
  }
  at::Tensor weight;
};

inline DrawnLayer draw_experts(Draw& draw) {
  const auto experts = draw(1, 4), in = draw(2, 9), out = draw(2, 9);
  const bool transposed = draw.flip();
  const auto make = [=] {
    return make_layer<DrawnExpertsImpl>(experts, in, out, transposed);
  };
  const auto plain = [=] {
    const auto module =
        test::make_module<DrawnExpertsImpl>(experts, in, out, transposed);
    return AnyLayer{
        module, [=](const at::Tensor& x) {
          const auto ids = test::arange(x.size(0)).remainder(experts);
          const auto own = module->weight.index({ids});
          return at::einsum(transposed ? "tio,ti->to" : "toi,ti->to", {own, x});
        }};
  };
  return {make, plain, test::randn({draw(1, 9), in}, torch::kDouble)};
}

inline std::vector<LayerEntry> layer_entries() {
  constexpr CanDo kLinear{.is_linear = true}, kConv;
  constexpr CanDo kClippable{
      .is_linear = true, .has_bias = false, .clamps = true};
  constexpr CanDo kTable{.lora_bias = false};
  constexpr CanDo kBag{.lora_bias = false, .mixes = false};
  constexpr CanDo kTransposed{.lora_bias = false, .dora = false};
  constexpr CanDo kAttention{.mixes = false};
  constexpr CanDo kExperts{
      .lora_bias = false, .dora = false, .mixes = false, .is_experts = true};
  using namespace torch::nn;
  return {
      {"Linear", draw_linear<nn::LinearImpl, LinearImpl>, kLinear},
      {"TransposedLinear",
       draw_linear<TransposedLinearImpl, TransposedLinearModule>,
       kLinear},
      {"ClippableLinear", draw_clippable, kClippable},
      {"Embedding", draw_embedding<nn::EmbeddingImpl>, kTable},
      {"Conv1d", draw_conv<1, nn::Conv1dImpl, Conv1dImpl>, kConv},
      {"Conv2d", draw_conv<2, nn::Conv2dImpl, Conv2dImpl>, kConv},
      {"Conv3d", draw_conv<3, nn::Conv3dImpl, Conv3dImpl>, kConv},
      {"Attention", draw_attention<nn::MultiheadAttentionImpl>, kAttention},
      {"Experts", draw_experts, kExperts},
      {"TorchLinear", draw_linear<LinearImpl, LinearImpl>, kLinear},
      {"TorchEmbedding", draw_embedding<EmbeddingImpl>, kTable},
      {"TorchEmbeddingBag", draw_bag, kBag},
      {"TorchConv1d", draw_conv<1, Conv1dImpl, Conv1dImpl>, kConv},
      {"TorchConv2d", draw_conv<2, Conv2dImpl, Conv2dImpl>, kConv},
      {"TorchConv3d", draw_conv<3, Conv3dImpl, Conv3dImpl>, kConv},
      {"TorchConvTranspose1d",
       draw_conv_transpose<1, ConvTranspose1dImpl>,
       kTransposed},
      {"TorchConvTranspose2d",
       draw_conv_transpose<2, ConvTranspose2dImpl>,
       kTransposed},
      {"TorchConvTranspose3d",
       draw_conv_transpose<3, ConvTranspose3dImpl>,
       kTransposed},
      {"TorchBilinear", draw_bilinear, kConv},
      {"TorchAttention",
       draw_attention<MultiheadAttentionImpl>,
       CanDo{.lora_bias = false, .mixes = false}}};
}

} // namespace torchlora::test
