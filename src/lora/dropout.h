#pragma once

#include <torchlora/types.h>

namespace torchlora::detail {

/// The mask of one dropout of a matrix: 0 with the given probability, otherwise
/// 1 / (1 − probability). The seed stands for the mask: nobody stores it, and
/// backward draws it again.
class DropoutMask {
 public:
  /// Draws a seed from the default generator of the CPU, unless `probability`
  /// is 0.
  explicit DropoutMask(double probability);
  DropoutMask(double probability, int64_t seed)
      : probability_(probability), seed_(seed) {}

  int64_t seed() const {
    return seed_;
  }
  /// Returns how many of `rows` rows to draw at a time, so that what is made of
  /// them stays in a core's cache. A row has the columns of `like`. All rows
  /// without dropout, and on devices other than the CPU.
  int64_t block_rows(const Tensor& like, int64_t rows) const;
  /// Returns `count` rows of the mask from row `first` on, which is a multiple
  /// of `block_rows`, with the columns, the device and the real dtype of
  /// `like`; undefined without dropout.
  Tensor rows(const Tensor& like, int64_t first, int64_t count) const;

 private:
  double probability_;
  int64_t seed_;
};

} // namespace torchlora::detail
