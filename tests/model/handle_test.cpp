// What a handle refuses, and what it says.
#include <filesystem>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/error.h>
#include <torchlora/io/safetensors.h>
#include <torchlora/lora/layer.h>
#include <torchlora/model.h>
#include <torchlora/model/status.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/linear.h>
#include <torchlora/tools/intruders.h>

#include "support.h"

namespace torchlora {
namespace {

namespace fs = std::filesystem;
using at::Tensor;

struct NetImpl : torch::nn::Module {
  Tensor forward(const Tensor& ids) {
    return head(norm(fc(table(ids)).transpose(1, 2)).transpose(1, 2));
  }
  nn::Embedding table = register_module("table", nn::Embedding(9, 8));
  nn::Linear fc = register_module("fc", nn::Linear(8, 8));
  torch::nn::BatchNorm1d norm =
      register_module("norm", torch::nn::BatchNorm1d(8));
  nn::Linear head = register_module("head", nn::Linear(8, 4));
};

constexpr auto kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr auto kInf = std::numeric_limits<double>::infinity();

class Handle : public testing::Test {
 protected:
  static LoraConfig config() {
    return LoraConfig(2).target_modules({"fc"});
  }
  PeftModel adapted() {
    return get_peft_model(*model_, config());
  }
  static void expect(const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  }

  std::shared_ptr<NetImpl> model_ = std::make_shared<NetImpl>();
  const fs::path folder_ = fs::path(testing::TempDir()) / "handle";
};

TEST_F(Handle, RefusesAdapterNamesThatAreNoNames) {
  auto peft = adapted();
  peft.save_pretrained(folder_);
  using namespace std::string_literals;
  for (const auto& name :
       {""s,
        "a.b"s,
        ".."s,
        "__base__"s,
        "/abs/path"s,
        "../x"s,
        "a/b"s,
        "a\\b"s,
        "line\nbreak"s,
        "\x1b[31m"s,
        "nul\0byte"s,
        "\x7f"s}) {
    EXPECT_NE(refusal([&] { peft.add_adapter(name, config()); }), "") << name;
    EXPECT_NE(refusal([&] { peft.load_adapter(folder_, name); }), "") << name;
    EXPECT_NE(
        refusal([&] { peft.add_weighted_adapter({"default"}, {1.}, name); }),
        "")
        << name;
    EXPECT_NE(
        refusal([&] { reduce_intruder_dimension(peft, "default", name); }), "")
        << name;
    const auto other = std::make_shared<NetImpl>();
    EXPECT_NE(refusal([&] { get_peft_model(*other, config(), name); }), "");
    EXPECT_NE(refusal([&] { inject_adapter(*other, config(), name); }), "");
    EXPECT_NE(
        refusal([&] { PeftModel::from_pretrained(*other, folder_, name); }),
        "");
    EXPECT_NE(
        refusal([&] {
          peft.layers()[0].second->update_layer(name, 2, 2, config());
        }),
        "");
  }
  EXPECT_EQ(peft.adapter_names().size(), 1U);
  expect(refusal([&] { peft.add_adapter("\x1b", config()); }), "\\x1b");
  for (const auto* name : {"küche", "a-b_c d", "v1+lora", "__base"}) {
    EXPECT_NO_THROW(peft.add_adapter(name, config())) << name;
  }
}

TEST_F(Handle, RefusesNumbersThatAreNone) {
  auto peft = adapted();
  peft.add_adapter("b", config());
  const auto layer = peft.layers()[0].second;
  for (const auto value : {kNaN, kInf, -kInf}) {
    expect(
        refusal([&] {
          peft.add_weighted_adapter({"default", "b"}, {1., value}, "c");
        }),
        "weight of adapter b");
    expect(
        refusal([&] {
          peft.add_weighted_adapter(
              {"default", "b"},
              {1., 1.},
              "c",
              CombinationOptions("ties").density(value));
        }),
        "density");
    expect(refusal([&] { layer->set_scale("b", value); }), "[set_scale]");
    expect(refusal([&] { layer->scale_layer(value); }), "[scale_layer]");
    expect(refusal([&] { layer->unscale_layer(value); }), "[unscale_layer]");
    expect(refusal([&] { layer->set_lora_dropout(value); }), "dropout");
    expect(
        refusal([&] { layer->update_layer("c", 2, value, config()); }),
        "`lora_alpha`");
    expect(
        refusal([&] { peft.add_adapter("c", config().lora_alpha(value)); }),
        "`lora_alpha`");
    expect(
        refusal([&] {
          reduce_intruder_dimension(peft, "default", "c", 10, .5, value);
        }),
        "mitigation_lambda");
  }
  expect(refusal([&] { layer->unscale_layer(0); }), "must not be 0");
  expect(
      refusal([&] {
        peft.add_adapter("c", config().rank_pattern({{"fc", 1e30}}));
      }),
      "1e+30");
  EXPECT_EQ(peft.adapter_names().size(), 2U);
  EXPECT_EQ(layer->find_adapter("default")->scaling, 4);
}

} // namespace
} // namespace torchlora
