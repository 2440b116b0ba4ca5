#pragma once

#include <torchlora/types.h>

namespace torchlora::init {

/// Principal components of rows that come in batches: Ross et al. 2008,
/// "Incremental learning for robust visual tracking". A batch is decomposed
/// together with the components so far, each scaled by its singular value, and
/// a row that corrects for the shift of the mean. The decomposition and its
/// draws are those of PEFT's EVA (`svd_lowrank` of twice the rank, seed 42).
class IncrementalPca {
 public:
  IncrementalPca() = default;
  explicit IncrementalPca(int64_t n_components) : n_components_(n_components) {}

  /// Adds rows [n, features]. Ignores a batch with fewer rows than components.
  /// ValueError for fewer features than components.
  void fit(const Tensor& rows);

  int64_t n_components() const {
    return n_components_;
  }
  /// [n_components, features]; undefined before the first fit.
  const Tensor& components() const {
    return components_;
  }
  /// [n_components], descending.
  const Tensor& singular_values() const {
    return singular_values_;
  }
  /// Returns the share of each component in the variance, [n_components].
  Tensor explained_variance_ratio() const;
  /// [n_components]: the cosine of each component with the one before the last
  /// fit; undefined before the second fit.
  const Tensor& cosines() const {
    return cosines_;
  }

 private:
  int64_t n_components_ = 0, n_rows_ = 0;
  Tensor components_, singular_values_, mean_, cosines_;
  /// Σ (x - mean)² over all elements.
  Tensor deviation_;
};

} // namespace torchlora::init
