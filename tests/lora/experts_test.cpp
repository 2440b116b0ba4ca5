// target_parameters: stacked weights of experts, against peft's goldens
// (tests/reference/make_special_layer_goldens.py) and the dense formula.
#include <filesystem>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/io/peft.h>
#include <torchlora/io/safetensors.h>
#include <torchlora/lora/experts.h>
#include <torchlora/model.h>
#include <torchlora/nn/linear.h>

namespace torchlora {
namespace {

namespace fs = std::filesystem;
using at::Tensor;

double difference(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return (a - b).abs().max().item<double>();
}

/// As a model has them: x [T, 6] and the expert of each row → [T, 7].
struct ExpertsImpl : torch::nn::Cloneable<ExpertsImpl>, nn::StackedExperts {
  ExpertsImpl(int64_t experts, bool is_transposed)
      : StackedExperts(is_transposed), experts_(experts) {
    ExpertsImpl::reset();
  }
  void reset() override {
    const auto parameter = [&](const char* name, int64_t out, int64_t in) {
      const auto sizes = experts_ == 1 ? std::vector<int64_t>{out, in}
          : is_transposed()            ? std::vector<int64_t>{experts_, in, out}
                            : std::vector<int64_t>{experts_, out, in};
      return register_parameter(name, torch::randn(sizes).mul_(0.4));
    };
    up_proj = parameter("up_proj", 10, 6);
    scale = register_parameter("scale", torch::ones({10}));
    down_proj = parameter("down_proj", 7, 10);
  }
  Tensor forward(const Tensor& x, const Tensor& ids) {
    const auto [order, counts] = nn::sort_by_expert(ids, experts_);
    auto h = expert_linear("up_proj", x.index_select(0, order), counts);
    h = expert_linear("down_proj", h.tanh() * scale, counts);
    return h.index_select(0, order.argsort());
  }
  int64_t experts_;
  Tensor up_proj, scale, down_proj;
};
TORCH_MODULE(Experts);

struct NetImpl : torch::nn::Module {
  explicit NetImpl(int64_t experts = 4, bool is_transposed = false)
      : layer(register_module("layer", Experts(experts, is_transposed))),
        head(register_module("head", nn::Linear(7, 3))) {}
  Experts layer;
  nn::Linear head;
  Tensor own = register_parameter("own", torch::ones({2, 2}));
};

const std::vector<std::string> kBoth{"layer.down_proj", "up_proj"};
const auto kIds = torch::tensor({3, 0, 2, 2, 0, 3, 3, 0, 2});

LoraConfig config(std::vector<std::string> parameters = kBoth) {
  return LoraConfig(2).lora_alpha(3).target_parameters(std::move(parameters));
}

void randomize(const PeftModel& peft, const std::string& adapter = "default") {
  torch::NoGradGuard no_grad;
  for (const auto& [name, layer] : peft.layers()) {
    for (auto& tensor : layer->find_adapter(adapter)->tensors()) {
      tensor.normal_(0, 0.4);
    }
  }
}

std::string refusal(torch::nn::Module& model, const LoraConfig& config) {
  try {
    get_peft_model(model, config);
  } catch (const c10::ValueError& e) {
    return e.what_without_backtrace();
  }
  return "";
}

class ExpertGoldens
    : public testing::TestWithParam<std::tuple<const char*, const char*>> {
 protected:
  Tensor golden(const std::string& name) const {
    return file_.tensor(
        std::string(std::get<0>(GetParam())) + "_" + std::get<1>(GetParam()) +
        "/" + name);
  }
  void expect(const Tensor& value, const std::string& name) const {
    const auto expected = golden(name);
    EXPECT_LT(
        difference(value, expected),
        1e-5 * std::max(1.0, expected.abs().max().item<double>()))
        << name;
  }
  io::SafetensorsFile file_{
      fs::path(TORCHLORA_TEST_DATA) / "lora" / "experts.safetensors"};
};

TEST_P(ExpertGoldens, ForwardGradientsAndMergeAreThoseOfPeft) {
  const std::string kind = std::get<0>(GetParam());
  auto net =
      std::make_shared<NetImpl>(kind == "single" ? 1 : 4, kind == "transposed");
  auto peft = get_peft_model(
      *net,
      config().use_rslora(std::string(std::get<1>(GetParam())) == "rslora"));
  torch::NoGradGuard no_grad;
  for (const auto& item : net->layer->named_parameters()) {
    item.value().copy_(golden("base." + item.key()));
  }
  const std::string prefix = "base_model.model.layer.";
  auto tensors = peft.state_dict();
  EXPECT_EQ(tensors.size(), 4U);
  for (auto& item : tensors) {
    item.value().copy_(golden("adapter." + item.key().substr(prefix.size())));
  }
  const auto run = [&] { return net->layer(golden("input"), golden("ids")); };
  {
    torch::AutoGradMode grad(true);
    const auto output = run();
    expect(output, "output");
    (output * golden("weight")).sum().backward();
  }
  for (auto& item : tensors) {
    expect(item.value().grad(), "grad." + item.key().substr(prefix.size()));
  }
  peft.merge_adapter();
  expect(run(), "output");
  {
    const auto guard = peft.disable_adapter();
    const auto disabled = run();
    peft.unmerge_adapter();
    EXPECT_LT(difference(run(), disabled), 1e-5);
    expect(net->layer->up_proj, "base.up_proj");
  }
  peft.merge_and_unload(/*safe_merge=*/true);
  expect(run(), "output");
  for (const auto& item : net->layer->named_parameters()) {
    expect(item.value(), "merged." + item.key());
  }
}

INSTANTIATE_TEST_SUITE_P(
    All,
    ExpertGoldens,
    testing::Combine(
        testing::Values("stacked", "transposed", "single"),
        testing::Values("plain", "rslora")));

/// [E, out, in] and [E, in, out].
class StackedLayout : public testing::TestWithParam<bool> {};

TEST_P(StackedLayout, TwoAdaptersHaveTheGradientsOfTheDenseFormula) {
  torch::manual_seed(1);
  auto net = std::make_shared<NetImpl>(4, GetParam());
  net->to(torch::kDouble);
  auto peft = get_peft_model(*net, config());
  peft.add_adapter("second", config().r(3));
  randomize(peft);
  randomize(peft, "second");
  peft.set_adapter({"default", "second"});
  const auto x = torch::randn({9, 6}, torch::kDouble).requires_grad_();
  const auto weight = torch::randn({9, 7}, torch::kDouble);
  const auto output = net->layer(x, kIds);
  (output * weight).sum().backward();

  // W_e = s B[:, k E + e] A[e r + k, :], row by row.
  std::vector<Tensor> found, leaves, dense;
  for (const auto& [name, layer] : peft.layers()) {
    auto W = layer->base_weight().by_expert().detach();
    for (const auto& adapter : layer->adapters()) {
      const auto leaf = [&](const Tensor& value) {
        found.push_back(value.grad());
        leaves.push_back(value.detach().clone().requires_grad_());
        return leaves.back();
      };
      const auto A = leaf(adapter.lora_A->weight);
      const auto B = leaf(adapter.lora_B->weight);
      std::vector<Tensor> deltas;
      for (int64_t e = 0; e < 4; ++e) {
        deltas.push_back(
            adapter.scaling *
            at::mm(
                B.slice(1, e, std::nullopt, 4),
                A.slice(0, e * adapter.r, (e + 1) * adapter.r)));
      }
      W = W + at::stack(deltas);
    }
    dense.push_back(W);
  }
  const auto x2 = x.detach().clone().requires_grad_();
  const auto h = at::einsum("toi,ti->to", {dense[0].index({kIds}), x2}).tanh();
  const auto expected = at::einsum("toi,ti->to", {dense[1].index({kIds}), h});
  EXPECT_LT(difference(output, expected), 1e-12);
  (expected * weight).sum().backward();
  for (size_t i = 0; i < leaves.size(); ++i) {
    EXPECT_LT(difference(found[i], leaves[i].grad()), 1e-12);
  }
  EXPECT_LT(difference(x.grad(), x2.grad()), 1e-12);

  torch::NoGradGuard no_grad;
  peft.merge_adapter();
  EXPECT_LT(difference(net->layer(x, kIds), output), 1e-12);
  peft.unmerge_adapter();
  EXPECT_LT(difference(net->layer(x, kIds), output), 1e-12);
  peft.delete_adapter("second");
  EXPECT_GT(difference(net->layer(x, kIds), output), 1e-3);
}

TEST_P(StackedLayout, InitialisersSaveAndLoadAndDtypes) {
  torch::manual_seed(2);
  const auto folder = fs::path(testing::TempDir()) / "experts_adapter";
  auto net = std::make_shared<NetImpl>(4, GetParam());
  const auto x = torch::randn({9, 6});
  torch::NoGradGuard no_grad;
  const auto base = net->layer(x, kIds);
  for (const auto& init :
       {InitLoraWeights(true), InitLoraWeights("gaussian")}) {
    auto peft = get_peft_model(*net, config().init_lora_weights(init));
    EXPECT_TRUE(torch::equal(net->layer(x, kIds), base));
    const auto A = peft.layers()[0].second->find_adapter("default")->lora_A;
    EXPECT_GT(A->weight.abs().min().item<double>(), 0);
    peft.unload();
  }
  auto peft = get_peft_model(*net, config().init_lora_weights(false));
  const auto adapted = net->layer(x, kIds);
  EXPECT_GT(difference(adapted, base), 1e-3);
  peft.save_pretrained(folder);
  EXPECT_THROW(peft.save_pretrained(folder, {}, folder), c10::ValueError);
  peft.unload();
  EXPECT_TRUE(torch::equal(net->layer(x, kIds), base));
  auto loaded = PeftModel::from_pretrained(*net, folder);
  EXPECT_TRUE(torch::equal(net->layer(x, kIds), adapted));
  EXPECT_EQ(loaded.peft_config().target_parameters(), kBoth);
  EXPECT_TRUE(loaded.peft_config().target_modules().list().empty());
  loaded.unload();

  net->to(torch::kBFloat16);
  auto half = get_peft_model(*net, config().init_lora_weights(false));
  for (const auto& parameter : half.trainable_parameters()) {
    EXPECT_EQ(parameter.scalar_type(), torch::kFloat);
  }
  const auto rounded = net->layer(x.to(torch::kBFloat16), kIds);
  EXPECT_EQ(rounded.scalar_type(), torch::kBFloat16);
  half.merge_adapter();
  EXPECT_LT(
      difference(
          net->layer(x.to(torch::kBFloat16), kIds).to(torch::kFloat),
          rounded.to(torch::kFloat)),
      0.05);
}

INSTANTIATE_TEST_SUITE_P(All, StackedLayout, testing::Bool());

// The order is that of the module's parameters, not that of the list.
TEST(TargetParameters, NestAsInPeftInAnyOrderOfTheList) {
  for (const bool reversed : {false, true}) {
    auto net = std::make_shared<NetImpl>();
    auto list = kBoth;
    if (reversed) {
      std::reverse(list.begin(), list.end());
    }
    auto peft = get_peft_model(*net, config(list).target_modules({"head"}));
    std::vector<std::string> names;
    for (const auto& [name, layer] : peft.layers()) {
      names.push_back(name);
    }
    EXPECT_EQ(
        names,
        (std::vector<std::string>{"layer.up_proj", "layer.down_proj", "head"}));
    const auto tensors = peft.state_dict();
    const std::string prefix = "base_model.model.layer.";
    EXPECT_EQ(
        tensors[prefix + "base_layer.lora_A.weight"].sizes(),
        (std::vector<int64_t>{8, 6}));
    EXPECT_EQ(
        tensors[prefix + "base_layer.lora_B.weight"].sizes(),
        (std::vector<int64_t>{10, 8}));
    EXPECT_EQ(
        tensors[prefix + "lora_A.weight"].sizes(),
        (std::vector<int64_t>{8, 10}));
    EXPECT_TRUE(net->named_parameters().contains(
        "layer.base_layer.base_layer.up_proj"));
    for (const auto& item : net->named_parameters()) {
      EXPECT_EQ(
          item.value().requires_grad(),
          item.key().find("lora_") != std::string::npos)
          << item.key();
    }
    peft.unload();
    EXPECT_TRUE(net->named_parameters().contains("layer.up_proj"));
    EXPECT_EQ(net->named_children()["layer"], net->layer.ptr());
  }
  auto net = std::make_shared<NetImpl>();
  auto one = get_peft_model(*net, config({"up_proj"}));
  EXPECT_TRUE(
      one.state_dict().contains("base_model.model.layer.lora_A.weight"));
}

TEST(TargetParameters, PatternsGoByTheParametersName) {
  const auto folder = fs::path(testing::TempDir()) / "experts_patterns";
  auto net = std::make_shared<NetImpl>();
  auto peft = get_peft_model(
      *net,
      config()
          .rank_pattern({{"up_proj", 3}})
          .alpha_pattern({{"down_proj", 5}}));
  const auto up = peft.layers()[0].second->find_adapter("default");
  const auto down = peft.layers()[1].second->find_adapter("default");
  EXPECT_EQ(up->lora_A->weight.size(0), 12);
  EXPECT_EQ(down->lora_alpha, 5);
  peft.save_pretrained(folder);
  const auto saved = io::load_adapter_config(folder);
  EXPECT_EQ(saved.rank_pattern(), (LoraConfig::Pattern{{"up_proj", 3}}));
  EXPECT_EQ(saved.alpha_pattern(), (LoraConfig::Pattern{{"down_proj", 5}}));
}

TEST(TargetParameters, WhatPeftRefusesIsRefusedByName) {
  auto net = std::make_shared<NetImpl>();
  const std::vector<std::pair<LoraConfig, const char*>> cases{
      {config().lora_dropout(0.1), "lora_dropout"},
      {config().lora_bias(true), "lora_bias"},
      {config().use_dora(true), "use_dora"},
      {config().fan_in_fan_out(true), "fan_in_fan_out"},
      {config().init_lora_weights("pissa"), "\"pissa\""},
      {config().init_lora_weights("olora"), "\"olora\""},
      {config({"scale"}), "1 dimensions"},
      {config({"own"}), "top-level"},
      {config({"head.weight"}), "nn::StackedExperts"},
      {config({"head.weight"}).target_modules({"head"}), "nn::StackedExperts"},
      {config({"gate"}), "no `target_parameters` found"},
  };
  for (const auto& [bad, expected] : cases) {
    EXPECT_NE(refusal(*net, bad).find(expected), std::string::npos)
        << expected << ": " << refusal(*net, bad);
    EXPECT_TRUE(net->named_parameters().contains("layer.up_proj"));
  }
  auto peft = get_peft_model(*net, config());
  EXPECT_THROW(peft.add_adapter("b", config({"up_proj"})), c10::ValueError);
  peft.add_adapter("head", LoraConfig(2).target_modules({"head"}));
  peft.add_adapter("same", config());
  EXPECT_THROW(
      peft.add_weighted_adapter({"default", "same"}, {1, 1}, "sum"),
      c10::ValueError);
  peft.unload();
  auto one = get_peft_model(*net, config({"up_proj"}));
  EXPECT_THROW(one.add_adapter("b", config()), c10::ValueError);
}

TEST(TargetParameters, WhatMatchedNothingIsSaid) {
  struct Handler : c10::WarningHandler {
    void process(const c10::Warning& warning) override {
      text += warning.msg() + "\n";
    }
    std::string text;
  };
  const auto warnings = [](const LoraConfig& config) {
    Handler handler;
    const c10::WarningUtils::WarningHandlerGuard guard(&handler);
    auto net = std::make_shared<NetImpl>();
    get_peft_model(*net, config);
    return handler.text;
  };
  EXPECT_EQ(warnings(config()), "");
  EXPECT_NE(
      warnings(config({"up_proj", "gate"}))
          .find("target_parameters matched no parameter: ['gate']"),
      std::string::npos);
  EXPECT_NE(
      warnings(config({"gate"}).target_modules({"head"})).find("['gate']"),
      std::string::npos);
  EXPECT_NE(
      warnings(config().target_modules({"tail"})).find("['tail']"),
      std::string::npos);
}

TEST(TargetParameters, AModuleInsideOfTheExpertsIsNotAdaptedWithThem) {
  struct OuterImpl : torch::nn::Module, nn::StackedExperts {
    Tensor up = register_parameter("up", torch::randn({2, 3, 4}));
    nn::Linear gate = register_module("gate", nn::Linear(4, 2));
  };
  struct HolderImpl : torch::nn::Module {
    std::shared_ptr<OuterImpl> experts =
        register_module("experts", std::make_shared<OuterImpl>());
  };
  auto net = std::make_shared<HolderImpl>();
  EXPECT_NE(
      refusal(*net, config({"experts.up"}).target_modules({"gate"}))
          .find("experts.gate"),
      std::string::npos);
  auto peft = get_peft_model(*net, config({"experts.up"}));
  EXPECT_EQ(peft.layers().size(), 1U);
}

TEST(StackedExperts, ClonesUnlessAdapted) {
  auto net = std::make_shared<NetImpl>();
  const auto x = torch::randn({9, 6});
  auto copy = std::dynamic_pointer_cast<ExpertsImpl>(net->layer->clone());
  EXPECT_TRUE(torch::equal(copy->forward(x, kIds), net->layer(x, kIds)));
  auto peft = get_peft_model(*net, config());
  EXPECT_THROW(net->layer->clone(), c10::Error);
  peft.unload();
  EXPECT_NO_THROW(net->layer->clone());
}

TEST(StackedExperts, ChecksWhatItIsGiven) {
  struct OpenImpl : ExpertsImpl {
    using ExpertsImpl::expert_linear;
    using ExpertsImpl::ExpertsImpl;
  };
  OpenImpl experts(3, false);
  const auto x = torch::randn({4, 6});
  EXPECT_THROW(experts.expert_linear("up_proj", x, {2, 2}), c10::ValueError);
  EXPECT_THROW(experts.expert_linear("up_proj", x, {1, 1, 1}), c10::ValueError);
  EXPECT_THROW(experts.expert_linear("gate", x, {4, 0, 0}), c10::ValueError);
  EXPECT_THROW(experts.expert_product("up_proj").base_forward(x), c10::Error);
  EXPECT_THROW(nn::sort_by_expert(torch::tensor({0, 3}), 3), c10::ValueError);
  EXPECT_EQ(
      experts.expert_linear("up_proj", x.narrow(0, 0, 0), {0, 0, 0}).sizes(),
      (std::vector<int64_t>{0, 10}));
}

} // namespace
} // namespace torchlora
