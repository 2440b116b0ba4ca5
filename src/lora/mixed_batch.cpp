// A mixed batch belongs to a thread and not to the layers, as it says what the
// next forward's samples are: several threads may each serve a batch of their
// own with one model. Each copy of the library in the process has its own list,
// which the layers that it made look at.
#include "lora/mixed_batch.h"

#include <algorithm>

#include <torchlora/lora/layer.h>

namespace torchlora {
namespace {

thread_local std::vector<std::weak_ptr<const MixedBatch>> batches;

void forget_ended() {
  std::erase_if(batches, [](const auto& batch) { return batch.expired(); });
}

} // namespace

void LoraLayer::begin_mixed_batch(
    const std::shared_ptr<const MixedBatch>& batch) const {
  forget_ended();
  if (batches.empty() || batches.back().lock() != batch) {
    batches.push_back(batch);
  }
}

std::shared_ptr<const MixedBatch> mixed_batch_of(const LoraLayer& layer) {
  if (batches.empty()) {
    return nullptr;
  }
  forget_ended();
  for (auto item = batches.rbegin(); item != batches.rend(); ++item) {
    if (auto batch = item->lock(); batch && batch->layers.contains(&layer)) {
      return batch;
    }
  }
  return nullptr;
}

} // namespace torchlora
