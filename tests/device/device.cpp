#include "device/device.h"

#include <cstdlib>
#include <iostream>
#include <string>

#include "device/fake_device.h"

namespace torchlora::test {
namespace {

at::Device choose_device() {
  const char* variable = std::getenv("TORCHLORA_TEST_DEVICE");
  const std::string wanted = variable ? variable : "cpu";
  if (wanted == "fake") {
    register_fake_device();
    return {at::kHPU, 0};
  }
  const at::Device device(wanted);
  if (device.is_cuda()) {
    if (!torch::cuda::is_available()) {
      std::cout << "TORCHLORA_TEST_DEVICE=" << wanted
                << ": no such device here, so the tests run on the CPU\n";
      return at::kCPU;
    }
    // The goldens are of full fp32.
    at::globalContext().setAllowTF32CuBLAS(false);
    at::globalContext().setAllowTF32CuDNN(false);
  }
  return device;
}

// A fake device comes before everything else.
[[maybe_unused]] const at::Device early = test_device();

} // namespace

at::Device test_device() {
  static const auto device = choose_device();
  return device;
}

} // namespace torchlora::test
