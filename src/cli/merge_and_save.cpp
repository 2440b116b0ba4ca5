#include "cli/merge_and_save.h"

#include <algorithm>

#include <fmt/format.h>

#include <torchlora/io/checkpoint.h>

#include "cli/merge_probe.h"
#include "text/first_few.h"

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

void warn_of_doubtful_layers(
    const MergeReport& report,
    at::ScalarType dtype,
    const std::filesystem::path& directory) {
  if (!report.doubtful_layers.empty()) {
    TORCH_WARN(fmt::format(
        "the merged weights of {} layers differ from the adapted ones by more "
        "than rounding to {} explains; compare {} with the adapter before you "
        "use it: {}",
        report.doubtful_layers.size(),
        toString(dtype),
        directory.string(),
        detail::first_few(report.doubtful_layers)));
  }
}

/// Says if the logits of the merged model in memory are not the adapted one's:
/// a file in the checkpoint's dtype rounds its weights. For fp32 and fp64; in
/// half precision logits differ by the rounding of activations.
void warn_of_logits(
    const Tensor& merged,
    const Tensor& adapted,
    const std::filesystem::path& directory) {
  const double difference = largest_difference(adapted, merged);
  const double scale = std::max(1.0, adapted.abs().max().item<double>());
  if (!(difference <= 1e-4 * scale)) {
    TORCH_WARN(fmt::format(
        "the logits of the merged model differ from those of the adapted one "
        "by up to {:.3g}, which is more than rounding explains; compare {} "
        "with the adapter before you use it",
        difference,
        directory.string()));
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
  const MergeProbe probe(peft_model);
  peft_model.merge_and_unload(MergeOptions().safe_merge(true));
  report.doubtful_layers = probe.differing_layers();
  warn_of_doubtful_layers(report, dtype, destination);
  if (!at::isReducedFloatingType(dtype)) {
    warn_of_logits(logits_at(model, input_ids, compared), adapted, destination);
  }
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
