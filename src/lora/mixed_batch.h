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

/// Makes the forwards of this thread, and of no other, go through the batch
/// until it is destroyed. Of several that are for one layer the last counts.
void begin_mixed_batch(const std::shared_ptr<const MixedBatch>& batch);

/// Returns the batch of this thread's forwards of the layer, or nullptr.
std::shared_ptr<const MixedBatch> mixed_batch_of(const LoraLayer& layer);

} // namespace torchlora
