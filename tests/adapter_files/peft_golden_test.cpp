#include <filesystem>

#include <gtest/gtest.h>
#include <torch/torch.h>
#include <nlohmann/json.hpp>

#include <torchlora/io/atomic_file.h>
#include <torchlora/io/safetensors.h>
#include <torchlora/lora/layer.h>
#include <torchlora/model.h>
#include <torchlora/nn/clippable_linear.h>
#include <torchlora/nn/linear.h>

#include "support.h"

namespace torchlora {
namespace {
namespace fs = std::filesystem;

using at::Tensor;

const fs::path kData = TORCHLORA_TEST_DATA;

void expect_relative(
    const Tensor& a,
    const Tensor& b,
    const std::string& what) {
  EXPECT_LT(difference(a, b), 1e-5 * b.abs().max().item<double>()) << what;
}

/// Gemma 4's vision attention with the layers and bounds of a checkpoint.
struct VisionAttentionImpl : torch::nn::Module {
  explicit VisionAttentionImpl(
      const io::SafetensorsFile& file,
      const std::string& prefix) {
    const auto read = [&](const std::string& name) {
      return test::on_device(file.tensor(prefix + name)).to(torch::kFloat);
    };
    for (const std::string name : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
      auto layer = test::on_device(nn::ClippableLinear(48, 48));
      torch::NoGradGuard no_grad;
      layer->linear->weight.copy_(read(name + ".linear.weight"));
      for (auto& buffer : layer->named_buffers()) {
        buffer.value().copy_(read(name + "." + buffer.key()));
        EXPECT_TRUE(buffer.value().isfinite().item<bool>());
      }
      projections.push_back(register_module(name, layer));
    }
    q_norm = read("q_norm.weight");
    k_norm = read("k_norm.weight");
  }

  static Tensor norm(const Tensor& x) {
    return x * (x.square().mean(-1, true) + 1e-6).pow(-0.5);
  }
  static Tensor rotate(const Tensor& x, const Tensor& cos, const Tensor& sin) {
    std::vector<Tensor> parts;
    for (int64_t i = 0; i < 2; ++i) { // x, then y
      const auto part = x.chunk(2, -1)[i], c = cos.chunk(2, -1)[i],
                 s = sin.chunk(2, -1)[i];
      const auto halves = part.chunk(2, -1);
      parts.push_back(
          part * c.unsqueeze(2) +
          at::cat({-halves[1], halves[0]}, -1) * s.unsqueeze(2));
    }
    return at::cat(parts, -1);
  }
  Tensor forward(const Tensor& hidden, const Tensor& cos, const Tensor& sin) {
    const auto heads = [](const Tensor& t) { return t.unflatten(-1, {4, 12}); };
    const auto q =
        rotate(norm(heads(projections[0](hidden))) * q_norm, cos, sin);
    const auto k =
        rotate(norm(heads(projections[1](hidden))) * k_norm, cos, sin);
    const auto v = norm(heads(projections[2](hidden)));
    const auto p = at::einsum("bqhd,bkhd->bhqk", {q, k}).softmax(-1);
    return projections[3](at::einsum("bhqk,bkhd->bqhd", {p, v}).flatten(2));
  }

  std::vector<nn::ClippableLinear> projections;
  Tensor q_norm, k_norm;
};

struct MlpImpl : torch::nn::Module {
  explicit MlpImpl(const io::SafetensorsFile& file) {
    up = register_module("up", nn::Linear(12, 20));
    down = register_module(
        "down", nn::Linear(torch::nn::LinearOptions(20, 6).bias(false)));
    torch::NoGradGuard no_grad;
    for (auto& item : named_parameters()) {
      item.value().copy_(file.tensor("base." + item.key()));
    }
  }
  Tensor forward(const Tensor& x) {
    return down(up(x).tanh());
  }
  nn::Linear up{nullptr}, down{nullptr};
};

/// Gradients, merged weights and files of an adapted model against peft's.
void expect_golden(
    PeftModel& peft,
    const io::SafetensorsFile& golden,
    const fs::path& adapter,
    size_t num_layers) {
  const auto tensors = peft.state_dict();
  EXPECT_EQ(tensors.size(), 2 * num_layers);
  for (const auto& item : tensors) {
    expect_relative(
        item.value().grad(), golden.tensor("grad." + item.key()), item.key());
  }

  const auto saved = fs::path(testing::TempDir()) / "golden_adapter";
  fs::remove_all(saved);
  peft.save_pretrained(saved);
  const io::SafetensorsFile ours(saved / "adapter_model.safetensors");
  const io::SafetensorsFile theirs(adapter / "adapter_model.safetensors");
  EXPECT_EQ(ours.metadata(), theirs.metadata());
  EXPECT_EQ(
      std::set<std::string>(ours.keys().begin(), ours.keys().end()),
      std::set<std::string>(theirs.keys().begin(), theirs.keys().end()));
  for (const auto& key : theirs.keys()) {
    EXPECT_TRUE(torch::equal(ours.tensor(key), theirs.tensor(key))) << key;
  }
  auto our_config =
      nlohmann::json::parse(io::read_file(saved / "adapter_config.json"));
  auto their_config =
      nlohmann::json::parse(io::read_file(adapter / "adapter_config.json"));
  their_config["auto_mapping"] = nullptr; // names a Python class
  for (auto* config : {&our_config, &their_config}) {
    std::sort(
        (*config)["target_modules"].begin(), (*config)["target_modules"].end());
  }
  EXPECT_EQ(our_config, their_config);

  peft.merge_adapter();
  for (const auto& [name, layer] : peft.layers()) {
    const auto path = layer->base_weight().path();
    const auto key = "merged.base_model.model." + name +
        (path.empty() ? "" : "." + path) + ".base_layer.weight";
    expect_relative(layer->base_weight().weight(), golden.tensor(key), key);
  }
}

TEST(PeftGolden, Gemma4VisionAttentionEqualsPeftOnTheInnerLinears) {
  const auto folder = kData / "lora" / "vision_attention";
  const io::SafetensorsFile golden(folder / "golden.safetensors");
  const io::SafetensorsFile checkpoint(
      kData / "tiny" / "E2B" / "model.safetensors");
  const auto model = test::make_module<VisionAttentionImpl>(
      checkpoint, "model.vision_tower.encoder.layers.0.self_attn.");
  auto peft = PeftModel::from_pretrained(
      *model, folder / "adapter", "default", LoadOptions().is_trainable(true));
  const auto output = model->forward(
      test::on_device(golden.tensor("hidden")),
      test::on_device(golden.tensor("cos")),
      test::on_device(golden.tensor("sin")));
  expect_relative(output, golden.tensor("output"), "output");
  (output * test::on_device(golden.tensor("weight"))).sum().backward();
  expect_golden(peft, golden, folder / "adapter", 4);
}

TEST(PeftGolden, LinearLayersWithRsloraAndPatternsEqualPeft) {
  const auto folder = kData / "lora" / "mlp";
  const io::SafetensorsFile golden(folder / "golden.safetensors");
  const auto model = test::make_module<MlpImpl>(golden);
  auto peft = PeftModel::from_pretrained(
      *model, folder / "adapter", "default", LoadOptions().is_trainable(true));
  const auto layers = peft.layers();
  EXPECT_DOUBLE_EQ(
      layers[0].second->find_adapter("default")->scaling, 5 / std::sqrt(4.0));
  EXPECT_DOUBLE_EQ(
      layers[1].second->find_adapter("default")->scaling, 8 / std::sqrt(2.0));
  const auto output = model->forward(test::on_device(golden.tensor("x")));
  expect_relative(output, golden.tensor("output"), "output");
  output.square().sum().backward();
  expect_golden(peft, golden, folder / "adapter", 2);
}

} // namespace
} // namespace torchlora
