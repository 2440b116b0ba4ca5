#include <filesystem>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/lora/layer.h>
#include <torchlora/model.h>
#include <torchlora/tools/preprocess.h>

#include "device/device.h"
#include "init/data_goldens.h"

namespace torchlora {
namespace {

using at::Tensor;
using test::NetImpl;

class EvaGoldens : public testing::Test {
 protected:
  Tensor golden(const std::string& name) const {
    return test::on_device(file_.tensor(case_ + "/" + name));
  }
  std::shared_ptr<NetImpl> net(const std::string& name) {
    case_ = name;
    auto net = test::make_module<NetImpl>();
    torch::NoGradGuard no_grad;
    for (auto& item : net->named_parameters()) {
      item.value().copy_(golden(item.key()));
    }
    return net;
  }
  std::function<bool()> batches(NetImpl& net, int most = 1000) {
    return [this, &net, most, i = 0]() mutable {
      if (i == most) {
        return false;
      }
      net.forward(test::on_device(
          file_.tensor(fmt::format("eva_batches/{}", i++ % 6))));
      return true;
    };
  }
  static LoraConfig config(bool whiten = false) {
    return LoraConfig(3).lora_alpha(6).init_lora_weights("eva").eva_config(
        EvaConfig().tau(0.9).whiten(whiten));
  }

  io::SafetensorsFile file_ = test::data_goldens();
  std::string case_;
};

TEST_F(EvaGoldens, ComponentsAndRanksAreThoseOfPeft) {
  for (const bool whiten : {false, true}) {
    auto model = net(whiten ? "eva_whiten" : "eva");
    const std::vector<std::string> names = whiten
        ? std::vector<std::string>{"a", "c"}
        : std::vector<std::string>{"a", "b", "c", "d"};
    auto peft = get_peft_model(*model, config(whiten).target_modules(names));
    initialize_lora_eva_weights(peft, batches(*model));
    ASSERT_EQ(peft.layers().size(), names.size());
    for (const auto& [name, layer] : peft.layers()) {
      const auto* adapter = layer->find_adapter("default");
      ASSERT_EQ(adapter->r, golden(name + ".A").size(0)) << name;
      EXPECT_LT(difference(adapter->lora_A->weight, golden(name + ".A")), 2e-5)
          << name;
      EXPECT_EQ(
          adapter->lora_alpha, golden(name + ".lora_alpha").item<double>());
      EXPECT_EQ(adapter->scaling, 2);
      EXPECT_EQ(adapter->lora_B->weight.count_nonzero().item<int64_t>(), 0);
      EXPECT_TRUE(adapter->lora_A->weight.requires_grad());
      EXPECT_TRUE(adapter->lora_B->weight.requires_grad());
    }
    EXPECT_FALSE(model->a->weight.requires_grad());
    EXPECT_TRUE(model->is_training());
  }
}

TEST_F(EvaGoldens, SharedComponentsAreWhitenedOnce) {
  auto model = net("eva");
  auto plain = get_peft_model(*model, config().target_modules({"a", "b"}));
  initialize_lora_eva_weights(plain, batches(*model, 5));
  auto second = net("eva");
  auto white = get_peft_model(*second, config(true).target_modules({"a", "b"}));
  initialize_lora_eva_weights(white, batches(*second, 5));
  const auto A = [](PeftModel& peft, size_t i) {
    return peft.layers().at(i).second->find_adapter("default")->lora_A->weight;
  };
  EXPECT_LT(difference(A(white, 0), A(white, 1)), 1e-7);
  // Components have norm 1; whitened by √S, 1/S what is left of its square.
  const auto S = A(white, 0).square().sum(1).reciprocal();
  EXPECT_LT(difference(A(white, 0) * S.sqrt().unsqueeze(1), A(plain, 0)), 1e-5);
  EXPECT_GT(S.min().item<double>(), 1);
}

TEST_F(EvaGoldens, ALayerWithoutAShareOfTheVarianceLosesTheAdapter) {
  auto model = net("eva");
  const auto x = test::on_device(file_.tensor("eva_batches/0"));
  const auto before = model->forward(x);
  auto peft = get_peft_model(
      *model, config().r(1).target_modules({"a", "b", "c", "d"}));
  initialize_lora_eva_weights(peft, batches(*model));
  int64_t ranks = 0;
  for (const auto& [name, layer] : peft.layers()) {
    EXPECT_NE(name, "d");
    ranks += layer->find_adapter("default")->r;
  }
  EXPECT_EQ(ranks, 4);
  EXPECT_EQ(peft.layers().size(), 3U);
  EXPECT_LT(difference(model->forward(x), before), 1e-6);

  torch::NoGradGuard no_grad;
  for (const auto& [name, layer] : peft.layers()) {
    layer->find_adapter("default")->lora_B->weight.normal_();
  }
  const auto folder = std::filesystem::path(testing::TempDir()) / "eva_adapter";
  peft.save_pretrained(folder);
  const auto expected = model->forward(x);
  auto other = net("eva");
  auto loaded = PeftModel::from_pretrained(*other, folder);
  EXPECT_LT(difference(other->forward(x), expected), 1e-6);
  EXPECT_EQ(loaded.peft_config().eva_config()->tau(), 0.9);
}

TEST_F(EvaGoldens, DataThatEndEarlyOrMissALayerAreReported) {
  Warnings warnings;
  auto model = net("eva");
  auto peft = get_peft_model(*model, config().target_modules({"a", "d"}));
  try {
    initialize_lora_eva_weights(peft, [&, i = 0]() mutable {
      model->a(test::randn({9, 16}));
      return i++ < 3;
    });
    ADD_FAILURE();
  } catch (const c10::ValueError& e) {
    EXPECT_NE(
        std::string(e.what()).find("every adapted module"), std::string::npos);
  }
  EXPECT_EQ(peft.layers().at(0).second->find_adapter("default")->r, 3);
  warnings.text.clear();
  initialize_lora_eva_weights(peft, batches(*model, 2));
  EXPECT_NE(warnings.text.find("before the components"), std::string::npos);
  warnings.text.clear();
  // Only rows that count: the first three are fewer than the components.
  EXPECT_THROW(
      initialize_lora_eva_weights(
          peft,
          batches(*model, 2),
          "default",
          [](const Tensor& rows, const std::string& name) {
            EXPECT_TRUE(name == "a" || name == "d");
            return rows.narrow(0, 0, 3);
          }),
      c10::ValueError);
}

} // namespace
} // namespace torchlora
