#include <torchlora/init/detail/decompose.h>

#include <algorithm>
#include <limits>

#include <ATen/CPUGeneratorImpl.h>
#include <torch/types.h>

namespace torchlora::init {
namespace {

/// Relative error of the leading part at which the iteration ends.
constexpr double kTolerance = 5e-6;
/// An error below it that no longer falls is a rounding error.
constexpr double kRounding = 1e-5;
/// Number of blocks before the error is computed for the first time.
constexpr int64_t kFirstCheck = 4;

Tensor orthonormal(const Tensor& matrix) {
  return std::get<0>(at::linalg_qr(matrix));
}

/// Returns `count` triplets of `matrix`, from number `begin` on, within the
/// span of `basis` [m, k]; `projected` is basisᵀ matrix [k, n].
Triplets within(
    const Tensor& basis,
    const Tensor& projected,
    int64_t begin,
    int64_t count) {
  // In double: squares lose half of the digits.
  const auto wide = projected.to(at::kDouble);
  const auto [squares, vectors] = at::linalg_eigh(at::mm(wide, wide.t()));
  const auto dtype = basis.scalar_type();
  const auto S = squares.flip(0).narrow(0, begin, count).clamp_min(0).sqrt();
  const auto Y = vectors.flip(1).narrow(1, begin, count);
  return {
      at::mm(basis, Y.to(dtype)),
      S.to(dtype),
      at::mm(wide.t(), Y).div_(S).to(dtype)};
}

Triplets first(const Triplets& triplets, int64_t rank) {
  return {
      triplets.U.narrow(1, 0, rank),
      triplets.S.narrow(0, 0, rank),
      triplets.V.narrow(1, 0, rank)};
}

/// Returns `count` triplets, from number `begin` on, by a whole decomposition.
/// A large fp32 matrix is squared in double first: this takes less time and is
/// as exact unless the singular values are tiny.
Triplets whole(const Tensor& matrix, int64_t begin, int64_t count) {
  constexpr int64_t kLarge = 256;
  constexpr double kTiny = 1e-7;
  const auto m = matrix.size(0);
  if (m > matrix.size(1)) {
    const auto [U, S, V] = whole(matrix.t(), begin, count);
    return {V, S, U};
  }
  if (m >= kLarge && matrix.scalar_type() == at::kFloat) {
    const auto identity = at::eye(m, matrix.options());
    const auto found = within(identity, matrix, begin, count);
    if ((found.S[count - 1] > kTiny * matrix.norm()).item<bool>()) {
      return found;
    }
  }
  const auto [U, S, Vh] = at::linalg_svd(matrix, /*full_matrices=*/false);
  return {
      U.narrow(1, begin, count),
      S.narrow(0, begin, count),
      Vh.narrow(0, begin, count).t()};
}

/// Returns a bound of the relative error of U S Vᵀ for the first `rank` of
/// `rank` + 1 triplets. By Davis and Kahan the residual of a triplet turns it
/// the further, the closer its singular value is to those left out.
double
relative_error(const Tensor& matrix, const Triplets& triplets, int64_t rank) {
  const auto S = triplets.S.narrow(0, 0, rank);
  const auto residuals = (at::mm(matrix, triplets.V.narrow(1, 0, rank)) -
                          triplets.U.narrow(1, 0, rank) * S)
                             .norm(2, {0});
  const auto turned = residuals * S / (S - triplets.S[rank]);
  return (turned.norm() / S.norm()).item<double>();
}

} // namespace

Tensor weight_to_decompose(const Arguments& arguments, const char* name) {
  const auto& weight = arguments.base_weight;
  TORCH_CHECK_VALUE(
      weight.is_floating_point(),
      "[init_lora_weights] ",
      name,
      " needs a floating-point weight, found ",
      weight.scalar_type());
  const auto most = std::min(weight.size(0), weight.size(1));
  TORCH_CHECK_VALUE(
      arguments.r <= most,
      "[init_lora_weights] ",
      name,
      " needs `r` <= min(in_features, out_features), found r ",
      arguments.r,
      " for a weight of ",
      weight.sizes());
  return weight.to(c10::promoteTypes(weight.scalar_type(), at::kFloat));
}

const Tensor& statistics_for(
    const Arguments& arguments,
    const char* name,
    const char* preprocess,
    at::IntArrayRef sizes) {
  TORCH_CHECK_VALUE(
      arguments.statistics.defined() && arguments.statistics.sizes() == sizes,
      "[init_lora_weights] ",
      name,
      " needs statistics of sizes ",
      sizes,
      ", found ",
      arguments.statistics.defined() ? c10::str(arguments.statistics.sizes())
                                     : "none",
      "; run ",
      preprocess,
      " with this model and this configuration first, and pass on its result "
      "(InjectOptions::init_statistics)");
  return arguments.statistics;
}

Tensor randn_seeded(at::IntArrayRef sizes, uint64_t seed, const Tensor& like) {
  auto generator = at::detail::createCPUGenerator(seed);
  return at::randn(sizes, generator, at::TensorOptions(like.scalar_type()))
      .to(like.device());
}

Triplets leading_triplets(const Tensor& matrix, int64_t rank) {
  const auto m = matrix.size(0), n = matrix.size(1);
  const auto block = rank + std::max<int64_t>(8, rank / 2);
  auto next = randn_seeded({n, block}, /*seed=*/1, matrix);
  Tensor basis, projected;
  double last_error = std::numeric_limits<double>::infinity();
  for (int64_t k = block; k <= std::min(m, n) / 3; k += block) {
    auto columns = orthonormal(at::mm(matrix, next));
    if (basis.defined()) {
      // Twice is enough.
      for (int pass = 0; pass < 2; ++pass) {
        columns = columns - at::mm(basis, at::mm(basis.t(), columns));
        columns = orthonormal(columns);
      }
    }
    const auto rows = at::mm(columns.t(), matrix);
    basis = basis.defined() ? at::cat({basis, columns}, 1) : columns;
    projected = projected.defined() ? at::cat({projected, rows}) : rows;
    next = rows.t();
    if (k < kFirstCheck * block) {
      continue;
    }
    const auto found = within(basis, projected, 0, rank + 1);
    const double error = relative_error(matrix, found, rank);
    // Not (for a NaN) falling fast enough to be there in a few steps.
    const bool stalls = !(error < last_error / 2);
    if (error < kTolerance || (stalls && error < kRounding)) {
      return first(found, rank);
    }
    if (stalls) {
      break;
    }
    last_error = error;
  }
  return whole(matrix, 0, rank);
}

Triplets last_triplets(const Tensor& matrix, int64_t rank) {
  return whole(matrix, std::min(matrix.size(0), matrix.size(1)) - rank, rank);
}

Triplets svd_lowrank(
    const Tensor& matrix,
    int64_t rank,
    int64_t niter,
    const Tensor& test_matrix) {
  if (matrix.size(0) < matrix.size(1)) {
    auto [U, S, V] = svd_lowrank(matrix.t(), rank, niter, test_matrix);
    return {V, S, U};
  }
  auto Q = orthonormal(at::mm(
      matrix,
      test_matrix.defined()
          ? test_matrix
          : at::randn({matrix.size(1), rank}, matrix.options())));
  for (int64_t i = 0; i < niter; ++i) {
    Q = orthonormal(at::mm(matrix.t(), Q));
    Q = orthonormal(at::mm(matrix, Q));
  }
  const auto [U, S, Vh] =
      at::linalg_svd(at::mm(Q.t(), matrix), /*full_matrices=*/false);
  return {at::mm(Q, U), S, Vh.t()};
}

void share_out(Factors& factors, const Triplets& triplets, double scaling) {
  const auto root = (triplets.S / scaling).sqrt();
  factors.A = triplets.V.t() * root.unsqueeze(1);
  factors.B = triplets.U * root;
}

} // namespace torchlora::init
