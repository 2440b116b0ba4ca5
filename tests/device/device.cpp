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
  const bool is_cuda = wanted.starts_with("cuda");
  if (wanted != "cpu" && !is_cuda) {
    std::cerr
        << "TORCHLORA_TEST_DEVICE must be cpu, cuda, cuda:N or fake, found "
        << wanted << '\n';
    std::exit(2);
  }
  const at::Device device(wanted);
  if (is_cuda) {
    const auto devices = static_cast<int64_t>(torch::cuda::device_count());
    if (device.index() >= devices || devices == 0) {
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
