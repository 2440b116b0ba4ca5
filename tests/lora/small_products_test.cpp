#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/torchlora.h>

#include "device/device.h"
#include "lora/small_products.h"

extern "C" __attribute__((weak)) int MKL_Set_Num_Threads_Local(int threads);

namespace torchlora::test {
namespace {

struct Holder : torch::nn::Module {
  nn::Linear layer = register_module("layer", nn::Linear(8, 6));
};

TEST(SmallProducts, StayOnTheCallingThread) {
  if (!MKL_Set_Num_Threads_Local) {
    GTEST_SKIP() << "a LibTorch without MKL";
  }
  MKL_Set_Num_Threads_Local(2);
  for (const int64_t multiplications : {1'000, 1'000'000'000}) {
    const detail::SmallProducts products(multiplications);
    const int threads = MKL_Set_Num_Threads_Local(2);
    EXPECT_EQ(threads, multiplications == 1'000 ? 1 : 2);
  }
  MKL_Set_Num_Threads_Local(0);
}

// Their number of threads is the thread's own, and what it was afterwards.
TEST(SmallProducts, LeaveTheThreadAsItWas) {
  if (!MKL_Set_Num_Threads_Local) {
    GTEST_SKIP() << "a LibTorch without MKL";
  }
  const auto model = test::make_module<Holder>();
  const auto peft =
      get_peft_model(*model, LoraConfig(2).target_modules({"layer"}));
  for (const int threads : {0, 2}) {
    MKL_Set_Num_Threads_Local(threads);
    model->layer(test::ones({3, 8}).requires_grad_()).sum().backward();
    EXPECT_EQ(MKL_Set_Num_Threads_Local(0), threads);
    MKL_Set_Num_Threads_Local(threads);
    EXPECT_THROW(model->layer(test::ones({3, 7})), c10::Error);
    EXPECT_EQ(MKL_Set_Num_Threads_Local(0), threads);
  }
}

} // namespace
} // namespace torchlora::test
