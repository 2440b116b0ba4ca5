#pragma once

#include "model/sites.h"
#include "nn/memory.h"

namespace torchlora {

/// A tensor that shares memory with another.
struct Tie {
  std::string name;
  /// The same tensor object.
  bool is_same = false;
  /// nullptr for the model's output head.
  Module* module = nullptr;
};

/// Returns the weight of a layer if it is not its registered parameter: tied
/// by `layer->weight = other->weight`.
const Tensor* assigned_weight(Module& module);

/// Every tensor that a module of the model may compute with: parameters and
/// buffers, the weights and biases of layers, which may have been assigned past
/// the registry of their module, and the output head. Collected once, for as
/// many questions as there are.
class Ties {
 public:
  explicit Ties(Module& model);

  /// Returns the tensors outside `module` (nullptr: all) that share memory with
  /// `tensor`; those that a layer has twice are there twice. "The model's
  /// output head" is one too.
  std::vector<Tie> of(const Module* module, const Tensor& tensor) const;
  /// Returns the first of them.
  std::optional<Tie> first_of(const Module* module, const Tensor& tensor) const;

 private:
  struct Owner {
    std::string name;
    Tensor tensor;
    Module* module;
  };
  std::vector<Owner> owners_;
};

/// What a change writes to: a layer's weight, or its bias.
struct WrittenTensor {
  TargetSite site;
  bool is_bias = false;

  Tensor tensor() const {
    const auto base = site.base_weight();
    return is_bias ? base.bias() : base.weight();
  }
};

/// ValueError, naming both, if a tensor that `change` ("a merge") writes to is
/// another module's too.
void check_not_tied(
    Module& model,
    const std::vector<WrittenTensor>& written,
    const std::string& change);

} // namespace torchlora
