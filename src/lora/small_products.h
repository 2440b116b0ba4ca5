#pragma once

#include <cstdint>

#include <torchlora/export.h>

namespace torchlora::detail {

/// Keeps the matrix products of the calling thread on that thread while it
/// exists, if waking other threads would take longer than one product of
/// `multiplications` multiplications. Concerns products in fp32 and fp64 of a
/// LibTorch that multiplies by MKL, and nothing else.
class TORCHLORA_API SmallProducts {
 public:
  explicit SmallProducts(int64_t multiplications);
  ~SmallProducts();
  SmallProducts(const SmallProducts&) = delete;
  SmallProducts& operator=(const SmallProducts&) = delete;

 private:
  bool is_small_;
  int previous_;
};

} // namespace torchlora::detail
