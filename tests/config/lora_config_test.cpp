#include <limits>

#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <torchlora/config/lora_config.h>
#include <torchlora/model/options.h>

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

// An option of a temporary is set and not read: `auto c =
// LoraConfig(8).use_dora();` would be a flag, and that no configuration.
template <class Config>
concept HasGetter =
    requires(Config config) { std::forward<Config>(config).use_dora(); };
static_assert(HasGetter<LoraConfig&> && HasGetter<const LoraConfig&>);
static_assert(!HasGetter<LoraConfig> && !HasGetter<const LoraConfig>);
static_assert(
    std::is_same_v<decltype(LoraConfig(8).use_dora(true).r(4)), LoraConfig&&>);
template <class Options>
concept HasMergeGetter =
    requires(Options options) { std::forward<Options>(options).safe_merge(); };
static_assert(HasMergeGetter<MergeOptions&> && !HasMergeGetter<MergeOptions>);
// A rank alone is no configuration, and a flag is no rank.
static_assert(!std::is_convertible_v<int64_t, LoraConfig>);
static_assert(!std::is_convertible_v<bool, LoraConfig>);
static_assert(!std::is_constructible_v<LoraConfig, bool>);
static_assert(std::is_constructible_v<LoraConfig, int>);
static_assert(!std::is_convertible_v<int64_t, VeloraConfig>);
// Flags and names only.
static_assert(std::is_convertible_v<bool, InitLoraWeights>);
static_assert(!std::is_convertible_v<int, InitLoraWeights>);
static_assert(!std::is_convertible_v<double, InitLoraWeights>);

TEST(LoraConfig, NumbersThatAreNoneAreRefusedByName) {
  constexpr auto kNaN = std::numeric_limits<double>::quiet_NaN();
  constexpr auto kInf = std::numeric_limits<double>::infinity();
  const auto expect = [](const LoraConfig& config, const std::string& name) {
    try {
      config.validate();
      ADD_FAILURE() << name;
    } catch (const c10::ValueError& e) {
      const std::string text = e.what_without_backtrace();
      EXPECT_NE(text.find(name), std::string::npos) << text;
    }
  };
  for (const auto value : {kNaN, kInf, -kInf}) {
    expect(LoraConfig().lora_alpha(value), "`lora_alpha`");
    expect(LoraConfig().alpha_pattern({{"q_proj", value}}), "q_proj");
    expect(LoraConfig().rank_pattern({{"q_proj", value}}), "q_proj");
    expect(LoraConfig().lora_dropout(value), "`lora_dropout`");
    expect(LoraConfig().eva_config(EvaConfig().rho(value)), "`rho`");
    expect(LoraConfig().kasa_config(KasaConfig().beta(value)), "`beta`");
    expect(LoraConfig().kasa_config(KasaConfig().gamma(value)), "`gamma`");
  }
  expect(LoraConfig().rank_pattern({{"q_proj", 1e30}}), "1e+30");
  expect(LoraConfig().rank_pattern({{"q_proj", 2147483648.}}), "q_proj");
  expect(LoraConfig(int64_t(1) << 62), "4611686018427387904");
  EXPECT_NO_THROW(LoraConfig().lora_alpha(-1).validate());
}

TEST(LoraConfig, InitLoraWeightsKeepsNamesAndFlagsApart) {
  auto config = LoraConfig(8).init_lora_weights("gaussian");
  ASSERT_TRUE(config.init_lora_weights().is_name());
  EXPECT_EQ(config.init_lora_weights().name(), "gaussian");
  EXPECT_FALSE(config.init_lora_weights(false).init_lora_weights().flag());
}

} // namespace
} // namespace torchlora
