// MKL divides even a product of a few microseconds among all threads. Those
// that sleep have to be woken, which takes longer than the product. MKL has a
// number of threads for each calling thread, which LibTorch does not set, so it
// can be changed and restored without an effect on anyone else.
#include "lora/small_products.h"

#ifdef __ELF__
/// MKL's function in LibTorch's library; null in a LibTorch without MKL. Takes
/// and returns a number of threads; 0 means the number of the process.
extern "C" __attribute__((weak)) int MKL_Set_Num_Threads_Local(int threads);
#else
constexpr int (*MKL_Set_Num_Threads_Local)(int) = nullptr;
#endif

namespace torchlora::detail {

SmallProducts::SmallProducts(int64_t multiplications)
    // One core takes about 25 µs for as many.
    : is_small_(
          multiplications < 500'000 && MKL_Set_Num_Threads_Local != nullptr),
      previous_(is_small_ ? MKL_Set_Num_Threads_Local(1) : 0) {}

SmallProducts::~SmallProducts() {
  if (is_small_) {
    MKL_Set_Num_Threads_Local(previous_);
  }
}

} // namespace torchlora::detail
