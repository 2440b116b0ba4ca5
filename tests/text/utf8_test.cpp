#include "text/utf8.h"
#include "text/first_few.h"

#include <gtest/gtest.h>

namespace torchlora::detail {
namespace {

TEST(FirstCharacters, AreNeverCut) {
  const std::string text = "a\xc3\xa9\xe2\x80\xa6\xff.";
  const size_t ends[] = {0, 1, 3, 6, 7, 8, 8};
  for (size_t count = 0; count < std::size(ends); ++count) {
    EXPECT_EQ(first_characters(text, count), text.substr(0, ends[count]));
  }
}

TEST(FirstFew, NamesAtMostEight) {
  std::vector<std::string> names;
  EXPECT_EQ(first_few(names), "");
  for (int i = 0; i < 8; ++i) {
    names.push_back(std::to_string(i));
  }
  EXPECT_EQ(first_few(names), "0, 1, 2, 3, 4, 5, 6, 7");
  names.resize(100000, "x");
  EXPECT_EQ(first_few(names), "0, 1, 2, 3, 4, 5, 6, 7, …");
}

TEST(Printable, KeepsTextAndWritesOutWhatSteers) {
  EXPECT_EQ(
      printable("caf\xc3\xa9 \xe2\x80\xa6\n\t"),
      "caf\xc3\xa9 \xe2\x80\xa6\n\t");
  EXPECT_EQ(printable("\x1b[31m\r\x7f"), "\\x1b[31m\\x0d\\x7f");
  EXPECT_EQ(printable("\xc2\x9b\xe2\x80\xae"), "\\x9b\\u202e");
  EXPECT_EQ(printable("\xff\xc3"), "\\xff\\xc3");
  EXPECT_EQ(printable("\xe2\x80"), "\\xe2\\x80");
  EXPECT_EQ(printable("a\n\tb", /*kept=*/""), "a\\x0a\\x09b");
}

} // namespace
} // namespace torchlora::detail
