#include <gtest/gtest.h>

#include <torchlora/config/lora_config.h>

namespace torchlora {
namespace {

TEST(LoraConfig, HasPeftDefaults) {
  LoraConfig config;
  EXPECT_EQ(config.r(), 8);
  EXPECT_EQ(config.lora_alpha(), 8);
  EXPECT_EQ(config.lora_dropout(), 0);
  EXPECT_FALSE(config.use_rslora());
  EXPECT_TRUE(config.init_lora_weights().flag());
  EXPECT_TRUE(config.target_modules().is_none());
}

TEST(LoraConfig, TargetModulesTakeAListARegexOrAllLinear) {
  auto config = LoraConfig(16).target_modules({"q_proj", "v_proj"});
  EXPECT_TRUE(config.target_modules().is_list());
  EXPECT_TRUE(
      config.target_modules("All-Linear").target_modules().is_all_linear());
  EXPECT_TRUE(config.target_modules(".*\\.q_proj").target_modules().is_regex());
  EXPECT_FALSE(config.target_modules().is_all_linear());
}

TEST(LoraConfig, InitLoraWeightsKeepsNamesAndFlagsApart) {
  auto config = LoraConfig(8).init_lora_weights("gaussian");
  ASSERT_TRUE(config.init_lora_weights().is_name());
  EXPECT_EQ(config.init_lora_weights().name(), "gaussian");
  EXPECT_FALSE(config.init_lora_weights(false).init_lora_weights().flag());
}

} // namespace
} // namespace torchlora
