#pragma once

#include <functional>
#include <vector>

#include "model/ties.h"

namespace torchlora {

/// Gives the base weights and biases that are another module's too a copy of
/// their own: the others keep the tensor. What a module computes with is then
/// its registered parameter, also where it was assigned past that. For its
/// lifetime, or for good. ValueError, and nothing is changed, where that cannot
/// be.
class Untied {
 public:
  Untied(torch::nn::Module& model, const std::vector<WrittenTensor>& written);
  ~Untied();
  Untied(const Untied&) = delete;
  Untied& operator=(const Untied&) = delete;

  void keep() noexcept {
    undo_.clear();
  }

 private:
  void untie(const WrittenTensor& written);
  void enter_assigned(torch::nn::Module& module);
  void undo() noexcept;

  torch::nn::Module& model_;
  std::vector<std::function<void()>> undo_;
};

} // namespace torchlora
