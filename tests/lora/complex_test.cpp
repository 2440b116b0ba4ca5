// Complex weights: gradients against difference quotients, merging, refusals.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/lora/overlay.h>
#include <torchlora/model.h>
#include <torchlora/optim/lorafa.h>
#include <torchlora/optim/riemannian.h>
#include <torchlora/tools/intruders.h>
#include <torchlora/tools/preprocess.h>

#include "lora/combinations_layers.h"
#include "support.h"

namespace torchlora::test {
namespace {

using at::Tensor;

struct ComplexCase {
  const char* name;
  AnyLayer layer;
  Tensor input;
  bool takes_dropout = true;
};

std::vector<ComplexCase> complex_cases() {
  const auto randn = [](at::IntArrayRef sizes) {
    return test::randn(sizes, torch::kComplexDouble);
  };
  auto unclipped = nn::ClippableLinearOptions(5, 4).use_clipped_linears(false);
  std::vector<ComplexCase> cases{
      {"Linear", make_layer<nn::LinearImpl>(5, 4), randn({2, 3, 5})},
      {"one row", make_layer<nn::LinearImpl>(5, 4), randn({5})},
      {"TransposedLinear",
       make_layer<TransposedLinearImpl>(5, 4),
       randn({3, 5})},
      {"ClippableLinear",
       make_layer<nn::ClippableLinearImpl>(unclipped),
       randn({3, 5})},
      {"Conv1d", make_layer<nn::Conv1dImpl>(2, 3, 2), randn({2, 2, 5})},
      {"Experts",
       make_layer<DrawnExpertsImpl>(2, 5, 4, false),
       randn({5, 5}),
       /*takes_dropout=*/false}};
  if (has_weight_overlay()) {
    cases.insert(
        cases.end(),
        {{"torch::nn::Linear",
          make_layer<torch::nn::LinearImpl>(5, 4),
          randn({3, 5})},
         {"torch::nn::Conv2d",
          make_layer<torch::nn::Conv2dImpl>(2, 3, 2),
          randn({2, 2, 4, 3})},
         {"torch::nn::ConvTranspose1d",
          make_layer<torch::nn::ConvTranspose1dImpl>(2, 3, 2),
          randn({2, 2, 4})}});
  }
  for (auto& one : cases) {
    torch::NoGradGuard no_grad;
    one.layer.module->to(torch::kComplexDouble);
    for (auto& parameter : one.layer.module->parameters()) {
      parameter.normal_();
    }
  }
  return cases;
}

LoraConfig config_of(const ComplexCase& one, LoraConfig config) {
  return one.layer.module->as<DrawnExpertsImpl>()
      ? config.target_parameters({"layer.weight"})
      : config.target_modules({"layer"});
}

PeftModel
adapt(torch::nn::Module& model, const ComplexCase& one, double dropout) {
  model.register_module("layer", one.layer.module);
  auto peft = get_peft_model(
      model, config_of(one, LoraConfig(2).lora_dropout(dropout)));
  peft.add_adapter("second", config_of(one, LoraConfig(3)));
  peft.set_adapter({"default", "second"});
  randomize(peft, "default", 1);
  randomize(peft, "second", 1);
  model.train();
  return peft;
}

// L(p + ε d) − L(p − ε d) is 2 ε Re Σ conj(gradient) d.
TEST(ComplexWeights, GradientsAreThoseOfDifferenceQuotients) {
  for (const double dropout : {0.0, 0.4}) {
    torch::manual_seed(5);
    for (auto& one : complex_cases()) {
      SCOPED_TRACE(c10::str(one.name, ", dropout ", dropout));
      const auto model = std::make_shared<torch::nn::Module>("Model");
      const auto peft = adapt(*model, one, one.takes_dropout ? dropout : 0);
      auto x = one.input;
      x.requires_grad_();
      const auto loss = [&] {
        torch::manual_seed(9);
        const auto y = one.layer.forward(x);
        EXPECT_EQ(y.scalar_type(), torch::kComplexDouble);
        return y.abs().square().sum() + at::real(y * y).sum();
      };
      loss().backward();
      auto inputs = peft.trainable_parameters();
      EXPECT_EQ(inputs.size(), 4U);
      inputs.push_back(x);
      torch::NoGradGuard no_grad;
      constexpr double kStep = 1e-6;
      for (auto& tensor : inputs) {
        const auto direction = torch::randn_like(tensor);
        tensor.add_(direction, kStep);
        const auto above = loss().item<double>();
        tensor.sub_(direction, 2 * kStep);
        const auto below = loss().item<double>();
        tensor.add_(direction, kStep);
        const auto expected =
            at::real(tensor.grad().conj() * direction).sum().item<double>();
        EXPECT_GT(std::abs(expected), 1e-3);
        EXPECT_NEAR((above - below) / (2 * kStep) / expected, 1, 1e-5)
            << tensor.sizes();
      }
    }
  }
}

TEST(ComplexWeights, MergeAsTheyRun) {
  torch::manual_seed(6);
  for (auto& one : complex_cases()) {
    SCOPED_TRACE(one.name);
    torch::NoGradGuard no_grad;
    const auto base = one.layer.forward(one.input);
    const auto model = std::make_shared<torch::nn::Module>("Model");
    auto peft = adapt(*model, one, 0);
    const auto adapted = one.layer.forward(one.input);
    EXPECT_GT(difference(adapted, base), 1e-2);
    peft.merge_adapter();
    EXPECT_LT(difference(one.layer.forward(one.input), adapted), 1e-10);
    {
      const auto guard = peft.disable_adapter();
      EXPECT_LT(difference(one.layer.forward(one.input), base), 1e-10);
    }
    peft.unload();
  }
}

// Their formulas are those of real weights.
TEST(ComplexWeights, VariantsAndOptimizersAreRefusedByName) {
  for (const auto& [config, name] :
       {std::pair(LoraConfig(2).use_dora(true), "use_dora"),
        std::pair(LoraConfig(2).kasa_config(KasaConfig()), "kasa_config"),
        std::pair(LoraConfig(2).velora_config(VeloraConfig()), "velora_config"),
        std::pair(LoraConfig(2).init_lora_weights("pissa"), "pissa")}) {
    const auto model = std::make_shared<torch::nn::Module>("Model");
    model->register_module("layer", nn::Linear(5, 4));
    model->to(torch::kComplexFloat);
    const auto said =
        refusal(*model, LoraConfig(config).target_modules({"layer"}));
    EXPECT_NE(said.find(name), std::string::npos) << said;
    EXPECT_NE(said.find("ComplexFloat"), std::string::npos) << said;
    EXPECT_NE(said.find("module layer"), std::string::npos) << said;
  }
  const auto table = std::make_shared<torch::nn::Module>("Model");
  table->register_module("layer", nn::Embedding(5, 4));
  table->to(torch::kComplexFloat);
  const auto said = refusal(*table, LoraConfig(2).target_modules({"layer"}));
  EXPECT_NE(said.find("complex table"), std::string::npos) << said;

  const auto model = std::make_shared<torch::nn::Module>("Model");
  model->register_module("layer", nn::Linear(5, 4));
  model->to(torch::kComplexFloat);
  get_peft_model(*model, LoraConfig(2).target_modules({"layer"}));
  EXPECT_NE(
      refusal([&] {
        create_riemannian_optimizer<torch::optim::SGD>(
            *model, torch::optim::SGDOptions(0.1));
      }).find("complex"),
      std::string::npos);
}

TEST(ComplexWeights, StatisticsOfThemAreRefusedBeforeTheModelRuns) {
  const auto model = std::make_shared<torch::nn::Module>("Model");
  model->register_module("layer", nn::Linear(5, 4));
  model->to(torch::kComplexFloat);
  const auto config = LoraConfig(2).target_modules({"layer"});
  const auto run = [] { FAIL() << "ran"; };
  const auto expect_refused = [](const std::string& said, const char* name) {
    EXPECT_TRUE(said.starts_with(c10::str("[", name, "] "))) << said;
    EXPECT_NE(said.find("layer"), std::string::npos) << said;
    EXPECT_NE(said.find("ComplexFloat"), std::string::npos) << said;
  };
  expect_refused(
      refusal([&] {
        preprocess_corda(
            *model, LoraConfig(config).init_lora_weights("corda"), run);
      }),
      "preprocess_corda");
  expect_refused(
      refusal([&] {
        preprocess_loraga(
            *model,
            LoraConfig(config).init_lora_weights("lora_ga").lora_ga_config(
                LoraGAConfig()),
            run);
      }),
      "preprocess_loraga");
  auto peft = get_peft_model(*model, config);
  peft.add_adapter("second", config);
  expect_refused(
      refusal([&] { intruder_dimensions(peft); }), "intruder_dimensions");
  expect_refused(
      refusal([&] { reduce_intruder_dimension(peft, "default", "new"); }),
      "reduce_intruder_dimension");
  for (const auto& options :
       {CombinationOptions("ties").density(0.5),
        CombinationOptions("svd").svd_clamp(0.9)}) {
    const auto said = refusal([&] {
      peft.add_weighted_adapter({"default", "second"}, {1, 1}, "new", options);
    });
    EXPECT_NE(said.find("complex"), std::string::npos) << said;
    EXPECT_EQ(peft.adapter_names().size(), 2U);
  }
}

TEST(ComplexWeights, SavedModulesAndBiasesTrain) {
  const auto model = std::make_shared<torch::nn::Module>("Model");
  model->register_module("layer", nn::Linear(5, 4));
  const auto head = model->register_module(
      "head", test::make_module<torch::nn::LinearImpl>(4, 3));
  model->to(torch::kComplexFloat);
  auto peft = get_peft_model(
      *model,
      LoraConfig(2).target_modules({"layer"}).modules_to_save({"head"}).bias(
          "all"));
  EXPECT_TRUE(head->weight.requires_grad());
  EXPECT_TRUE(head->bias.requires_grad());
  EXPECT_TRUE(
      model->named_parameters()["layer.base_layer.bias"].requires_grad());
  peft.set_requires_grad({"default"}, false);
  EXPECT_FALSE(head->weight.requires_grad());
}

} // namespace
} // namespace torchlora::test
