#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include <torchlora/init/initializer.h>

namespace torchlora::init {

/// The base weight to decompose: fp32, or fp64 if it is that. ValueError for
/// a weight that is not a floating-point matrix of at least rank `r` both
/// ways.
at::Tensor weight_to_decompose(const Arguments& arguments, const char* name);

/// The statistics that an initialiser needs. ValueError if there are none, or
/// none of these sizes.
const at::Tensor& statistics_for(
    const Arguments& arguments,
    const char* name,
    at::IntArrayRef sizes);

/// The leading `rank` singular triplets of a matrix [m, n].
struct Triplets {
  at::Tensor U; // [m, rank]
  at::Tensor S; // [rank], descending
  at::Tensor V; // [n, rank]
};

/// The leading triplets, to the accuracy of a whole decomposition: by block
/// Krylov iteration (Musco and Musco 2015, arXiv:1504.05477) while its residual
/// falls, by a whole SVD where the spectrum is too flat for that. Does not
/// draw from the default generator.
TORCHLORA_API Triplets leading_triplets(const at::Tensor& matrix, int64_t rank);

/// The triplets of the smallest `rank` singular values, descending.
TORCHLORA_API Triplets last_triplets(const at::Tensor& matrix, int64_t rank);

/// `torch.svd_lowrank(matrix, rank, niter)`: Halko et al. 2009, algorithm 5.1.
/// `test_matrix` [min(m, n), rank]; undefined: drawn from the default
/// generator.
Triplets svd_lowrank(
    const at::Tensor& matrix,
    int64_t rank,
    int64_t niter,
    const at::Tensor& test_matrix = {});

/// N(0, 1) by a generator of its own, the same on every device, in the dtype
/// and on the device of `like`.
at::Tensor
randn_seeded(at::IntArrayRef sizes, uint64_t seed, const at::Tensor& like);

/// scaling · B A = U S Vᵀ, with the singular values shared out evenly.
void share_out(Factors& factors, const Triplets& triplets, double scaling);

} // namespace torchlora::init
