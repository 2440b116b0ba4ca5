// Layers without features and batches without rows: an adapted layer computes
// what the plain one does.
#include <filesystem>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/lora/overlay.h>
#include <torchlora/model.h>
#include <torchlora/nn/compute.h>
#include <torchlora/tools/preprocess.h>

#include "lora/combinations_layers.h"
#include "support.h"

namespace torchlora::test {
namespace {

namespace fs = std::filesystem;
using at::Tensor;

struct EmptyCase {
  const char* name;
  AnyLayer layer;
  Tensor input;
  bool is_linear = false;
};

/// A layer whose weights were replaced by empty ones, as LibTorch's
/// constructors do not draw those.
template <class Impl, class... Args>
AnyLayer make_empty(at::IntArrayRef weight, int64_t bias, const Args&... args) {
  auto layer = make_layer<Impl>(args...);
  for (auto& item : layer.module->named_parameters()) {
    item.value().set_data(
        item.value().dim() == 1 ? test::randn({bias}) : test::randn(weight));
  }
  return layer;
}

std::vector<EmptyCase> empty_cases() {
  const auto none = test::empty({2, 0}, torch::kLong);
  std::vector<EmptyCase> cases{
      {"Linear, no outputs",
       make_empty<nn::LinearImpl>({0, 8}, 0, 8, 1),
       test::randn({3, 8}),
       true},
      {"Linear, no inputs",
       make_empty<nn::LinearImpl>({5, 0}, 5, 1, 5),
       test::randn({3, 0}),
       true},
      {"Linear, neither, one row",
       make_empty<nn::LinearImpl>({0, 0}, 0, 1, 1),
       test::randn({0}),
       true},
      {"Linear, no rows",
       make_layer<nn::LinearImpl>(8, 5),
       test::randn({2, 0, 8}),
       true},
      {"ClippableLinear, no rows",
       make_layer<nn::ClippableLinearImpl>(8, 5),
       test::randn({0, 8}),
       true},
      {"Conv2d, no batch",
       make_layer<nn::Conv2dImpl>(2, 3, 2),
       test::randn({0, 2, 4, 4})},
      {"Embedding, no indices", make_layer<nn::EmbeddingImpl>(6, 4), none},
      {"Embedding, no rows",
       make_empty<nn::EmbeddingImpl>({0, 4}, 0, 1, 4),
       none},
      {"Embedding, no features",
       make_empty<nn::EmbeddingImpl>({6, 0}, 0, 6, 1),
       test::tensor({{1, 2}})},
      {"Attention, no batch",
       make_attention<nn::MultiheadAttentionImpl>(6, 2),
       test::randn({3, 0, 6})},
      {"Experts, no rows",
       make_layer<DrawnExpertsImpl>(2, 5, 4, false),
       test::randn({0, 5})},
      {"Experts, no inputs",
       make_layer<DrawnExpertsImpl>(2, 0, 4, true),
       test::randn({3, 0})},
      {"Experts, no outputs",
       make_layer<DrawnExpertsImpl>(2, 5, 0, false),
       test::randn({3, 5})}};
  if (has_weight_overlay()) {
    cases.insert(
        cases.end(),
        {{"torch::nn::Linear, no outputs",
          make_empty<torch::nn::LinearImpl>({0, 8}, 0, 8, 1),
          test::randn({3, 8}),
          true},
         {"torch::nn::Linear, no inputs",
          make_empty<torch::nn::LinearImpl>({5, 0}, 5, 1, 5),
          test::randn({3, 0}),
          true},
         {"torch::nn::Embedding, no indices",
          make_layer<torch::nn::EmbeddingImpl>(6, 4),
          none},
         {"torch::nn::Conv1d, no batch",
          make_layer<torch::nn::Conv1dImpl>(2, 3, 2),
          test::randn({0, 2, 4})},
         {"torch::nn::ConvTranspose1d, no batch",
          make_layer<torch::nn::ConvTranspose1dImpl>(2, 3, 2),
          test::randn({0, 2, 4})}});
  }
  return cases;
}

LoraConfig config_of(const EmptyCase& one, LoraConfig config) {
  return one.layer.module->as<DrawnExpertsImpl>()
      ? config.target_parameters({"layer.weight"})
      : config.target_modules({"layer"});
}

void expect_as_the_plain_layer(
    EmptyCase& one,
    const LoraConfig& config,
    at::ScalarType dtype) {
  one.layer.module->to(dtype);
  auto x = one.input.is_floating_point() ? one.input.to(dtype) : one.input;
  const auto plain = one.layer.forward(x);
  const auto model = std::make_shared<torch::nn::Module>("Model");
  model->register_module("layer", one.layer.module);
  auto peft = get_peft_model(*model, config_of(one, config));
  randomize(peft);
  if (x.is_floating_point()) {
    x.requires_grad_();
  }
  model->train();
  const auto output = one.layer.forward(x);
  EXPECT_EQ(output.sizes(), plain.sizes());
  EXPECT_EQ(output.scalar_type(), dtype);
  output.sum().backward();
  if (x.is_floating_point()) {
    EXPECT_EQ(x.grad().sizes(), x.sizes());
  }
  model->eval();
  torch::NoGradGuard no_grad;
  // What has elements comes from the bias: no input reaches it.
  EXPECT_TRUE(torch::equal(one.layer.forward(x), plain));
  peft.merge_adapter();
  EXPECT_TRUE(torch::equal(one.layer.forward(x), plain));
  peft.unmerge_adapter();
  const auto folder = fs::path(testing::TempDir()) / "empty_adapter";
  peft.save_pretrained(folder);
  peft.unload();
  auto loaded = PeftModel::from_pretrained(*model, folder);
  EXPECT_TRUE(torch::equal(one.layer.forward(x), plain));
  loaded.unload();
}

TEST(Empty, LayersComputeWhatThePlainOnesDo) {
  torch::manual_seed(8);
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    for (auto& one : empty_cases()) {
      SCOPED_TRACE(c10::str(one.name, ", ", dtype));
      expect_as_the_plain_layer(one, LoraConfig(2), dtype);
    }
    for (auto& one : empty_cases()) {
      SCOPED_TRACE(c10::str(one.name, ", ", dtype, ", dropout, VeLoRA"));
      if (one.is_linear) {
        expect_as_the_plain_layer(
            one,
            LoraConfig(2).lora_dropout(0.5).velora_config(
                VeloraConfig().num_groups(1)),
            dtype);
      }
    }
  }
}

TEST(Empty, UpcastProductsOverNothingAreZero) {
  nn::set_compute_route(nn::ComputeRoute::kUpcast);
  const auto ones = [](at::IntArrayRef sizes) {
    return test::ones(sizes, torch::kBFloat16);
  };
  EXPECT_TRUE(torch::equal(
      nn::linear(ones({2, 0}), ones({3, 0})),
      test::zeros({2, 3}, torch::kBFloat16)));
  EXPECT_TRUE(torch::equal(
      nn::linear_backward_input(ones({2, 0}), ones({0, 3})),
      test::zeros({2, 3}, torch::kBFloat16)));
  nn::set_compute_route(std::nullopt);
}

struct Chain : torch::nn::Module {
  nn::Linear a = register_module("a", nn::Linear(4, 4)),
             b = register_module("b", nn::Linear(4, 4)),
             c = register_module("c", nn::Linear(4, 4));
};

// A batch may give a module no rows; all batches together may not.
TEST(Empty, AModuleThatGotNoRowsIsNamed) {
  torch::manual_seed(9);
  const auto model = test::make_module<Chain>();
  const auto corda =
      LoraConfig(2).init_lora_weights("corda").target_modules({"a", "b", "c"});
  const auto x = test::randn({6, 4});
  const auto said = refusal([&] {
    preprocess_corda(*model, corda, [&] {
      model->a(x);
      model->b(x.narrow(0, 0, 0));
      model->c(x);
    });
  });
  EXPECT_NE(said.find(" b saw no input"), std::string::npos) << said;
  const auto statistics = preprocess_corda(*model, corda, [&] {
    model->a(x);
    model->b(x.narrow(0, 0, 0));
    model->b(x);
    model->c(x);
  });
  EXPECT_TRUE(torch::equal(statistics.at("a"), statistics.at("b")));

  auto peft = get_peft_model(
      *model,
      LoraConfig(2).init_lora_weights("eva").target_modules({"a", "b", "c"}));
  int batches = 0;
  const auto eva = refusal([&] {
    initialize_lora_eva_weights(peft, [&] {
      model->a(x);
      model->b(x.narrow(0, 0, 0));
      model->c(x.narrow(0, 0, 0));
      return ++batches < 3;
    });
  });
  EXPECT_NE(eva.find(" b needs"), std::string::npos) << eva;
}

} // namespace
} // namespace torchlora::test
