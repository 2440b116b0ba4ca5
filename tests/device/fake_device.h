#pragma once

#include <cstdint>

namespace torchlora::test {

/// Makes LibTorch's device type HPU, which no build of LibTorch has kernels
/// for, a device whose memory is the host's and whose kernels are the CPU's.
/// As on a GPU, an operation refuses tensors of another device (numbers of no
/// dimension excepted), backward runs in a thread of the device, and what goes
/// to the host is a copy that somebody asked for. There are two of it, hpu:0
/// and hpu:1. Call it before anything else of LibTorch; once per process.
void register_fake_device();

/// Copies between the fake device and the host, since the process started.
struct HostCopies {
  int64_t to_host = 0;   ///< tensors, among them those of `item()`
  int64_t to_device = 0; ///< tensors
  int64_t bytes_to_device = 0;
};
HostCopies host_copies();

} // namespace torchlora::test
