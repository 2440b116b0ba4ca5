#include <torchlora/optim/riemannian.h>

#include <sstream>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "device/device.h"
#include "optim/golden_net.h"

namespace torchlora::test {
namespace {

LoraConfig config() {
  return LoraConfig(4).lora_alpha(6).target_modules({"table", "up", "down"});
}

TEST(Riemannian, AdamWTrainsAsPeftDoes) {
  GoldenRun run("riemannian_adamw", config().use_dora(true));
  run.train_and_compare(*create_riemannian_optimizer<torch::optim::AdamW>(
      *run.model, torch::optim::AdamWOptions(0.02).weight_decay(0.1)));
}

TEST(Riemannian, SgdTrainsAsPeftDoes) {
  GoldenRun run("riemannian_sgd", config());
  run.train_and_compare(*create_riemannian_optimizer<torch::optim::SGD>(
      *run.model, torch::optim::SGDOptions(0.02).momentum(0.5), 0.1));
}

TEST(Riemannian, Bf16GradientsAreComputedInFp32) {
  auto model = test::make_module<GoldenNetImpl>();
  model->to(at::kBFloat16);
  auto peft = get_peft_model(
      *model,
      config().target_modules({"up"}),
      "default",
      InjectOptions().autocast_adapter_dtype(false));
  const auto* adapter = peft.layers()[0].second->find_adapter("default");
  const auto& A = adapter->lora_A->weight;
  const auto& B = adapter->lora_B->weight;
  torch::NoGradGuard no_grad;
  B.normal_();
  B.mutable_grad() = torch::randn_like(B);
  const auto gradient = B.grad().to(at::kDouble);
  const auto a = A.to(at::kDouble);
  RiemannianPreconditioner(*model, 0.1).precondition();
  const auto expected = at::mm(
      gradient,
      at::linalg_inv(at::mm(a, a.t()) + 0.1 * test::eye(4, at::kDouble)));
  EXPECT_LT(
      (B.grad().to(at::kDouble) - expected).abs().max().item<double>(),
      5e-3 * expected.abs().max().item<double>());
}

TEST(Riemannian, StateSurvivesSaveAndLoad) {
  if (test::test_device().is_hpu()) {
    GTEST_SKIP() << "LibTorch's archives do not know the fake device";
  }
  auto model = test::make_module<GoldenNetImpl>();
  auto peft = get_peft_model(*model, config());
  const auto make = [&](double lr) {
    return create_riemannian_optimizer<torch::optim::AdamW>(
        *model, torch::optim::AdamWOptions(lr));
  };
  const auto first = make(0.1), second = make(9);
  model->forward(test::arange(20)).square().sum().backward();
  first->step();
  std::stringstream stream;
  torch::save(*first, stream);
  torch::load(*second, stream);
  EXPECT_EQ(second->param_groups()[0].options().get_lr(), 0.1);
  EXPECT_EQ(second->state().size(), first->state().size());
}

TEST(Riemannian, RefusesWhatItCannotDo) {
  auto model = test::make_module<GoldenNetImpl>();
  const auto make = [&](double reg) {
    return create_riemannian_optimizer<torch::optim::SGD>(
        *model, torch::optim::SGDOptions(0.1), reg);
  };
  EXPECT_THROW(make(0.1), c10::ValueError);
  auto table = get_peft_model(*model, config().target_modules({"table"}));
  EXPECT_THROW(make(0.1), c10::ValueError);
  table.unload();
  auto peft = get_peft_model(*model, config());
  EXPECT_THROW(make(-1), c10::ValueError);
  EXPECT_THROW(
      make(0.1)->step([] { return test::zeros({}); }), c10::ValueError);
}

} // namespace
} // namespace torchlora::test
