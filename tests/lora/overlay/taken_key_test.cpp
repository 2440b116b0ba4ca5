// The weight overlay where another library has its first dispatch key.
#include <gtest/gtest.h>
#include <torch/library.h>
#include <torch/torch.h>

#include <torchlora/lora/overlay.h>
#include <torchlora/model.h>

#include "support.h"

namespace torchlora {
namespace {

void fall_through(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  op.callBoxed(stack);
}

TORCH_LIBRARY_IMPL(_, DeferredInit, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&fall_through>());
}

TEST(TakenKey, TheOverlayTakesAnother) {
  ASSERT_TRUE(has_weight_overlay());
  auto net = std::make_shared<torch::nn::Module>("Net");
  torch::nn::Linear fc(6, 4);
  net->register_module("fc", fc);
  const auto raw = fc->weight.detach().clone();
  auto peft =
      get_peft_model(*net, LoraConfig(2).lora_alpha(4).target_modules({"fc"}));
  const auto parameters = net->named_parameters();
  const auto A = parameters["fc.lora_A.default.weight"];
  const auto B = parameters["fc.lora_B.default.weight"];
  {
    torch::NoGradGuard no_grad;
    B.normal_();
  }
  const auto x = torch::randn({5, 6});
  const auto output = fc(x);
  output.sum().backward();
  EXPECT_GT(A.grad().abs().max().item<double>(), 0);
  const auto expected = at::linear(x, raw + 2 * B.mm(A), fc->bias);
  EXPECT_LT(difference(output, expected), 1e-6);
  peft.merge_and_unload();
  EXPECT_LT(difference(fc(x), expected), 1e-6);
}

} // namespace
} // namespace torchlora
