#include <gtest/gtest.h>

#include <torchlora/config/targets.h>

namespace torchlora {
namespace {

constexpr auto kTargeted = TargetMatch::kTargeted;
constexpr auto kExcluded = TargetMatch::kExcluded;
constexpr auto kNone = TargetMatch::kNone;

struct Case {
  std::string name;
  LoraConfig config;
  TargetMatch expected;
};

LoraConfig list(std::vector<std::string> names) {
  return LoraConfig().target_modules(std::move(names));
}
LoraConfig regex(const char* pattern) {
  return LoraConfig().target_modules(pattern);
}

// Each kind of row of PEFT's own table (spec: `check_target_module_exists`).
TEST(TargetMatcher, FollowsPeftsRules) {
  const Case cases[] = {
      {"q_proj", list({"q_proj"}), kTargeted},
      {"layers.0.q_proj", list({"q_proj"}), kTargeted},
      {"layers.0.xq_proj", list({"q_proj"}), kNone},
      {"layers.0.q_proj_x", list({"q_proj"}), kNone},
      {"layers.0.q_proj.inner", list({"q_proj"}), kNone},
      {"a.b.c", list({"b.c"}), kTargeted},
      {"a.b.c", list({"a.b"}), kNone},
      {"a.b.c", list({}), kNone},
      {"a.b.c", regex(".*c"), kTargeted},
      {"a.b.c", regex("b"), kNone},
      {"a.b.c", regex("a.b"), kNone},
      {"a.b.c", regex(R"((?P<first>\w)\.b\.c)"), kTargeted},
      {"a.b.c", regex(R"(.*(?<=b\.)c)"), kTargeted},
      {"a.b.C", regex("(?i).*c"), kTargeted},
      {"model.layers.1.q_proj",
       list({"q_proj"}).layers_to_transform({1}),
       kTargeted},
      {"model.layers.11.q_proj",
       list({"q_proj"}).layers_to_transform({1}),
       kNone},
      {"model.layers.0.q_proj",
       list({"q_proj"}).layers_to_transform({0}),
       kTargeted},
      {"model.layers.001.q_proj",
       list({"q_proj"}).layers_to_transform({1}),
       kTargeted},
      {"layers.1.q_proj", list({"q_proj"}).layers_to_transform({1}), kNone},
      {"layers.1.q_proj",
       list({"q_proj"}).layers_to_transform({1}).layers_pattern({"layers"}),
       kTargeted},
      {"model.blocks.1.q_proj",
       list({"q_proj"}).layers_to_transform({1}).layers_pattern({"layers"}),
       kNone},
      {"model.blocks.1.q_proj",
       list({"q_proj"})
           .layers_to_transform({1})
           .layers_pattern({"layers", "blocks"}),
       kTargeted},
      {"model.layers.1.experts.7.w1",
       list({"w1"}).layers_to_transform({1}),
       kTargeted},
      {"model.layers.1.experts.7.w1",
       list({"w1"}).layers_to_transform({7}),
       kNone},
      // A full name counts in every layer.
      {"model.layers.5.q_proj",
       list({"model.layers.5.q_proj"}).layers_to_transform({1}),
       kTargeted},
      {"a.q_proj", list({"q_proj"}).exclude_modules({"a.q_proj"}), kExcluded},
      {"a.q_proj", list({"q_proj"}).exclude_modules({"q_proj"}), kExcluded},
      {"a.q_proj", list({"q_proj"}).exclude_modules("a.*"), kExcluded},
      {"b.a.q_proj", list({"q_proj"}).exclude_modules("a.*"), kTargeted},
      // torchlora: an entry excludes what is below a module of its name.
      {"model.vision_tower.layers.0.q_proj",
       list({"q_proj"}).exclude_modules({"vision_tower"}),
       kExcluded},
      {"model.my_vision_tower.q_proj",
       list({"q_proj"}).exclude_modules({"vision_tower"}),
       kTargeted},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(TargetMatcher(c.config).match(c.name), c.expected)
        << c.name << " row " << (&c - cases);
  }
  const auto config = list({"q_proj"}).exclude_modules({"vision_tower"});
  EXPECT_EQ(
      TargetMatcher(config, TargetRules::kPeft).match("vision_tower.q_proj"),
      kTargeted);
}

TEST(TargetMatcher, RefusesWhatCannotBeRight) {
  EXPECT_THROW(
      TargetMatcher(regex(".*").layers_to_transform({1})), c10::ValueError);
  EXPECT_THROW(
      TargetMatcher(list({"q"}).layers_pattern({"layers"})), c10::ValueError);
  EXPECT_THROW(TargetMatcher(regex("(unclosed")), c10::ValueError);
}

TEST(PatternTable, TheFirstPatternThatMatchesWins) {
  const PatternTable table(
      {{"^first", 1}, {"q_proj", 2}, {"layers.0.q_proj", 3}, {"unused", 4}});
  EXPECT_EQ(table.find("first"), 1);
  EXPECT_EQ(table.find("x.first"), std::nullopt);
  EXPECT_EQ(table.find("layers.0.q_proj"), 2);
  EXPECT_EQ(table.find("layers.0.xq_proj"), std::nullopt);
  EXPECT_EQ(
      table.unused({"first", "layers.0.q_proj"}),
      std::vector<std::string>{"unused"});
}

} // namespace
} // namespace torchlora
