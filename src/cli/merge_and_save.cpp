#include "cli/merge_and_save.h"

#include <algorithm>

#include <torchlora/io/checkpoint.h>

namespace torchlora::cli {
namespace {

constexpr int64_t kMaxPositions = 64;

/// Logits [N, vocab_size] in fp32.
Tensor logits_at(
    gemma4::Gemma4ForCausalLM& model,
    const Tensor& input_ids,
    const Tensor& positions) {
  const torch::NoGradGuard no_grad;
  const Tensor hidden =
      model->hidden_states(input_ids).flatten(0, 1).index_select(0, positions);
  return model->lm_head().logits(hidden).to(at::kFloat);
}

double largest_difference(const Tensor& a, const Tensor& b) {
  return (a - b).abs().max().item<double>();
}

/// Checks that the weights loaded from the folder are those in memory, rounded
/// to the dtype of the file.
void check_saved(
    const gemma4::Gemma4ForCausalLM& model,
    const gemma4::Gemma4ForCausalLM& saved,
    const std::filesystem::path& directory) {
  const io::Checkpoint checkpoint(directory);
  const auto found = saved->named_parameters();
  for (const auto& item : model->named_parameters()) {
    const at::ScalarType dtype =
        checkpoint.file_of(item.key()).dtype(item.key());
    const Tensor expected =
        item.value().to(dtype).to(item.value().scalar_type());
    TORCH_CHECK(
        at::equal(expected, found[item.key()]),
        "the merged model was not written as it is: ",
        item.key(),
        " in ",
        directory.string(),
        " is not the merged weight");
  }
}

} // namespace

MergeReport merge_and_save(
    gemma4::Gemma4ForCausalLM& model,
    PeftModel& peft_model,
    const std::filesystem::path& destination,
    const Tensor& input_ids,
    const Tensor& positions) {
  const int64_t stride = (positions.numel() - 1) / kMaxPositions + 1;
  const Tensor compared =
      positions.slice(0, 0, positions.numel(), stride).contiguous();
  model->eval();
  const Tensor adapted = logits_at(model, input_ids, compared);
  MergeReport report;
  report.num_positions = compared.numel();
  {
    const DisableAdapterGuard guard = peft_model.disable_adapter();
    report.largest_effect =
        largest_difference(adapted, logits_at(model, input_ids, compared));
  }
  const at::ScalarType dtype = model->lm_head().weight.scalar_type();
  peft_model.merge_and_unload(MergeOptions().safe_merge(true));
  // In half precision the merge rounds the weights. The bound stays below the
  // effect of the adapter, so that a merge that loses the adapter cannot pass.
  const double scale = std::max(1.0, adapted.abs().max().item<double>());
  const double bound = at::isReducedFloatingType(dtype)
      ? std::max(0.02 * scale, std::min(0.1 * scale, report.largest_effect / 2))
      : 3e-5 * scale;
  const double difference =
      largest_difference(adapted, logits_at(model, input_ids, compared));
  TORCH_CHECK(
      difference <= bound,
      "the merged model is not the adapted one: its logits differ by up to ",
      difference,
      ", rounding explains ",
      bound,
      "; nothing was written");
  io::save_pretrained(*model, model->name_or_path(), destination);
  gemma4::Gemma4ForCausalLM saved =
      gemma4::from_pretrained(destination, {.dtype = dtype});
  saved->eval();
  check_saved(model, saved, destination);
  report.largest_difference =
      largest_difference(adapted, logits_at(saved, input_ids, compared));
  return report;
}

} // namespace torchlora::cli
