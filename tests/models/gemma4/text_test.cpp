#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <torch/torch.h>
#include <nlohmann/json.hpp>

#include <torchlora/io/safetensors.h>
#include <torchlora/models/gemma4/model.h>
#include <torchlora/nn/compute.h>

namespace torchlora::gemma4 {
namespace {
namespace fs = std::filesystem;

const fs::path kTiny = fs::path(TORCHLORA_TEST_DATA) / "tiny";

struct Reference {
  explicit Reference(const std::string& variant)
      : file(kTiny / variant / "reference.safetensors") {
    std::ifstream(kTiny / variant / "reference.json") >> json;
  }
  at::Tensor operator[](const std::string& key) const {
    return file.tensor(key);
  }
  io::SafetensorsFile file;
  nlohmann::json json;
};

Gemma4ForCausalLM load(const std::string& variant, at::ScalarType dtype) {
  return from_pretrained(kTiny / variant, {dtype});
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
  const auto copy = fs::path(testing::TempDir()) / ("dialect_" + GetParam());
  fs::remove_all(copy);
  fs::create_directories(copy);
  fs::copy(kTiny / GetParam() / "model.safetensors", copy);
  fs::copy(kTiny / GetParam() / "config_resaved.json", copy / "config.json");
  torch::NoGradGuard no_grad;
  const auto ids = Reference(GetParam())["plain.in.input_ids"];
  EXPECT_TRUE(torch::equal(
      load(GetParam(), at::kFloat)(ids),
      from_pretrained(copy, {at::kFloat})(ids)));
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
    EXPECT_GT(ours, 0);
    EXPECT_LE(ours, 1.5 * theirs);
  }
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

} // namespace
} // namespace torchlora::gemma4
