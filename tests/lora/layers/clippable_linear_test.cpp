#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/lora/layer.h>
#include <torchlora/model.h>
#include <torchlora/nn/clippable_linear.h>

#include "device/device.h"

namespace torchlora {
namespace {

struct HolderImpl : torch::nn::Module {
  HolderImpl() {
    q_proj = register_module("q_proj", nn::ClippableLinear(64, 48));
  }
  nn::ClippableLinear q_proj{nullptr};
};

class LoraClippableLinearTest : public testing::Test {
 protected:
  LoraClippableLinearTest() {
    torch::manual_seed(0);
    x_ = test::randn({256, 64});
    auto& layer = *model_->q_proj;
    // Half of the inputs and half of the outputs are cut.
    layer.input_min.fill_(-0.674);
    layer.input_max.fill_(0.674);
    torch::NoGradGuard no_grad;
    const auto raw = at::linear(layer.clamp_input(x_), layer.linear->weight);
    const auto bound = raw.abs().median();
    layer.output_min.copy_(-bound);
    layer.output_max.copy_(bound);
  }
  PeftModel adapt(const ModuleNames& targets) {
    auto peft = get_peft_model(
        *model_, LoraConfig(8).lora_alpha(16).target_modules(targets));
    torch::NoGradGuard no_grad;
    auto layer = peft.layers()[0].second;
    auto B = layer->find_adapter("default")->lora_B->weight;
    B.normal_();
    B.mul_(
        0.1 * layer->base_weight().weight().norm() /
        layer->get_delta_weight("default").norm());
    return peft;
  }
  at::Tensor run() {
    torch::NoGradGuard no_grad;
    return model_->q_proj(x_);
  }
  std::vector<at::Tensor> bounds() {
    std::vector<at::Tensor> result;
    for (const auto& buffer : model_->buffers()) {
      result.push_back(buffer.clone());
    }
    return result;
  }
  double largest(const at::Tensor& difference) {
    return difference.abs().max().item<double>();
  }

  std::shared_ptr<HolderImpl> model_ = test::make_module<HolderImpl>();
  at::Tensor x_;
};

TEST_F(LoraClippableLinearTest, MergeIsExactInsideTheClampsAndNotOutside) {
  auto peft = adapt({"q_proj"});
  const auto before = bounds();
  ASSERT_EQ(before.size(), 4U);
  const auto unmerged = run();
  const auto& layer = *model_->q_proj;
  const auto clipped =
      (unmerged == layer.output_min).logical_or(unmerged == layer.output_max);
  EXPECT_NEAR(clipped.to(at::kFloat).mean().item<double>(), 0.5, 0.1);

  // The control: the same update added behind the clamps.
  at::Tensor outside;
  {
    torch::NoGradGuard no_grad;
    const auto delta = peft.layers()[0].second->get_delta_weight("default");
    auto guard = peft.disable_adapter();
    outside = model_->q_proj(x_) + at::linear(x_, delta);
  }
  peft.merge_adapter();
  const auto merged = run();
  EXPECT_LT(largest(merged - unmerged), 1e-5);
  EXPECT_GT(largest(merged - outside), 1e-2);

  peft.unmerge_adapter();
  EXPECT_LT(largest(run() - unmerged), 1e-5);
  peft.merge_and_unload(MergeOptions().safe_merge(true));
  EXPECT_LT(largest(run() - unmerged), 1e-5);
  const auto after = bounds();
  for (size_t i = 0; i < before.size(); ++i) {
    EXPECT_TRUE(torch::equal(after[i], before[i]));
  }
}

TEST_F(LoraClippableLinearTest, UnloadKeepsTheBounds) {
  const auto base = run();
  const auto before = bounds();
  auto peft = adapt({"q_proj"});
  peft.unload();
  EXPECT_TRUE(torch::equal(run(), base));
  for (size_t i = 0; i < before.size(); ++i) {
    EXPECT_TRUE(torch::equal(bounds()[i], before[i]));
  }
}

TEST_F(LoraClippableLinearTest, BothSpellingsAndAllLinearReachIt) {
  for (const ModuleNames& targets :
       {ModuleNames{"q_proj"},
        ModuleNames{"q_proj.linear"},
        ModuleNames{"linear"},
        ModuleNames("all-linear"),
        ModuleNames(R"(q_proj(\.linear)?)")}) {
    auto peft = adapt(targets);
    const auto base = peft.layers()[0].second->base_weight();
    EXPECT_EQ(base.path(), "linear");
    EXPECT_EQ(base.in_features(), 64);
    EXPECT_EQ(base.out_features(), 48);
    EXPECT_EQ(
        peft.state_dict().keys(),
        (std::vector<std::string>{
            "base_model.model.q_proj.linear.lora_A.weight",
            "base_model.model.q_proj.linear.lora_B.weight"}));
    peft.unload();
  }
}

TEST_F(LoraClippableLinearTest, TheBoundsAreSavedButNotTrained) {
  const auto layer = model_->q_proj;
  EXPECT_EQ(layer->named_buffers().size(), 4U);
  EXPECT_EQ(layer->parameters().size(), 1U);
  auto plain = test::on_device(nn::ClippableLinear(
      nn::ClippableLinearOptions(4, 3).use_clipped_linears(false)));
  EXPECT_EQ(plain->named_buffers().size(), 0U);
  const auto x = test::randn({2, 4});
  EXPECT_TRUE(torch::equal(plain(x), at::linear(x, plain->linear->weight)));
}

} // namespace
} // namespace torchlora
