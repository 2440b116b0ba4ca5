#pragma once

#include <torchlora/model.h>

namespace torchlora::cli {

/// What a merge must give, layer by layer: the products of the adapted weights,
/// computed in fp32, with a random vector of signs. It takes one number per
/// output channel, where a copy of all weights would take as much memory as the
/// model. The activations of a half-precision model cannot judge a merge: they
/// round by more than an adapter changes.
class MergeProbe {
 public:
  /// Computes the products of all LoRA layers of `peft_model`, one dense weight
  /// at a time. Call it before the merge.
  explicit MergeProbe(const PeftModel& peft_model);

  /// Returns the names of the layers whose weight, merged by now, is not the
  /// adapted one rounded to its dtype.
  std::vector<std::string> differing_layers() const;

 private:
  struct Layer {
    std::string name;
    /// The base layer's weight, which the merge writes to.
    Tensor weight;
    /// [in_features] of signs; [out_features] of products in fp64, and of what
    /// rounding changes them by at most.
    Tensor signs, product, bound;
  };
  std::vector<Layer> layers_;
};

} // namespace torchlora::cli
