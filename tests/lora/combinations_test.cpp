// Every layer type × dtype × variant × operation, with sizes and options drawn
// from a seed, against the dense formula in fp64. A combination computes what
// the formula says or is refused by name, and `is_refused` says which ones are.
// Another draw: --gtest_random_seed=N.
#include <array>
#include <cstdio>
#include <filesystem>
#include <string>

#include <unistd.h>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "lora/combination.h"
#include "support.h"

namespace torchlora::test {
namespace {

namespace fs = std::filesystem;
constexpr std::array kVariants{
    std::pair(Variant::kPlain, "plain"),
    std::pair(Variant::kRslora, "rslora"),
    std::pair(Variant::kLoraBias, "lora_bias"),
    std::pair(Variant::kDora, "dora"),
    std::pair(Variant::kKasa, "kasa"),
    std::pair(Variant::kVelora, "velora"),
    std::pair(Variant::kPissa, "pissa")};

constexpr std::array kOperations{
    std::pair(Operation::kForward, "forward"),
    std::pair(Operation::kBackward, "backward"),
    std::pair(Operation::kMerged, "merged"),
    std::pair(Operation::kUnmerged, "unmerged"),
    std::pair(Operation::kDisabled, "disabled"),
    std::pair(Operation::kMixed, "mixed batch"),
    std::pair(Operation::kLoaded, "saved and loaded"),
    std::pair(Operation::kHotswapped, "hotswapped")};

constexpr std::array kPrecisions{
    Precision{at::kDouble, 1e-11},
    Precision{at::kFloat, 1e-4},
    Precision{at::kBFloat16, 0.06, nn::ComputeRoute::kUpcast},
    Precision{at::kBFloat16, 0.06, nn::ComputeRoute::kNative},
    Precision{at::kHalf, 0.02, nn::ComputeRoute::kUpcast},
    Precision{at::kHalf, 0.02, nn::ComputeRoute::kNative}};

bool cannot_have(const CanDo& can, Variant variant) {
  switch (variant) {
    case Variant::kLoraBias:
      return !can.lora_bias;
    case Variant::kDora:
      return !can.dora;
    case Variant::kKasa:
    case Variant::kVelora:
      return !can.is_linear;
    case Variant::kPissa:
      return can.is_experts;
    default:
      return false;
  }
}

bool is_refused(const CanDo& can, Variant variant, Operation operation) {
  if (cannot_have(can, variant)) {
    return true;
  }
  switch (operation) {
    case Operation::kMerged:
    case Operation::kUnmerged:
      return variant == Variant::kLoraBias && !can.has_bias;
    case Operation::kMixed:
      return !can.mixes || variant == Variant::kDora;
    case Operation::kHotswapped:
      return variant == Variant::kKasa || variant == Variant::kVelora ||
          variant == Variant::kPissa;
    default:
      return false;
  }
}

/// A folder in memory where there is one: a file on a disk waits for the disk.
fs::path folder() {
  const fs::path memory("/dev/shm");
  return (fs::exists(memory) ? memory : fs::path(testing::TempDir())) /
      ("torchlora_combinations_" + std::to_string(getpid()));
}

class Combinations : public testing::TestWithParam<LayerEntry> {
 protected:
  static void TearDownTestSuite() {
    fs::remove_all(folder());
    std::printf(
        "%d combinations, %d of them refused by name\n",
        combinations,
        refusals);
  }
  static int combinations, refusals;
};
int Combinations::combinations = 0;
int Combinations::refusals = 0;

TEST_P(Combinations, AreRightOrRefusedByName) {
  const auto& entry = GetParam();
  auto seed = static_cast<uint64_t>(GTEST_FLAG_GET(random_seed)) << 32;
  for (const char* c = entry.name; *c; ++c) {
    seed = seed * 31 + static_cast<unsigned char>(*c);
  }
  for (const auto& precision : kPrecisions) {
    nn::set_compute_route(precision.route);
    for (const auto& [variant, variant_name] : kVariants) {
      Combination combination(entry, ++seed, precision, variant, folder());
      const auto adapting = refusal([&] { combination.adapt(); });
      EXPECT_EQ(!adapting.empty(), cannot_have(entry.can, variant))
          << variant_name << ' ' << adapting;
      for (const auto& [operation, name] : kOperations) {
        SCOPED_TRACE(c10::str(
            entry.name,
            ", ",
            precision.dtype,
            ", ",
            variant_name,
            ", ",
            name,
            ", seed ",
            seed));
        const auto said = adapting.empty()
            ? refusal([&] { combination.run(operation); })
            : adapting;
        ++combinations;
        refusals += !said.empty();
        EXPECT_EQ(!said.empty(), is_refused(entry.can, variant, operation))
            << said;
        EXPECT_TRUE(said.empty() || said.starts_with('[')) << said;
      }
    }
  }
  nn::set_compute_route(std::nullopt);
}

INSTANTIATE_TEST_SUITE_P(
    Layers,
    Combinations,
    testing::ValuesIn(layer_entries()),
    [](const auto& info) { return std::string(info.param.name); });

} // namespace
} // namespace torchlora::test
