// Which memory strided tensors cover, against all addresses one by one.
#include "nn/memory.h"

#include <random>
#include <set>

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace torchlora {
namespace {

using at::Tensor;

/// The addresses of all bytes of the elements, one entry per element's byte.
std::vector<intptr_t> bytes_of(const Tensor& tensor) {
  std::vector<intptr_t> result;
  const auto start = reinterpret_cast<intptr_t>(tensor.const_data_ptr());
  std::vector<int64_t> index(static_cast<size_t>(tensor.dim()), 0);
  for (int64_t n = 0; n < tensor.numel(); ++n) {
    auto left = n;
    int64_t offset = 0;
    for (auto d = tensor.dim(); d-- > 0;) {
      offset += left % tensor.size(d) * tensor.stride(d);
      left /= tensor.size(d);
    }
    const auto size = static_cast<int64_t>(tensor.itemsize());
    for (int64_t byte = 0; byte < size; ++byte) {
      result.push_back(start + offset * size + byte);
    }
  }
  return result;
}

bool expected_overlap(const Tensor& a, const Tensor& b) {
  const auto bytes = bytes_of(a);
  const std::set<intptr_t> all(bytes.begin(), bytes.end());
  for (const auto byte : bytes_of(b)) {
    if (all.contains(byte)) {
      return true;
    }
  }
  return false;
}

bool expected_writable(const Tensor& tensor) {
  const auto bytes = bytes_of(tensor);
  return std::set<intptr_t>(bytes.begin(), bytes.end()).size() == bytes.size();
}

class Memory : public testing::Test {
 protected:
  int64_t draw(int64_t least, int64_t most) {
    return std::uniform_int_distribution<int64_t>(least, most)(random_);
  }
  /// A view of the buffer in a random dtype, with random strides.
  Tensor view(const Tensor& buffer) {
    const auto dtype = std::vector{
        at::kByte, at::kHalf, at::kFloat}[static_cast<size_t>(draw(0, 2))];
    const auto typed = buffer.view(dtype);
    std::vector<int64_t> sizes, strides;
    int64_t last = 0;
    for (auto dims = draw(0, 4); dims > 0; --dims) {
      const auto size = draw(draw(0, 9) == 0 ? 0 : 1, 4);
      const auto room = typed.numel() - 1 - last;
      const auto stride =
          size > 1 ? draw(0, std::min<int64_t>(room / (size - 1), 12)) : 7;
      last += std::max<int64_t>(size - 1, 0) * stride;
      sizes.push_back(size);
      strides.push_back(stride);
    }
    return typed.as_strided(sizes, strides, draw(0, typed.numel() - 1 - last));
  }

  std::mt19937_64 random_{19};
};

TEST_F(Memory, OverlapsAreExactForRandomViews) {
  const auto buffer = torch::zeros({256}, at::kByte);
  int overlapping = 0, within = 0;
  constexpr int kPairs = 20000;
  for (int i = 0; i < kPairs; ++i) {
    const auto a = view(buffer), b = view(buffer);
    const bool expected = expected_overlap(a, b);
    ASSERT_EQ(overlap(a, b), expected)
        << a.sizes() << a.strides() << a.storage_offset() << a.dtype()
        << " and " << b.sizes() << b.strides() << b.storage_offset()
        << b.dtype();
    ASSERT_EQ(overlap(b, a), expected);
    overlapping += expected;
    const auto x = bytes_of(a), y = bytes_of(b);
    within += !expected && !x.empty() && !y.empty() &&
        *std::ranges::min_element(x) < *std::ranges::max_element(y) &&
        *std::ranges::min_element(y) < *std::ranges::max_element(x);
  }
  EXPECT_GT(overlapping, kPairs / 10);
  EXPECT_GT(within, kPairs / 20); // interleaved, and not one byte is shared
}

TEST_F(Memory, ATensorIsWritableIfItsElementsAreApart) {
  const auto buffer = torch::zeros({256}, at::kByte);
  int writable = 0;
  constexpr int kViews = 10000;
  for (int i = 0; i < kViews; ++i) {
    const auto tensor = view(buffer);
    const bool expected = expected_writable(tensor);
    ASSERT_EQ(!*why_not_writable(tensor), expected)
        << tensor.sizes() << tensor.strides();
    writable += expected;
  }
  EXPECT_GT(writable, kViews / 10);
  EXPECT_LT(writable, kViews * 9 / 10);
}

TEST_F(Memory, LargeTensorsAreJudgedAtOnce) {
  const auto wide =
      torch::empty({4096 * 8192}).as_strided({4096, 4096}, {8192, 1});
  const auto columns = [&](int64_t first) {
    return wide.as_strided({4096, 2048}, {8192, 2}, first);
  };
  EXPECT_FALSE(overlap(columns(0), columns(1)));
  EXPECT_TRUE(overlap(columns(0), columns(2)));
  EXPECT_TRUE(overlap(wide, columns(1)));
  EXPECT_STREQ(why_not_writable(columns(0)), "");
}

TEST_F(Memory, WhatHasNoMemoryOverlapsByItsStorage) {
  const auto meta = torch::empty({4, 4}, at::kMeta);
  EXPECT_TRUE(overlap(meta, meta.t()));
  EXPECT_FALSE(overlap(meta.narrow(0, 0, 2), meta.narrow(0, 2, 2)));
  const auto other = torch::empty({4, 4}, at::kMeta);
  EXPECT_FALSE(overlap(meta, other));
  EXPECT_FALSE(overlap(meta.narrow(0, 2, 2), other.narrow(0, 2, 2)));
  EXPECT_FALSE(overlap(Tensor(), meta));
  EXPECT_FALSE(overlap(torch::empty({0, 4}), torch::empty({0, 4})));
}

} // namespace
} // namespace torchlora
