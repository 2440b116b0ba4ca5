// Which memory a strided tensor covers.
//
// The elements of a tensor are at the addresses start + Σ stride_i · x_i with
// 0 ≤ x_i < size_i. Two tensors overlap if an address of one is an address of
// the other, that is, if the distance of their starts is a sum of their
// strides, each taken a bounded number of times. That is a subset-sum problem,
// hard in general and easy here: strides that are multiples of each other
// without a gap count as one, which leaves one to three, and each has few
// candidates.
#include "nn/memory.h"

#include <algorithm>
#include <numeric>

#include <c10/core/InferenceMode.h>
#include <torch/types.h>

namespace torchlora {
namespace {

/// A length that a sum may contain up to `count` times.
struct Step {
  int64_t length;
  int64_t count;
};

/// All sums of some steps.
class Sums {
 public:
  explicit Sums(std::vector<Step> steps) {
    std::ranges::sort(steps, {}, &Step::length);
    for (const auto& [length, count] : steps) {
      if (length == 0 || count == 0) {
        continue;
      }
      // {s k} + {m s j} are all multiples of s up to the largest if m s goes no
      // further than one past the largest s k.
      auto* last = steps_.empty() ? nullptr : &steps_.back();
      if (last && length % last->length == 0 &&
          length / last->length <= last->count + 1) {
        last->count += length / last->length * count;
      } else {
        steps_.push_back({length, count});
      }
    }
    int64_t largest = 0, divisor = 0;
    for (const auto& [length, count] : steps_) {
      largest_.push_back(largest += length * count);
      divisors_.push_back(divisor = std::gcd(divisor, length));
    }
  }

  bool contain(int64_t sum) const {
    return contain(steps_.size(), sum);
  }

 private:
  /// Whether a sum of the first `n` steps is `sum`.
  bool contain(size_t n, int64_t sum) const {
    if (n == 0) {
      return sum == 0;
    }
    if (sum < 0 || sum > largest_[n - 1] || sum % divisors_[n - 1] != 0) {
      return false;
    }
    if (n == 1) {
      return true;
    }
    const auto [length, count] = steps_[n - 1];
    const auto above = sum - largest_[n - 2]; // what this step must reach
    const auto least = above > 0 ? (above + length - 1) / length : 0;
    for (auto k = std::min(count, sum / length); k >= least; --k) {
      if (contain(n - 1, sum - k * length)) {
        return true;
      }
    }
    return false;
  }

  std::vector<Step> steps_; // ascending
  /// The largest sum of the first n steps, and what divides all their sums.
  std::vector<int64_t> largest_, divisors_;
};

int64_t itemsize(const Tensor& tensor) {
  return static_cast<int64_t>(tensor.itemsize());
}

bool has_elements(const Tensor& tensor) {
  return tensor.defined() && tensor.layout() == at::kStrided &&
      tensor.has_storage() && tensor.numel() > 0;
}

/// Whether two elements of the tensor are one: a Σ stride_i · d_i is 0 for
/// differences d of two indices that are not all 0. One of them, d_k, may be
/// taken as positive; the others begin at 1 − size_i.
bool overlaps_itself(const Tensor& tensor) {
  if (!has_elements(tensor) || tensor.is_non_overlapping_and_dense()) {
    return false;
  }
  for (int64_t k = 0; k < tensor.dim(); ++k) {
    if (tensor.size(k) < 2) {
      continue;
    }
    std::vector<Step> steps{{tensor.stride(k), tensor.size(k) - 2}};
    int64_t sum = -tensor.stride(k);
    for (int64_t i = 0; i < tensor.dim(); ++i) {
      if (i != k) {
        steps.push_back({tensor.stride(i), 2 * (tensor.size(i) - 1)});
        sum += tensor.stride(i) * (tensor.size(i) - 1);
      }
    }
    if (Sums(std::move(steps)).contain(sum)) {
      return true;
    }
  }
  return false;
}

} // namespace

bool overlap(const Tensor& a, const Tensor& b) {
  if (!has_elements(a) || !has_elements(b) || a.device() != b.device()) {
    return false;
  }
  // Storages are not compared: the tensors of one mapped file may have one or
  // many. Only tensors without memory (device "meta") have nothing else.
  const bool has_memory = a.storage().data() && b.storage().data();
  if (!has_memory && !a.is_alias_of(b)) {
    return false;
  }
  const auto start = [](const Tensor& tensor) {
    return reinterpret_cast<intptr_t>(tensor.storage().data()) +
        tensor.storage_offset() * itemsize(tensor);
  };
  // a + Σ + byte = b + Σ' + byte': the strides of `b` count from its end.
  auto sum = start(b) - start(a) + itemsize(b) - 1;
  std::vector<Step> steps{{1, itemsize(a) + itemsize(b) - 2}};
  for (int64_t i = 0; i < a.dim(); ++i) {
    steps.push_back({a.stride(i) * itemsize(a), a.size(i) - 1});
  }
  for (int64_t i = 0; i < b.dim(); ++i) {
    steps.push_back({b.stride(i) * itemsize(b), b.size(i) - 1});
    sum += steps.back().length * steps.back().count;
  }
  return Sums(std::move(steps)).contain(sum);
}

const char* why_not_writable(const Tensor& tensor) {
  if (tensor.is_inference() && !c10::InferenceMode::is_enabled()) {
    return "is an inference tensor, which only code in InferenceMode may "
           "change; clone it outside of InferenceMode";
  }
  return overlaps_itself(tensor)
      ? "has elements that share memory, as an expanded tensor has; make it "
        "contiguous"
      : "";
}

} // namespace torchlora
