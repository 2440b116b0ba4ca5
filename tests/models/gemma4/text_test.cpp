#include <algorithm>
#include <map>

#include "device/device.h"
#include "models/gemma4/tiny.h"

#include <torchlora/model.h>
#include <torchlora/models/gemma4/model.h>
#include <torchlora/nn/compute.h>

namespace torchlora::gemma4 {
namespace {
namespace fs = std::filesystem;

struct Reference {
  explicit Reference(const std::string& variant)
      : file(kTiny / variant / "reference.safetensors"),
        json(read_json(kTiny / variant / "reference.json")) {}
  at::Tensor operator[](const std::string& key) const {
    return test::on_device(file.tensor(key));
  }
  io::SafetensorsFile file;
  nlohmann::json json;
};

Gemma4ForCausalLM load(const std::string& variant, at::ScalarType dtype) {
  return load_checkpoint(kTiny / variant, {dtype});
}

/// Largest difference where `mask` [B, T] is 1.
double largest_difference(
    const at::Tensor& a,
    const at::Tensor& b,
    const at::Tensor& mask) {
  const auto keep = mask.to(at::kBool);
  return (a.to(at::kFloat).index({keep}) - b.to(at::kFloat).index({keep}))
      .abs()
      .max()
      .item<double>();
}

class Gemma4Text : public testing::TestWithParam<std::string> {};

TEST_P(Gemma4Text, LogitsAndStatesEqualTransformers) {
  const Reference reference(GetParam());
  auto model = load(GetParam(), at::kFloat);
  torch::NoGradGuard no_grad;
  const auto ids = reference["text.in.input_ids"];
  const auto mask = reference["text.in.attention_mask"];
  std::vector<at::Tensor> states;
  const auto last = model->language_model()->forward(ids, mask, &states);
  for (size_t i = 0; i < states.size(); ++i) {
    EXPECT_LT(
        largest_difference(
            states[i], reference["text.layer" + std::to_string(i)], mask),
        5e-4)
        << "layer " << i;
  }
  EXPECT_LT(largest_difference(last, reference["text.final_norm"], mask), 5e-4);
  EXPECT_LT(
      largest_difference(model(ids, mask), reference["text.logits"], mask),
      5e-4);
  const auto plain = reference["plain.in.input_ids"];
  EXPECT_LT(
      largest_difference(
          model(plain), reference["plain.logits"], torch::ones_like(plain)),
      5e-4);
}

TEST_P(Gemma4Text, GradientNormsEqualTransformers) {
  const Reference reference(GetParam());
  auto model = load(GetParam(), at::kFloat);
  const auto logits = model(
      reference["text.in.input_ids"], reference["text.in.attention_mask"]);
  const auto vocab = logits.size(-1);
  const auto loss = torch::nn::functional::cross_entropy(
      logits.slice(1, 0, -1).reshape({-1, vocab}),
      reference["text.in.labels"].slice(1, 1).reshape(-1));
  EXPECT_NEAR(loss.item<double>(), reference.json["loss"].get<double>(), 1e-4);
  loss.backward();
  int64_t compared = 0;
  for (const auto& item : model->named_parameters()) {
    const auto& norms = reference.json["grad_norms"];
    ASSERT_TRUE(norms.contains(item.key())) << item.key();
    ASSERT_TRUE(item.value().grad().defined()) << item.key();
    const auto expected = norms[item.key()].get<double>();
    EXPECT_NEAR(
        item.value().grad().norm().item<double>(), expected, 1e-3 * expected)
        << item.key();
    ++compared;
  }
  EXPECT_EQ(
      compared, static_cast<int64_t>(reference.json["grad_norms"].size()));
}

TEST_P(Gemma4Text, BothConfigDialectsGiveTheSameModel) {
  const auto copy = make_folder("copy");
  fs::copy(kTiny / GetParam() / "model.safetensors", copy);
  fs::copy(kTiny / GetParam() / "config_resaved.json", copy / "config.json");
  torch::NoGradGuard no_grad;
  const auto ids = Reference(GetParam())["plain.in.input_ids"];
  EXPECT_TRUE(torch::equal(
      load(GetParam(), at::kFloat)(ids),
      load_checkpoint(copy, {at::kFloat})(ids)));
}

// transformers' own bf16 run is the measure.
TEST_P(Gemma4Text, Bf16ErrorIsThatOfTransformers) {
  const Reference reference(GetParam());
  const auto ids = reference["text.in.input_ids"];
  const auto mask = reference["text.in.attention_mask"];
  const auto last = [](const at::Tensor& t) { return t.slice(1, -6); };
  const auto rms = [&](const at::Tensor& logits) {
    const auto keep = last(mask).to(at::kBool);
    const auto exact = last(reference["text.logits"]).index({keep});
    return (logits.to(at::kFloat).index({keep}) - exact)
        .square()
        .mean()
        .sqrt()
        .item<double>();
  };
  const double theirs = rms(reference["text.logits.bf16"]);
  torch::NoGradGuard no_grad;
  auto model = load(GetParam(), at::kBFloat16);
  for (const auto route :
       {nn::ComputeRoute::kNative, nn::ComputeRoute::kUpcast}) {
    nn::set_compute_route(route);
    const double ours = rms(last(model(ids, mask)));
    nn::set_compute_route(std::nullopt);
    RecordProperty(
        route == nn::ComputeRoute::kNative ? "native" : "upcast",
        std::to_string(ours / theirs));
    // The weights are bf16 values, so that the upcast route computes what fp32
    // does, but for the scale of the embeddings.
    const bool is_upcast =
        route == nn::ComputeRoute::kUpcast && test::test_device().is_cpu();
    EXPECT_TRUE(ours > 0 || is_upcast);
    EXPECT_LE(ours, (is_upcast ? 0.2 : 1.5) * theirs);
  }
}

/// Gradients of all parameters of the language loss of some random tokens.
std::map<std::string, at::Tensor> gradients(
    const std::string& variant,
    at::ScalarType dtype,
    nn::ComputeRoute route,
    uint64_t seed) {
  auto model = load(variant, dtype);
  torch::manual_seed(seed);
  const auto ids = test::randint(494, 1010, {3, 24}, at::kLong);
  nn::set_compute_route(route);
  const auto logits = model(ids).to(at::kFloat);
  torch::nn::functional::cross_entropy(
      logits.slice(1, 0, -1).flatten(0, 1), ids.slice(1, 1).flatten())
      .backward();
  nn::set_compute_route(std::nullopt);
  std::map<std::string, at::Tensor> result;
  for (const auto& item : model->named_parameters()) {
    result[item.key()] = item.value().grad().to(at::kFloat);
  }
  return result;
}

// LibTorch's own bf16 kernels are the measure. The error of one batch scatters
// by 40 % between the routes, either way; the mean over batches does not.
TEST_P(Gemma4Text, Bf16GradientsOfTheUpcastRouteAreAsGoodAsNativeOnes) {
  double native = 0, upcast = 0;
  for (uint64_t seed = 0; seed < 12; ++seed) {
    const auto exact =
        gradients(GetParam(), at::kFloat, nn::ComputeRoute::kNative, seed);
    const auto error = [&](nn::ComputeRoute route) {
      double sum = 0;
      for (const auto& [name, g] :
           gradients(GetParam(), at::kBFloat16, route, seed)) {
        const auto& e = exact.at(name);
        sum += ((g - e).norm() / e.norm()).item<double>();
      }
      return sum / static_cast<double>(exact.size());
    };
    native += error(nn::ComputeRoute::kNative);
    upcast += error(nn::ComputeRoute::kUpcast);
  }
  EXPECT_GT(upcast, 0);
  EXPECT_LE(upcast, 1.5 * native);
}

TEST_P(Gemma4Text, PaddingOnTheRightNeedsNoMask) {
  const Reference reference(GetParam());
  const auto ids = reference["text.in.input_ids"];
  auto mask = torch::ones_like(ids);
  mask.index_put_({0, at::indexing::Slice(15)}, 0);
  mask.index_put_({1, at::indexing::Slice(5)}, 0);
  const auto run = [&](const at::Tensor& attention_mask) {
    auto model = load(GetParam(), at::kFloat);
    const auto logits = model(ids, attention_mask).index({mask.to(at::kBool)});
    logits.square().mean().backward();
    return std::pair(
        logits.detach(),
        model->language_model()->layers[0]->self_attn->k_proj->weight.grad());
  };
  const auto [logits, grad] = run({});
  const auto [masked_logits, masked_grad] = run(mask);
  EXPECT_TRUE(torch::allclose(logits, masked_logits, 1e-4, 1e-4));
  EXPECT_LT(
      ((grad - masked_grad).norm() / masked_grad.norm()).item<double>(), 1e-4);
}

TEST_P(Gemma4Text, FrozenWeightsGetNoGradientAndStopNone) {
  const Reference reference(GetParam());
  auto model = load(GetParam(), at::kFloat);
  for (const auto& parameter : model->parameters()) {
    parameter.set_requires_grad(false);
  }
  EXPECT_FALSE(model(reference["plain.in.input_ids"]).requires_grad());
  const auto& trained =
      model->language_model()->layers[0]->self_attn->k_norm->weight;
  trained.set_requires_grad(true);
  model(reference["plain.in.input_ids"]).square().mean().backward();
  for (const auto& item : model->named_parameters()) {
    EXPECT_EQ(
        item.value().grad().defined(),
        item.value().unsafeGetTensorImpl() == trained.unsafeGetTensorImpl())
        << item.key();
  }
  EXPECT_GT(trained.grad().norm().item<double>(), 0);
}

INSTANTIATE_TEST_SUITE_P(
    Tiny,
    Gemma4Text,
    testing::Values("E2B", "E4B", "31B", "E2B-96"),
    [](const auto& info) {
      auto name = info.param;
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

class RMSNormDtype : public testing::TestWithParam<at::ScalarType> {};

TEST_P(RMSNormDtype, ValuesAndGradientsEqualTheFormulaInDoublePrecision) {
  torch::manual_seed(0);
  const auto dtype = GetParam();
  const auto x = (test::randn({2, 3, 40}) * 3).to(dtype);
  const auto w = test::randn({40}).to(dtype);
  const auto g = test::randn({2, 3, 40}).to(dtype);
  RMSNorm norm(
      TensorSource([&](const std::string& name, at::IntArrayRef sizes) {
        EXPECT_EQ(name, "weight");
        EXPECT_EQ(sizes, w.sizes());
        return w;
      }),
      40,
      1e-6);
  auto xi = x.clone().requires_grad_();
  const auto y = norm(xi);
  y.backward(g);
  auto xd =
      x.to(at::kDouble, /*non_blocking=*/false, /*copy=*/true).requires_grad_();
  auto wd = w.detach()
                .to(at::kDouble, /*non_blocking=*/false, /*copy=*/true)
                .requires_grad_();
  const auto yd =
      xd * (xd.square().mean(-1, /*keepdim=*/true) + 1e-6).rsqrt() * wd;
  yd.backward(g.to(at::kDouble));
  const double rounding = dtype == at::kBFloat16 ? 1.0 / 256
      : dtype == at::kHalf                       ? 1.0 / 2048
      : dtype == at::kFloat                      ? 1e-6
                                                 : 1e-14;
  const auto compare = [&](const at::Tensor& a, const at::Tensor& exact) {
    ASSERT_EQ(a.scalar_type(), dtype);
    EXPECT_LE(
        (a.to(at::kDouble) - exact).abs().max().item<double>(),
        rounding * exact.abs().max().item<double>());
  };
  compare(y, yd);
  compare(xi.grad(), xd.grad());
  compare(norm->weight.grad(), wd.grad());
}

INSTANTIATE_TEST_SUITE_P(
    Floating,
    RMSNormDtype,
    testing::Values(at::kBFloat16, at::kHalf, at::kFloat, at::kDouble));

TEST(Gemma4Model, RefusesInputsOfTheWrongShapeOrType) {
  auto model = load("31B", at::kFloat);
  const auto ids = test::zeros({2, 3}, at::kLong);
  EXPECT_THROW(model(ids[0]), c10::ValueError);
  EXPECT_THROW(model(ids.to(at::kInt)), c10::ValueError);
  EXPECT_THROW(model(ids, test::ones({2, 4})), c10::ValueError);
}

TEST(Gemma4Model, TheHeadIsTiedAndNoModule) {
  auto model = load("E2B", at::kFloat);
  const auto head = model->lm_head();
  EXPECT_TRUE(
      head.weight.is_same(model->language_model()->embed_tokens->weight));
  EXPECT_EQ(head.final_logit_softcapping, 30);
  for (const auto& item : model->named_modules()) {
    EXPECT_EQ(item.key().find("lm_head"), std::string::npos) << item.key();
  }
}

// Its layers know their index and whose keys and values they read.
TEST(Gemma4Model, NeitherStacksItsLayersNorMergesIntoItsHead) {
  auto model = load("E2B", at::kFloat);
  const auto stacked = message_of<c10::ValueError>([&] {
    get_peft_model(
        *model,
        LoraConfig(2).target_modules({"q_proj"}).layer_replication({{0, 2}}));
  });
  EXPECT_NE(stacked.find("Could not locate the layers"), std::string::npos)
      << stacked;
  auto peft =
      get_peft_model(*model, LoraConfig(2).target_modules({"embed_tokens"}));
  const auto tied =
      message_of<c10::ValueError>([&] { peft.merge_and_unload(); });
  EXPECT_NE(tied.find("output head"), std::string::npos) << tied;
}

TEST(ScaledWordEmbedding, AnAdaptedTableKeepsTheScale) {
  auto model = load("E2B-96", at::kFloat);
  const auto ids = test::arange(8).unsqueeze(0);
  torch::NoGradGuard no_grad;
  const auto before = model(ids);
  auto peft = get_peft_model(
      *model,
      LoraConfig(2).target_modules({"embed_tokens", "embed_tokens_per_layer"}));
  EXPECT_TRUE(torch::equal(model(ids), before));
  EXPECT_THROW(
      model->language_model()->embed_tokens.ptr()->clone(), c10::Error);
}

// Looked up, scaled, and in the tied head.
TEST(Gemma4Model, TokenRowsAreThoseOfADenseTable) {
  auto model = load("E2B", at::kFloat);
  const auto ids = test::tensor({{2, 9, 17, 9, 30}, {17, 5, 6, 7, 2}});
  const std::vector<int64_t> tokens{17, 2, 9};
  const auto before = model(ids).detach();
  torch::manual_seed(1);
  auto peft = get_peft_model(
      *model,
      LoraConfig(2)
          .target_modules({"q_proj"})
          .trainable_token_indices(TrainableTokenIndices(tokens)));
  const auto table = model->language_model()->embed_tokens->weight;
  const auto key =
      "base_model.model.model.language_model.embed_tokens."
      "token_adapter.trainable_tokens_delta";
  const auto rows = peft.state_dict()[key];
  {
    torch::NoGradGuard no_grad;
    rows.add_(torch::randn_like(rows), 0.1);
  }
  const auto loss = [&](const at::Tensor& logits) {
    return logits.square().mean();
  };
  const auto adapted = model(ids);
  loss(adapted).backward();
  {
    const auto guard = peft.disable_adapter();
    EXPECT_TRUE(torch::equal(model(ids), before));
  }
  peft.merge_and_unload();
  table.set_requires_grad(true);
  const auto merged = model(ids);
  loss(merged).backward();
  EXPECT_GT((adapted - before).abs().max().item<double>(), 1e-2);
  EXPECT_LT((adapted - merged).abs().max().item<double>(), 1e-4);
  const auto expected = table.grad().index_select(0, test::tensor(tokens));
  EXPECT_LT(
      (rows.grad() - expected).abs().max().item<double>(),
      1e-5 * expected.abs().max().item<double>());
}

TEST(ScaledWordEmbedding, ACloneKeepsTheScale) {
  auto model = load("E2B-96", at::kBFloat16);
  const auto original = model->language_model()->embed_tokens.ptr();
  const auto copy =
      std::dynamic_pointer_cast<nn::EmbeddingImpl>(original->clone());
  ASSERT_TRUE(copy);
  const auto ids = test::arange(8);
  torch::NoGradGuard no_grad;
  EXPECT_TRUE(torch::equal(copy->forward(ids), original->forward(ids)));
  EXPECT_NE(copy->weight.data_ptr(), original->weight.data_ptr());
  // sqrt(96) = 9.79796 is 9.8125 in bf16.
  EXPECT_TRUE(torch::equal(
      original->forward(ids),
      original->weight.slice(0, 0, 8).to(at::kFloat) * 9.8125));
}

} // namespace
} // namespace torchlora::gemma4
