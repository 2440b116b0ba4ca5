#include "text/utf8.h"

#include <gtest/gtest.h>

namespace torchlora::detail {
namespace {

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
