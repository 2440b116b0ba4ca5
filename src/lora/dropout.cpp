// LibTorch's generator for the CPU is serial: each number depends on the one
// before, and drawing a mask took a third of a layer's time. Here element i of
// a mask is a function of the seed and of i, by the counter-based generator
// Philox-4x32 (Salmon, Moraes, Dror and Shaw 2011, "Parallel Random Numbers: As
// Easy as 1, 2, 3"). So any rows can be drawn at any time, by any number of
// threads, and the loops over the lanes become vector instructions. Seven
// rounds are the least that the paper found to pass BigCrush.
#include "lora/dropout.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include <ATen/Context.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/types.h>

#include <torchlora/detail/dropout.h>

namespace torchlora::detail {
namespace {

/// Counters that are encrypted side by side: several vectors of each CPU's.
constexpr int64_t kLanes = 64;
constexpr int64_t kWords = 4 * kLanes;

/// Draws elements kWords · chunk to kWords · (chunk + 1) − 1 of the sequence of
/// `seed`.
std::array<uint32_t, kWords> draw(uint64_t seed, uint64_t chunk) {
  constexpr int kRounds = 7;
  std::array<uint32_t, kWords> words;
  uint32_t *w0 = words.data(), *w1 = w0 + kLanes, *w2 = w1 + kLanes,
           *w3 = w2 + kLanes;
  const uint64_t counter = chunk * kLanes;
  for (int64_t i = 0; i < kLanes; ++i) {
    w0[i] = static_cast<uint32_t>(counter) + static_cast<uint32_t>(i);
    w1[i] = static_cast<uint32_t>(counter >> 32);
    w2[i] = w3[i] = 0;
  }
  auto k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < kRounds; ++round) {
    for (int64_t i = 0; i < kLanes; ++i) {
      const auto p0 = uint64_t{0xD2511F53} * w0[i];
      const auto p1 = uint64_t{0xCD9E8D57} * w2[i];
      w0[i] = static_cast<uint32_t>(p1 >> 32) ^ w1[i] ^ k0;
      w1[i] = static_cast<uint32_t>(p1);
      w2[i] = static_cast<uint32_t>(p0 >> 32) ^ w3[i] ^ k1;
      w3[i] = static_cast<uint32_t>(p0);
    }
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return words;
}

/// Fills a dense tensor on the CPU with elements of a mask, from the element
/// `first` on.
void fill(Tensor& mask, double probability, int64_t seed, int64_t first) {
  // An element is kept if its 32 bits are at least this.
  const auto threshold = static_cast<uint32_t>(
      std::min(std::round(probability * 0x1p32), 0x1p32 - 1));
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, mask.scalar_type(), "dropout", [&] {
        const auto scale = static_cast<scalar_t>(1 / (1 - probability));
        auto* out = mask.mutable_data_ptr<scalar_t>();
        constexpr int64_t kGrain = 32 * 1024;
        at::parallel_for(
            first,
            first + mask.numel(),
            kGrain,
            [&](int64_t begin, int64_t end) {
              while (begin < end) {
                const auto chunk = begin / kWords;
                const auto words = draw(seed, chunk);
                const auto* word = words.data() + (begin - chunk * kWords);
                auto* to = out + (begin - first);
                const auto count = std::min(end, (chunk + 1) * kWords) - begin;
                for (int64_t i = 0; i < count; ++i) {
                  to[i] =
                      word[i] < threshold ? static_cast<scalar_t>(0) : scale;
                }
                begin += count;
              }
            });
      });
}

/// Draws from the default generator of the CPU on every device, so that nothing
/// waits for a GPU and activation checkpointing draws the same seed again.
int64_t draw_seed() {
  return at::randint(std::numeric_limits<int64_t>::max(), {1}, at::kLong)
      .item<int64_t>();
}

} // namespace

DropoutMask::DropoutMask(double probability)
    : DropoutMask(probability, probability == 0 ? 0 : draw_seed()) {}

int64_t DropoutMask::block_rows(const Tensor& like, int64_t rows) const {
  constexpr int64_t kBlockElements = 128 * 1024;
  return probability_ == 0 || !like.is_cpu()
      ? rows
      : std::clamp<int64_t>(
            kBlockElements / std::max<int64_t>(like.size(1), 1),
            1,
            std::max<int64_t>(rows, 1));
}

Tensor DropoutMask::rows(const Tensor& like, int64_t first, int64_t count)
    const {
  if (probability_ == 0) {
    return {};
  }
  auto mask = at::empty(
      {count, like.size(1)},
      like.options()
          .dtype(c10::toRealValueType(like.scalar_type()))
          .requires_grad(false));
  if (like.is_cpu()) {
    fill(mask, probability_, seed_, first * like.size(1));
    return mask;
  }
  auto generator = at::globalContext().defaultGenerator(like.device()).clone();
  generator.set_current_seed(static_cast<uint64_t>(seed_));
  return mask.bernoulli_(1 - probability_, generator).div_(1 - probability_);
}

Tensor dropout(const Tensor& x, double probability) {
  if (probability == 0) {
    return x;
  }
  const auto dtype = c10::toRealValueType(x.scalar_type());
  // Without storage: in a transform of functorch, say.
  if (!x.is_cpu() || !x.has_storage()) {
    return x.is_complex()
        ? x * at::dropout(at::ones_like(x, dtype), probability, /*train=*/true)
        : at::dropout(x, probability, /*train=*/true);
  }
  auto mask = at::empty_like(x, x.options().dtype(dtype).requires_grad(false));
  fill(mask, probability, draw_seed(), /*first=*/0);
  return x * mask;
}

} // namespace torchlora::detail
