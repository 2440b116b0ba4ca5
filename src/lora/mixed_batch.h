#pragma once

#include <memory>
#include <set>

#include <torchlora/types.h>

namespace torchlora {

class LoraLayer;

/// Assigns the samples of a batch (its first dimension) to adapters. A sample
/// that no entry names goes through the base layer only.
struct MixedBatch {
  /// The number of samples in the batch.
  int64_t size = 0;
  /// Pairs of an adapter name and the int64 indices of its samples.
  NamedTensors rows;
  /// The layers that it is for.
  std::set<const LoraLayer*> layers;
};

/// Returns the batch of this thread's forwards of the layer, or nullptr.
std::shared_ptr<const MixedBatch> mixed_batch_of(const LoraLayer& layer);

} // namespace torchlora
