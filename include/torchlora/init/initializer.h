#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <torchlora/config/lora_config.h>
#include <torchlora/export.h>

namespace torchlora::init {

/// The factors of an update, as they are constructed fp32 on the CPU:
/// A [r, in_features], B [out_features, r], with `lora_bias` B's bias
/// [out_features]. Of a convolution in_features counts kernel elements too.
struct Factors {
  /// @{
  /// See above; `bias` is undefined without `lora_bias`.
  at::Tensor A, B, bias = {};
  /// @}

  /// Whether the base weight gives up the update, so that the adapted layer is
  /// the base layer: W ← W - scaling · B A.
  bool subtract = false;
  /// What replaces the base weight, if anything does (LoftQ).
  at::Tensor base_weight = {};
  /// False: B is frozen (MiCA).
  bool trains_B = true;
};

/// What an initialiser may look at.
struct Arguments {
  /// The adapter's.
  const LoraConfig& config;
  /// The rank in this layer.
  int64_t r;
  /// What B A is multiplied by.
  double scaling;
  /// [out_features, in_features], in the base layer's dtype and device; to
  /// read.
  at::Tensor base_weight;
  /// What the data say, undefined if nobody asked them: for CorDA the
  /// covariance [in_features, in_features] of the layer's input, for LoRA-GA
  /// the mean gradient [out_features, in_features] of the base weight.
  at::Tensor statistics = {};
  /// Whether the factors are about to be overwritten by those of a file: what
  /// else an initialiser does is all that counts.
  bool is_loaded = false;
};

/// Overwrites factors that hold what the layer was constructed with (for a
/// linear layer: both as `torch::nn::Linear` draws its weight). Draws from
/// the CPU's default generator in PEFT's order, so that the same seed gives
/// the same factors.
using Initializer = void (*)(Factors& factors, const Arguments& arguments);

/// The initialiser that `init_lora_weights` means: true, false, or a name
/// (case is ignored where PEFT ignores it). ValueError lists the known names.
TORCHLORA_API Initializer find_initializer(const InitLoraWeights& value);

/// ValueError if an initialiser's own configuration is missing or has values
/// it must not have; warns of one that is not for the initialiser chosen.
TORCHLORA_API void check_init_config(const LoraConfig& config);

/// Whether the initialiser changes the base weight.
TORCHLORA_API bool changes_the_base(const LoraConfig& config);

/// Whether it changes the base weight in a way that the
/// checkpoint and the configuration alone do not tell.
TORCHLORA_API bool changes_the_base_for_good(const LoraConfig& config);

/// true: A as `torch::nn::Linear` draws it (uniform in ±1/√in_features), B
/// zero: the adapted layer is the base layer.
TORCHLORA_API void default_init(Factors& factors, const Arguments& arguments);
/// false: both stay as they were drawn; the layer changes. For tests.
TORCHLORA_API void no_init(Factors& factors, const Arguments& arguments);
/// true for an embedding: A zero, B ~ N(0, 1).
TORCHLORA_API void embedding_init(Factors& factors, const Arguments& arguments);
/// "gaussian": A ~ N(0, 1/r²), B zero.
TORCHLORA_API void gaussian_init(Factors& factors, const Arguments& arguments);
/// "orthogonal": B A is zero, as the rows of A and the columns of B are spanned
/// by the even and the odd rows of one orthogonal matrix; both non-zero. The
/// rank must be even.
TORCHLORA_API void orthogonal_init(
    Factors& factors,
    const Arguments& arguments);
/// "olora": W = Q R; B is the first r columns of Q, A the first r rows of R.
/// Büyükakyüz 2024, arXiv:2406.01775.
TORCHLORA_API void olora_init(Factors& factors, const Arguments& arguments);
/// "pissa": scaling · B A is the best approximation of W of rank r, the
/// singular values shared out evenly. Meng et al. 2024, arXiv:2404.02948. Not
/// the whole decomposition is computed where a Krylov space holds the leading
/// part of it.
TORCHLORA_API void pissa_init(Factors& factors, const Arguments& arguments);
/// "pissa_niter_N": the same by N steps of a randomised subspace iteration,
/// the draws of `torch.svd_lowrank`.
TORCHLORA_API void pissa_niter_init(
    Factors& factors,
    const Arguments& arguments);
/// "mica": B is the r left singular vectors of the smallest singular values,
/// and frozen; A is zero. arXiv:2604.01694.
TORCHLORA_API void mica_init(Factors& factors, const Arguments& arguments);
/// "corda": the components of W C, of the covariance C of the layer's input:
/// W C = U S Vᵀ, scaling · B A = U S Vᵀ C⁻¹ of the first r (ipm) or the last r
/// (kpm). Yang et al. 2024, arXiv:2406.05223.
TORCHLORA_API void corda_init(Factors& factors, const Arguments& arguments);
/// "lora_ga": A and B from the singular vectors of the mean gradient, so that
/// a first step goes where that of the whole weight would. Wang et al. 2024,
/// arXiv:2407.05000.
TORCHLORA_API void lora_ga_init(Factors& factors, const Arguments& arguments);
/// "loftq": the base weight becomes a quantised one, Q, and scaling · B A the
/// best approximation of W - Q. Li et al. 2023, arXiv:2310.08659.
TORCHLORA_API void loftq_init(Factors& factors, const Arguments& arguments);
/// "eva": B zero; A comes from the data after the injection
/// (`initialize_lora_eva_weights`).
TORCHLORA_API void eva_init(Factors& factors, const Arguments& arguments);

} // namespace torchlora::init
