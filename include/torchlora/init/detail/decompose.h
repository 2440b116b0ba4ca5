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

/// Returns the base weight as fp32 (fp64 stays fp64), for a decomposition.
/// ValueError if the weight is not floating-point or if its smaller dimension
/// is below the rank; the message names the initializer `name`.
TORCHLORA_API Tensor
weight_to_decompose(const Arguments& arguments, const char* name);

/// Returns the statistics of the layer that the initializer `name` needs.
/// ValueError if there are none or if their sizes are not `sizes`; the message
/// tells the user to call `preprocess`.
TORCHLORA_API const Tensor& statistics_for(
    const Arguments& arguments,
    const char* name,
    const char* preprocess,
    at::IntArrayRef sizes);

/// Singular triplets of a matrix [m, n]: left vectors, values and right
/// vectors, so that U diag(S) Vᵀ is the matrix or a part of it.
struct Triplets {
  Tensor U; // [m, rank]
  Tensor S; // [rank], descending
  Tensor V; // [n, rank]
};

/// Returns the triplets of the `rank` largest singular values of `matrix`, as
/// accurate as a full decomposition gives them. Uses block Krylov iteration
/// (Musco and Musco 2015, arXiv:1504.05477), or a full decomposition if the
/// spectrum is too flat for it. Does not draw from the default generator.
TORCHLORA_API Triplets leading_triplets(const Tensor& matrix, int64_t rank);

/// Returns the triplets of the `rank` smallest singular values of `matrix`.
TORCHLORA_API Triplets last_triplets(const Tensor& matrix, int64_t rank);

/// Returns approximate triplets of the `rank` largest singular values, with the
/// draws and the `niter` steps of `torch.svd_lowrank` (Halko et al. 2009,
/// algorithm 5.1). If `test_matrix` [min(m, n), rank] is undefined, it is drawn
/// from the default generator.
TORCHLORA_API Triplets svd_lowrank(
    const Tensor& matrix,
    int64_t rank,
    int64_t niter,
    const Tensor& test_matrix = {});

/// Draws N(0, 1) from a generator with the given seed and returns it in the
/// dtype and on the device of `like`. The values are the same on every device.
TORCHLORA_API Tensor
randn_seeded(at::IntArrayRef sizes, uint64_t seed, const Tensor& like);

/// Sets A and B so that scaling · B A = U S Vᵀ. A and B each get the square
/// root of S / scaling.
TORCHLORA_API void
share_out(Factors& factors, const Triplets& triplets, double scaling);

} // namespace torchlora::init
