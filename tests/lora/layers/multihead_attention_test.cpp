// What nn::MultiheadAttention does that the suites over all layer types do not
// show, and peft's goldens (tests/reference/make_special_layer_goldens.py).
#include <filesystem>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/adapter_files/adapter_config.h>
#include <torchlora/io/safetensors.h>
#include <torchlora/lora/layer.h>
#include <torchlora/lora/overlay.h>
#include <torchlora/model.h>
#include <torchlora/nn/compute.h>
#include <torchlora/nn/multihead_attention.h>

#include "support.h"

namespace torchlora {
namespace {

namespace fs = std::filesystem;
using at::Tensor;
using Options = torch::nn::MultiheadAttentionOptions;

struct NetImpl : torch::nn::Module {
  explicit NetImpl(const Options& options = Options(12, 3)) : mha(options) {
    register_module("mha", mha);
    head = register_module("head", nn::Linear(12, 4));
  }
  nn::MultiheadAttention mha;
  nn::Linear head{nullptr};
};

class AttentionGoldens : public testing::TestWithParam<const char*>,
                         public Goldens {
 protected:
  AttentionGoldens() : Goldens("attention.safetensors", GetParam()) {}
};

TEST_P(AttentionGoldens, ForwardGradientsAndMergeAreThoseOfPeft) {
  auto net = test::make_module<NetImpl>();
  torch::NoGradGuard no_grad;
  for (const auto& item : net->mha->named_parameters()) {
    item.value().copy_(golden("base." + item.key()));
  }
  auto peft = get_peft_model(
      *net,
      LoraConfig(4).lora_alpha(6).target_modules({"mha"}).use_rslora(
          std::string(GetParam()) == "rslora"));
  const std::string prefix = "base_model.model.mha.";
  auto tensors = peft.state_dict();
  EXPECT_EQ(tensors.size(), 4U);
  for (auto& item : tensors) {
    item.value().copy_(golden("adapter." + item.key().substr(prefix.size())));
  }
  const auto run = [&] {
    const auto key = golden("key");
    return net->mha->forward(
        golden("query"),
        key,
        key,
        golden("key_padding_mask").to(at::kBool),
        /*need_weights=*/true,
        golden("attn_mask"));
  };
  {
    torch::AutoGradMode grad(true);
    const auto [output, attention] = run();
    expect(output, "output");
    expect(attention, "attention");
    (output * golden("weight")).sum().backward();
  }
  for (auto& item : tensors) {
    expect(item.value().grad(), "grad." + item.key().substr(prefix.size()));
  }
  peft.merge_and_unload();
  expect(std::get<0>(run()), "output");
  for (const auto& item : net->mha->named_parameters()) {
    expect(item.value(), "merged." + item.key());
  }
}

INSTANTIATE_TEST_SUITE_P(
    All,
    AttentionGoldens,
    testing::Values("plain", "rslora"));

/// Against LibTorch's layer with the dense merged weights, in fp64, for what
/// is the same tensor among query, key and value.
class AttentionInputs : public testing::TestWithParam<const char*> {};

TEST_P(AttentionInputs, AreProjectedAsByTheDenseWeights) {
  const std::string kind = GetParam();
  torch::manual_seed(4);
  const auto query = test::randn({5, 2, 12}, torch::kDouble);
  const auto key =
      kind == "self" ? query : test::randn({7, 2, 12}, torch::kDouble);
  const auto value =
      kind == "different" ? test::randn({7, 2, 12}, torch::kDouble) : key;
  const auto S = key.size(0);
  auto padding = test::zeros({2, S}, torch::kBool);
  padding[0][S - 1] = true;
  const auto mask = test::randn({5, S}, torch::kDouble);
  for (const bool bias : {true, false}) {
    for (const bool extra : {true, false}) {
      const auto options =
          Options(12, 3).bias(bias).add_bias_kv(extra).add_zero_attn(extra);
      auto net = test::make_module<NetImpl>(options);
      net->to(torch::kDouble);
      if (bias) { // LibTorch's are zero
        torch::NoGradGuard no_grad;
        net->mha->in_proj_bias.normal_();
        net->mha->out_proj->bias.normal_();
      }
      auto peft = get_peft_model(*net, LoraConfig(3).target_modules({"mha"}));
      randomize(peft);
      auto dense = test::on_device(torch::nn::MultiheadAttention(options));
      {
        torch::NoGradGuard no_grad;
        dense->to(torch::kDouble);
        const auto layers = peft.layers();
        dense->in_proj_weight.copy_(
            net->mha->in_proj_weight +
            layers[0].second->get_delta_weight("default"));
        dense->out_proj->weight.copy_(
            net->mha->out_proj->weight +
            layers[1].second->get_delta_weight("default"));
        if (bias) {
          dense->in_proj_bias.copy_(net->mha->in_proj_bias);
          dense->out_proj->bias.copy_(net->mha->out_proj->bias);
        }
        if (extra) {
          dense->bias_k.copy_(net->mha->bias_k);
          dense->bias_v.copy_(net->mha->bias_v);
        }
      }
      for (const bool average : {true, false}) {
        const auto [expected, weights] =
            dense(query, key, value, padding, true, mask, average);
        const auto [output, found] =
            net->mha(query, key, value, padding, true, mask, average);
        EXPECT_LT(difference(output, expected), 1e-12);
        EXPECT_LT(difference(found, weights), 1e-12);
      }
      const auto expected =
          std::get<0>(dense(query, key, value, padding, true, mask));
      const auto [output, none] =
          net->mha(query, key, value, padding, false, mask);
      EXPECT_LT(difference(output, expected), 1e-12);
      EXPECT_FALSE(none.defined());
      // The gradient of A and B: merging is the same function of them.
      const auto A = peft.layers()[0].second->find_adapter("default")->lora_A;
      output.square().sum().backward();
      expected.square().sum().backward();
      const auto& adapter = *peft.layers()[0].second->find_adapter("default");
      EXPECT_LT(
          difference(
              A->weight.grad(),
              adapter.scaling *
                  at::mm(
                      adapter.lora_B->weight.t(),
                      dense->in_proj_weight.grad())),
          1e-11);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All,
    AttentionInputs,
    testing::Values("self", "same key and value", "different"));

TEST(MultiheadAttention, MasksMayBeBooleanFloatingAndOfEachHead) {
  torch::manual_seed(5);
  auto mha = test::on_device(nn::MultiheadAttention(12, 3));
  const auto x = test::randn({4, 2, 12});
  const auto causal = test::ones({4, 4}, torch::kBool).triu(1);
  const auto added = test::zeros({4, 4}).masked_fill(causal, -INFINITY);
  const auto by_head = causal.expand({6, 4, 4});
  const auto expected = std::get<0>(mha(x, x, x, Tensor(), true, added));
  for (const auto& mask : {causal, by_head.contiguous(), added}) {
    for (const bool need_weights : {false, true}) {
      EXPECT_LT(
          difference(
              std::get<0>(mha(x, x, x, Tensor(), need_weights, mask)),
              expected),
          1e-6);
    }
  }
}

TEST(MultiheadAttention, ACloneOfTheModelIsWholeAndItsOwn) {
  struct ModelImpl : torch::nn::Cloneable<ModelImpl> {
    ModelImpl() {
      ModelImpl::reset();
    }
    void reset() override {
      mha = register_module("mha", nn::MultiheadAttention(12, 3));
    }
    nn::MultiheadAttention mha{nullptr};
  };
  auto model = test::make_module<ModelImpl>();
  auto copy = std::dynamic_pointer_cast<ModelImpl>(model->clone());
  torch::NoGradGuard no_grad;
  const auto x = test::randn({4, 2, 12});
  const auto expected = std::get<0>(model->mha(x, x, x));
  EXPECT_TRUE(torch::equal(std::get<0>(copy->mha(x, x, x)), expected));
  auto peft = get_peft_model(*copy, LoraConfig(2).target_modules({"mha"}));
  randomize(peft);
  const auto adapted = std::get<0>(copy->mha(x, x, x));
  EXPECT_GT(difference(adapted, expected), 1e-3);
  peft.merge_and_unload();
  EXPECT_LT(difference(std::get<0>(copy->mha(x, x, x)), adapted), 1e-5);
  EXPECT_TRUE(torch::equal(std::get<0>(model->mha(x, x, x)), expected));
}

TEST(MultiheadAttention, ItsDropoutActsInTraining) {
  auto mha =
      test::on_device(nn::MultiheadAttention(Options(12, 3).dropout(0.5)));
  const auto x = test::randn({4, 2, 12});
  for (const bool need_weights : {false, true}) {
    mha->train();
    const auto first = std::get<0>(mha(x, x, x, Tensor(), need_weights));
    EXPECT_GT(
        difference(std::get<0>(mha(x, x, x, Tensor(), need_weights)), first),
        1e-4);
    mha->eval();
    const auto second = std::get<0>(mha(x, x, x, Tensor(), need_weights));
    EXPECT_TRUE(torch::equal(
        std::get<0>(mha(x, x, x, Tensor(), need_weights)), second));
  }
}

// A half-precision weight whose product LibTorch has no fast kernel for.
TEST(MultiheadAttention, FollowsTheComputeRoute) {
  torch::manual_seed(6);
  auto net = test::make_module<NetImpl>();
  net->to(torch::kBFloat16);
  auto peft = get_peft_model(*net, LoraConfig(3).target_modules({"mha"}));
  randomize(peft, "default", 0.1);
  const auto x = test::randn({4, 2, 12}, torch::kBFloat16);
  const auto y = test::randn({6, 2, 12}, torch::kBFloat16);
  nn::set_compute_route(nn::ComputeRoute::kUpcast);
  const auto upcast = std::get<0>(net->mha(x, y, y));
  nn::set_compute_route(nn::ComputeRoute::kNative);
  const auto native = std::get<0>(net->mha(x, y, y));
  nn::set_compute_route(std::nullopt);
  EXPECT_EQ(upcast.scalar_type(), torch::kBFloat16);
  EXPECT_LT(difference(upcast.to(at::kFloat), native.to(at::kFloat)), 0.05);
}

TEST(MultiheadAttention, OtherKeySizesComputeButAreRefused) {
  torch::manual_seed(7);
  const auto options = Options(12, 3).kdim(5).vdim(6);
  auto net = test::make_module<NetImpl>(options);
  auto dense = test::on_device(torch::nn::MultiheadAttention(options));
  torch::NoGradGuard no_grad;
  for (const auto& item : dense->named_parameters()) {
    item.value().copy_(net->mha->named_parameters()[item.key()]);
  }
  // LibTorch's layer wants keys and values of the same size for no reason.
  const auto query = test::randn({4, 2, 12});
  const auto key = test::randn({3, 2, 5}), value = test::randn({3, 2, 6});
  const auto project = [&](const Tensor& x, const Tensor& weight) {
    return at::linear(x, weight);
  };
  auto inner = test::on_device(torch::nn::MultiheadAttention(12, 3));
  inner->in_proj_weight.copy_(test::eye(12).repeat({3, 1}));
  inner->out_proj->weight.copy_(dense->out_proj->weight);
  const auto expected = std::get<0>(inner(
      project(query, dense->q_proj_weight),
      project(key, dense->k_proj_weight),
      project(value, dense->v_proj_weight)));
  EXPECT_LT(
      difference(std::get<0>(net->mha(query, key, value)), expected), 1e-5);
  EXPECT_NE(
      refusal(*net, LoraConfig(2).target_modules({"mha"}))
          .find("only same embed for query/key/value"),
      std::string::npos);
  EXPECT_TRUE(net->named_parameters().contains("mha.out_proj.weight"));
}

TEST(MultiheadAttention, AFileFitsTheLayerOfLibTorchToo) {
  if (!has_weight_overlay()) {
    GTEST_SKIP() << "no weight overlay";
  }
  const auto folder = fs::path(testing::TempDir()) / "attention_unmodified";
  struct OtherImpl : torch::nn::Module {
    torch::nn::MultiheadAttention mha =
        register_module("mha", torch::nn::MultiheadAttention(12, 3));
  };
  auto net = test::make_module<NetImpl>();
  auto other = test::make_module<OtherImpl>();
  torch::NoGradGuard no_grad;
  for (const auto& item : other->named_parameters()) {
    item.value().copy_(net->named_parameters()[item.key()]);
  }
  auto peft = get_peft_model(
      *net, LoraConfig(2).target_modules({"mha"}).init_lora_weights(false));
  peft.save_pretrained(folder);
  PeftModel::from_pretrained(*other, folder);
  const auto q = test::randn({3, 2, 12}), k = test::randn({5, 2, 12}),
             v = test::randn({5, 2, 12});
  for (const auto& [key, value] : {std::pair(k, v), std::pair(k, k)}) {
    EXPECT_LT(
        difference(
            std::get<0>(other->mha(q, key, value)),
            std::get<0>(net->mha(q, key, value))),
        1e-5);
  }
  EXPECT_LT(
      difference(
          std::get<0>(other->mha(q, q, q)), std::get<0>(net->mha(q, q, q))),
      1e-5);
}

// The wrapped out_proj is a part of the layer: PEFT wraps it when it is named
// alone too, but then it has no effect there.
TEST(MultiheadAttention, ItsOutProjIsAdaptedWithItAndNeverAlone) {
  auto net = test::make_module<NetImpl>();
  EXPECT_NE(
      refusal(*net, LoraConfig(2).target_modules({"out_proj"}))
          .find("not found"),
      std::string::npos);
  auto all = get_peft_model(*net, LoraConfig(2).target_modules("all-linear"));
  ASSERT_EQ(all.layers().size(), 1U);
  EXPECT_EQ(all.layers()[0].first, "head");
  all.unload();

  auto peft = get_peft_model(
      *net,
      LoraConfig(2)
          .target_modules({"mha", "head"})
          .rank_pattern({{"mha", 3}})
          .alpha_pattern({{"mha", 5}}));
  std::vector<std::string> names;
  for (const auto& [name, layer] : peft.layers()) {
    names.push_back(name);
    const auto* adapter = layer->find_adapter("default");
    EXPECT_EQ(adapter->r, name == "head" ? 2 : 3) << name;
    EXPECT_EQ(adapter->lora_alpha, name == "head" ? 8 : 5) << name;
  }
  EXPECT_EQ(names, (std::vector<std::string>{"mha", "mha.out_proj", "head"}));
  const auto parameters = net->named_parameters();
  for (const char* name :
       {"mha.base_layer.in_proj_weight",
        "mha.lora_A.default.weight",
        "mha.base_layer.out_proj.base_layer.weight",
        "mha.base_layer.out_proj.lora_B.default.weight"}) {
    EXPECT_TRUE(parameters.contains(name)) << name;
  }
  for (const char* key :
       {"lora_A.weight",
        "lora_B.weight",
        "base_layer.out_proj.lora_A.weight",
        "base_layer.out_proj.lora_B.weight"}) {
    EXPECT_TRUE(
        peft.state_dict().contains(std::string("base_model.model.mha.") + key))
        << key;
  }
  const auto folder = fs::path(testing::TempDir()) / "attention_parts";
  peft.save_pretrained(folder);
  const auto saved = load_adapter_config(folder);
  EXPECT_EQ(
      saved.target_modules().list(), (std::vector<std::string>{"mha", "head"}));
  EXPECT_EQ(saved.rank_pattern(), (LoraConfig::Pattern{{"mha", 3}}));
}

TEST(MultiheadAttention, AWeightedCombinationTakesBothParts) {
  torch::manual_seed(8);
  auto net = test::make_module<NetImpl>();
  const auto config = LoraConfig(3).target_modules({"mha"});
  auto peft = get_peft_model(*net, config);
  randomize(peft);
  peft.add_adapter("second", LoraConfig(config).init_lora_weights(false));
  peft.add_weighted_adapter({"default", "second"}, {0.5, 2}, "both", {"cat"});
  torch::NoGradGuard no_grad;
  ASSERT_EQ(peft.layers().size(), 2U);
  for (const auto& [name, layer] : peft.layers()) {
    EXPECT_LT(
        difference(
            layer->get_delta_weight("both"),
            0.5 * layer->get_delta_weight("default") +
                2 * layer->get_delta_weight("second")),
        1e-5)
        << name;
  }
}

} // namespace
} // namespace torchlora
