#include "cli/merge.h"

#include <algorithm>

#include <torch/types.h>

#include <torchlora/io/checkpoint.h>
#include <torchlora/nn/compute.h>

namespace torchlora::cli {
namespace {

constexpr int64_t kMaxPositions = 64;

/// Logits [N, vocab_size] in fp32.
at::Tensor logits_at(
    gemma4::Gemma4ForCausalLM& model,
    const at::Tensor& input_ids,
    const at::Tensor& positions) {
  const torch::NoGradGuard no_grad;
  const at::Tensor hidden =
      model->hidden_states(input_ids).flatten(0, 1).index_select(0, positions);
  const nn::LmHead head = model->lm_head();
  const at::Tensor logits = nn::linear(hidden, head.weight).to(at::kFloat);
  const double cap = head.final_logit_softcapping;
  return cap > 0 ? (logits / cap).tanh() * cap : logits;
}

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

/// Whether the merged weights are rounded to fewer digits than fp32 has, in
/// memory or in the file.
bool is_rounded(const gemma4::Gemma4ForCausalLM& model) {
  const io::Checkpoint checkpoint(model->name_or_path());
  const auto& keys = checkpoint.keys();
  return model->lm_head().weight.scalar_type() != at::kFloat ||
      std::any_of(keys.begin(), keys.end(), [&](const std::string& key) {
           const at::ScalarType dtype = checkpoint.file_of(key).dtype(key);
           return dtype == at::kBFloat16 || dtype == at::kHalf;
         });
}

} // namespace

MergeReport merge_and_save(
    gemma4::Gemma4ForCausalLM& model,
    PeftModel& peft_model,
    const std::filesystem::path& destination,
    const at::Tensor& input_ids,
    const at::Tensor& positions) {
  const int64_t stride = (positions.numel() - 1) / kMaxPositions + 1;
  const at::Tensor compared =
      positions.slice(0, 0, positions.numel(), stride).contiguous();
  model->eval();
  const at::Tensor adapted = logits_at(model, input_ids, compared);
  MergeReport report;
  report.num_positions = compared.numel();
  {
    const DisableAdapterGuard guard = peft_model.disable_adapter();
    report.largest_effect =
        largest_difference(adapted, logits_at(model, input_ids, compared));
  }
  const double relative_bound = is_rounded(model) ? 0.1 : 3e-5;
  report.bound =
      relative_bound * std::max(1.0, adapted.abs().max().item<double>());

  const at::ScalarType dtype = model->lm_head().weight.scalar_type();
  peft_model.merge_and_unload(/*safe_merge=*/true);
  io::save_pretrained(*model, model->name_or_path(), destination);
  gemma4::Gemma4ForCausalLM merged =
      gemma4::from_pretrained(destination, {.dtype = dtype});
  merged->eval();
  report.largest_difference =
      largest_difference(adapted, logits_at(merged, input_ids, compared));
  TORCH_CHECK(
      report.largest_difference <= report.bound,
      "the merged model in ",
      destination.string(),
      " is not the adapted one: its logits differ by up to ",
      report.largest_difference,
      ", rounding explains ",
      report.bound);
  return report;
}

} // namespace torchlora::cli
