#pragma once

// Not public: decompositions and checks that the initializers share.
//
// An initializer that decomposes a weight needs its leading r singular
// triplets, with r far below the weight's sizes. `leading_triplets` grows a
// block Krylov space until a bound of the error of U S Vᵀ is at rounding, and
// falls back to a whole decomposition where the spectrum is flat.
// `svd_lowrank` repeats the draws and steps of `torch.svd_lowrank`, for the
// initializers whose reference uses that.

#include <torchlora/init/initializer.h>

namespace torchlora::init {

/// Returns the base weight as fp32, or as fp64 if it is that. ValueError for a
/// weight that is not floating-point or whose smaller size is below the rank;
/// the message names the initializer by `name`.
TORCHLORA_API Tensor
weight_to_decompose(const Arguments& arguments, const char* name);

/// Returns the statistics that the initializer `name` needs. ValueError if
/// there are none, or none of these sizes; the message says to call
/// `preprocess`.
TORCHLORA_API const Tensor& statistics_for(
    const Arguments& arguments,
    const char* name,
    const char* preprocess,
    at::IntArrayRef sizes);

/// Singular triplets of a matrix [m, n].
struct Triplets {
  Tensor U; // [m, rank]
  Tensor S; // [rank], descending
  Tensor V; // [n, rank]
};

/// Returns the triplets of the largest `rank` singular values, as accurate as
/// a whole decomposition gives them: by block Krylov iteration (Musco and Musco
/// 2015, arXiv:1504.05477), or by a whole decomposition where the spectrum is
/// too flat for that. Does not draw from the default generator.
TORCHLORA_API Triplets leading_triplets(const Tensor& matrix, int64_t rank);

/// Returns the triplets of the smallest `rank` singular values.
TORCHLORA_API Triplets last_triplets(const Tensor& matrix, int64_t rank);

/// `torch.svd_lowrank(matrix, rank, niter)`: Halko et al. 2009, algorithm 5.1.
/// `test_matrix` [min(m, n), rank] is drawn from the default generator if it
/// is undefined.
TORCHLORA_API Triplets svd_lowrank(
    const Tensor& matrix,
    int64_t rank,
    int64_t niter,
    const Tensor& test_matrix = {});

/// Draws N(0, 1) from a generator with this seed, the same values on every
/// device, in the dtype and on the device of `like`.
TORCHLORA_API Tensor
randn_seeded(at::IntArrayRef sizes, uint64_t seed, const Tensor& like);

/// Sets the factors so that scaling · B A = U S Vᵀ, with the square root of
/// the singular values in each.
TORCHLORA_API void
share_out(Factors& factors, const Triplets& triplets, double scaling);

} // namespace torchlora::init
