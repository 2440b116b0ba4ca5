#include <torchlora/tools/intruders.h>

#include <algorithm>
#include <cmath>

#include <torch/types.h>

#include <torchlora/init/detail/decompose.h>

#include "lora/undo.h"
#include "model/function_name.h"
#include "model/requirements.h"

namespace torchlora {
namespace {

void check_adapter(
    PeftState& state,
    const std::vector<TargetSite>& sites,
    const std::string& adapter_name,
    int64_t top_k,
    const char* function) {
  TORCH_CHECK_VALUE(
      top_k > 0, "[", function, "] top_k must be positive, found ", top_k);
  const auto demand = [&](Requirement requirement, const char* hint) {
    require(requirement, function, state, sites, adapter_name, hint);
  };
  demand(Requirement::kSum, "; convert or merge it instead");
  demand(Requirement::kNoOwnTensors, ", which would not follow");
  demand(Requirement::kNoParameters, ", which are one weight per expert");
  demand(Requirement::kNothingMerged, "; call unmerge_adapter first");
  demand(
      Requirement::kUnchangedBase,
      "; save it with path_initial_model_for_weight_conversion and load that");
  for (const auto& site : sites) {
    TORCH_CHECK_VALUE(
        !site.layer->has(adapter_name) ||
            !site.base_weight().weight().is_complex(),
        "[",
        function,
        "] the weight of \"",
        site.name,
        "\" must be real, found ",
        site.base_weight().weight().scalar_type());
  }
}

/// Returns the largest |cosine| of each column of `vectors` to a left singular
/// vector of `weight`. Values below `threshold` are exact; others may be too
/// small, as a part of the singular vectors proves that they are above it.
Tensor
largest_cosines(const Tensor& vectors, const Tensor& weight, double threshold) {
  const auto cosines = [&](const Tensor& U) {
    return at::mm(vectors.t(), U).abs();
  };
  const auto rank = 2 * vectors.size(1);
  if (rank < std::min(weight.size(0), weight.size(1)) / 4) {
    const auto leading =
        cosines(init::leading_triplets(weight, rank).U).amax(1);
    if ((leading >= threshold).all().item<bool>()) {
      return leading;
    }
  }
  return cosines(std::get<0>(at::linalg_svd(weight, /*full_matrices=*/false)))
      .amax(1);
}

struct Analysis {
  std::vector<IntruderDimension> intruders;
  /// The sum of σ u vᵀ over the intruders, as factors.
  Tensor A, B;
};

Analysis analyze(
    const LoraLayer& layer,
    const std::string& adapter_name,
    int64_t top_k,
    double threshold_epsilon) {
  const auto matrix = layer.base_weight().matrix();
  const auto weight =
      matrix.to(c10::promoteTypes(matrix.scalar_type(), at::kFloat));
  const auto merged =
      weight + layer.get_delta_weight(adapter_name).to(weight.scalar_type());
  const auto rank = std::min({top_k, weight.size(0), weight.size(1)});
  const auto [U, S, V] = init::leading_triplets(merged, rank);
  const auto cosines =
      largest_cosines(U, weight, threshold_epsilon).to(at::kCPU, at::kDouble);
  const auto values = S.to(at::kCPU, at::kDouble);
  Analysis result;
  std::vector<int64_t> indices;
  for (int64_t i = 0; i < rank; ++i) {
    const auto cosine = cosines[i].item<double>();
    if (cosine < threshold_epsilon) {
      indices.push_back(i);
      result.intruders.push_back({i, values[i].item<double>(), cosine});
    }
  }
  const auto chosen =
      at::tensor(indices, at::TensorOptions(at::kLong)).to(U.device());
  result.A = V.index_select(1, chosen).t();
  result.B = U.index_select(1, chosen) * S.index_select(0, chosen);
  return result;
}

void copy_adapter(const LoraAdapter& from, const LoraAdapter& to) {
  auto sources = from.tensors(), targets = to.tensors();
  for (size_t i = 0; i < sources.size(); ++i) {
    targets[i].second.copy_(sources[i].second);
  }
}

/// Writes to `to` the update of `from` less the share 1 - `mitigation_lambda`
/// of the intruders, at the same rank. Each factor gets the square roots of the
/// singular values.
void mitigate(
    const Analysis& found,
    const LoraAdapter& from,
    const LoraAdapter& to,
    double mitigation_lambda) {
  const auto dtype = found.A.scalar_type();
  const auto [A, B] = combine_updates(
      {{from.lora_A->weight.flatten(1).to(dtype),
        from.lora_B->weight.flatten(1).to(dtype),
        1,
        1},
       {found.A, found.B, 1 / from.scaling, mitigation_lambda - 1}},
      CombinationOptions("svd"),
      from.r);
  // B carries the singular values.
  const auto roots = B.norm(2, {0}).sqrt();
  to.lora_A->assign(A * roots.unsqueeze(1));
  to.lora_B->assign(B / at::where(roots > 0, roots, 1.0));
}

} // namespace

std::vector<LayerIntruders> intruder_dimensions(
    const PeftModel& peft,
    const std::string& adapter_name,
    int64_t top_k,
    double threshold_epsilon) {
  const auto sites = lora_sites(peft.base_model());
  check_adapter(
      StateAccess::of(peft), sites, adapter_name, top_k, "intruder_dimensions");
  torch::NoGradGuard no_grad;
  std::vector<LayerIntruders> report;
  for (const auto& site : sites) {
    if (site.layer->find_adapter(adapter_name)) {
      report.push_back(
          {site.name,
           analyze(*site.layer, adapter_name, top_k, threshold_epsilon)
               .intruders});
    }
  }
  return report;
}

std::vector<LayerIntruders> reduce_intruder_dimension(
    PeftModel& peft,
    const std::string& old_adapter_name,
    const std::string& new_adapter_name,
    int64_t top_k,
    double threshold_epsilon,
    double mitigation_lambda) {
  TORCH_CHECK_VALUE(
      std::isfinite(mitigation_lambda),
      "[reduce_intruder_dimension] mitigation_lambda must be a finite number, "
      "found ",
      mitigation_lambda);
  const auto sites = lora_sites(peft.base_model());
  check_adapter(
      StateAccess::of(peft),
      sites,
      old_adapter_name,
      top_k,
      "reduce_intruder_dimension");
  auto config = peft.peft_config(old_adapter_name);
  // NOTE: the factors are overwritten below. An initializer would change the
  // base or freeze B.
  in_function("reduce_intruder_dimension", [&] {
    peft.add_adapter(new_adapter_name, config.forget_initializer());
  });
  std::vector<LayerIntruders> report;
  all_or_nothing([&](Undo& undo) {
    undo.add("the model", [&] { peft.delete_adapter(new_adapter_name); });
    torch::NoGradGuard no_grad;
    for (const auto& site : sites) {
      const auto* from = site.layer->find_adapter(old_adapter_name);
      const auto* to = site.layer->find_adapter(new_adapter_name);
      if (!from || !to) {
        continue;
      }
      copy_adapter(*from, *to);
      const auto found =
          analyze(*site.layer, old_adapter_name, top_k, threshold_epsilon);
      if (!found.intruders.empty()) {
        mitigate(found, *from, *to, mitigation_lambda);
      }
      report.push_back({site.name, found.intruders});
    }
    peft.set_adapter(new_adapter_name);
  });
  return report;
}

} // namespace torchlora
