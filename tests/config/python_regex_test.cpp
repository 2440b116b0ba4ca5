#include <filesystem>
#include <fstream>

#include "support.h"

#include <nlohmann/json.hpp>

#include <torchlora/config/targets.h>

namespace torchlora {
namespace {
using nlohmann::json;

/// 1 and 0 as `re.fullmatch`, null for a pattern that does not compile.
json fullmatch(const std::string& pattern, const std::string& text) {
  try {
    const TargetMatcher matcher(LoraConfig().target_modules(pattern));
    return matcher.match(text) == TargetMatch::kTargeted ? 1 : 0;
  } catch (const c10::ValueError&) {
    return nullptr;
  }
}

TEST(PythonRegex, AnswersAsPythonDoes) {
  json cases;
  std::ifstream(
      std::filesystem::path(TORCHLORA_TEST_DATA) / "config" /
      "regex_cases.json") >>
      cases;
  ASSERT_GT(cases.size(), 2000U);
  for (const auto& c : cases) {
    const auto pattern = c[0].get<std::string>();
    const auto text = c[1].get<std::string>();
    EXPECT_EQ(fullmatch(pattern, text), c[2]) << pattern << " on " << c[1];
  }
}

TEST(PythonRegex, WhatOnlyOneOfTheTwoTakes) {
  for (const auto* pattern :
       {"a(?i)b",
        R"(\x4)",
        "(?<=a|bc)d",
        R"((a\1))",
        "(?P<n>a(?P=n))",
        R"((?<=(a)\1)b)",
        "a**",
        "^*",
        "(?(1)a|b|c)",
        "[a-\\d]",
        "(?L:a)",
        "\\",
        "(?i",
        "\xff"}) {
    EXPECT_TRUE(fullmatch(pattern, "a").is_null()) << pattern;
  }
  const std::tuple<const char*, const char*, int> taken[] = {
      {R"(\A\x41)", "A", 1},
      {"(?a:\\w)", "\u00e9", 0},
      {"(?a:\\w)|\\w", "\u00e9", 1},
      {"(?ai:K)", "\u212a", 0}, // the sign for kelvin
      {"(?i:K)", "\u212a", 1},
      {"(?ai:[j-l])", "K", 1},
      {"(?x) a b # c", "ab", 1},
      {"a{,2}", "aa", 1},
      {"a{,}", "aaa", 1},
      {"(a)|b(?(1)a|c)", "bc", 1},
      {R"(\s)", "\x1c", 1},
      {R"(\B)", "", 0},
      {"(?m)a\n^$", "a\n", 1},
      {"(?s:.)", "\n", 1},
      {"(?P<\u00e9>a)(?P=\u00e9)", "aa", 1},
      {R"([\ud800a])", "a", 1},
  };
  for (const auto& [pattern, text, answer] : taken) {
    EXPECT_EQ(fullmatch(pattern, text), answer) << pattern;
  }
}

TEST(PythonRegex, SaysWhatIsWrongAndWhere) {
  EXPECT_NE(
      refusal([] {
        TargetMatcher(LoraConfig().target_modules("ab(?<=c*)"));
      }).find("look-behind requires fixed-width pattern at position 9"),
      std::string::npos);
  const std::string deep(5000, '(');
  EXPECT_TRUE(fullmatch(deep + std::string(5000, ')'), "").is_null());
}

} // namespace
} // namespace torchlora
