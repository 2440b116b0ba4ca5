#include "cli/trl_flags.h"

#include <sstream>

namespace torchlora::cli {
namespace {

constexpr bool kHarmless = true;
constexpr bool kRefused = false;

/// Flags that one advice is about. `names` has spaces between them, and behind
/// a name the values that ask for what happens anyway: `name=value|value`.
struct Group {
  bool is_harmless;
  const char* advice;
  const char* names;
};

constexpr Group kGroups[] = {
    {kRefused,
     "quantized bases are not supported; use the checkpoint in bf16 or fp32",
     "load_in_8bit=false load_in_4bit=false"},
    {kHarmless,
     "quantized bases are not supported, so it is about nothing",
     "bnb_4bit_quant_type use_bnb_nested_quant bnb_4bit_quant_storage"},
    {kRefused,
     "--model_name_or_path is a folder; get the files of the revision there",
     "model_revision=main"},
    {kHarmless,
     "the model is C++ code; nothing of the checkpoint runs",
     "trust_remote_code"},
    {kHarmless,
     "there is one implementation of attention",
     "attn_implementation"},
    {kRefused,
     "options of the model's Python class do not exist here; --dtype sets "
     "the dtype",
     "model_init_kwargs"},
    {kRefused,
     "the parameters of experts are not adapted by the program; the library "
     "has target_parameters",
     "lora_target_parameters"},
    {kRefused,
     "DPO trains a causal language model",
     "lora_task_type=CAUSAL_LM"},
    {kRefused,
     "--dataset_name is a JSONL file; write the configuration of the data "
     "set to one",
     "dataset_config"},
    {kRefused,
     "--dataset_name is a JSONL file; write the split to one",
     "dataset_train_split=train"},
    {kRefused,
     "give the held-out data as a JSONL file by --eval_dataset_name",
     "dataset_test_split=test test_split_size"},
    {kRefused,
     "mixtures of data sets do not exist; write one JSONL file",
     "datasets"},
    {kHarmless,
     "the file is read once and kept as tokens",
     "dataset_streaming streaming"},
    {kHarmless,
     "the program runs in one process",
     "ignore_bias_buffers ddp_find_unused_parameters ddp_bucket_cap_mb "
     "ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout "
     "local_rank average_tokens_across_devices log_on_each_node "
     "save_on_each_node log_level_replica accelerate_config "
     "accelerator_config num_machines num_processes=1"},
    {kRefused,
     "several processes are not supported",
     "fsdp fsdp_config deepspeed parallelism_config"},
    {kHarmless, "tokenization runs in one thread", "dataset_num_proc"},
    {kHarmless,
     "batches are padded to their longest row, which changes no result",
     "padding_free pad_to_multiple_of pad_token"},
    {kHarmless,
     "reference log-probabilities are computed in each step, with the same "
     "result",
     "precompute_ref_log_probs precompute_ref_batch_size"},
    {kRefused,
     "the model kinds that are supported have no router",
     "router_aux_loss_coef=0|0.0"},
    {kRefused,
     "DPO's variants are not supported; --loss_type sigmoid is",
     "ld_alpha f_divergence_type=reverse_kl label_smoothing=0|0.0 "
     "use_weighting=false label_smoothing_factor=0|0.0 rpo_alpha "
     "use_logits_to_keep=false"},
    {kHarmless,
     "it belongs to a loss that is not supported",
     "f_alpha_divergence_coef discopop_tau"},
    {kRefused,
     "the reference stays as it is at the start (--reference)",
     "sync_ref_model=false"},
    {kHarmless,
     "the reference stays as it is at the start (--reference)",
     "ref_model_mixup_alpha ref_model_sync_steps"},
    {kHarmless,
     "activations are kept; results are the same, and a long row needs more "
     "memory",
     "gradient_checkpointing gradient_checkpointing_kwargs "
     "activation_checkpointing activation_checkpointing_kwargs "
     "activation_offloading"},
    {kHarmless,
     "--dtype bfloat16 or the checkpoint's own dtype decides how weights are "
     "stored; adapters are fp32",
     "bf16 bf16_full_eval tf32"},
    {kRefused,
     "fp16 training is not supported; use --dtype bfloat16 or float32",
     "fp16=false fp16_full_eval=false"},
    {kHarmless,
     "the kernels are torchlora's and LibTorch's; results are the same",
     "use_liger_kernel liger_kernel_config torch_compile "
     "torch_compile_backend torch_compile_mode use_cache"},
    {kHarmless,
     "memory of a GPU is not emptied between steps",
     "torch_empty_cache_steps"},
    {kRefused, "the schedules have no other options", "lr_scheduler_kwargs"},
    {kRefused,
     "the optimizer is AdamW (or LoRA+, --loraplus_lr_ratio)",
     "optim=adamw_torch|adamw_torch_fused|adamw_hf optim_args "
     "optim_target_modules"},
    {kRefused, "noise on embeddings is not supported", "neftune_noise_alpha"},
    {kRefused,
     "give the batch size that fits, --per_device_train_batch_size",
     "auto_find_batch_size=false"},
    {kRefused,
     "records are written every --logging_steps",
     "logging_strategy=steps"},
    {kHarmless,
     "--logging_steps 1 logs the first step, too",
     "logging_first_step"},
    {kHarmless,
     "a loss that is not finite ends the run",
     "logging_nan_inf_filter"},
    {kHarmless, "records have num_tokens", "include_num_input_tokens_seen"},
    {kHarmless,
     "log.jsonl in the output folder has all records",
     "report_to run_name project trackio_space_id trackio_bucket_id "
     "trackio_static_space_id logging_dir"},
    {kHarmless,
     "the program prints records, warnings and a progress line on a terminal",
     "log_level disable_tqdm"},
    {kRefused,
     "evaluations begin after --eval_steps steps, or before the first by "
     "--eval_on_start",
     "eval_delay=0|0.0"},
    {kHarmless,
     "evaluation keeps sums only",
     "prediction_loss_only eval_do_concat_batches eval_use_gather_object "
     "eval_accumulation_steps include_for_metrics batch_eval_metrics"},
    {kHarmless,
     "checkpoints have the adapter, the state and the optimizer's tensors, "
     "and all of them stay",
     "save_only_model save_total_limit enable_jit_checkpoint"},
    {kRefused,
     "nothing is uploaded; upload the output folder yourself (hf upload)",
     "push_to_hub=false hub_always_push=false"},
    {kHarmless,
     "nothing is uploaded",
     "hub_token hub_private_repo hub_model_id hub_strategy hub_revision"},
    {kRefused,
     "the adapter of the last step is the result; log.jsonl says which "
     "checkpoint was best",
     "load_best_model_at_end=false"},
    {kHarmless,
     "the adapter of the last step is the result",
     "metric_for_best_model greater_is_better"},
    {kRefused,
     "a run cannot be resumed with its optimizer yet; --adapter_name_or_path "
     "CHECKPOINT starts a new one from its weights",
     "resume_from_checkpoint ignore_data_skip=false "
     "restore_callback_states_from_checkpoint=false"},
    {kHarmless,
     "on one CPU type and number of threads a seed gives the same run",
     "full_determinism"},
    {kRefused, "--seed draws the order of the examples, too", "data_seed"},
    {kHarmless, "the program computes on the CPU", "use_cpu"},
    {kRefused,
     "the last batch of an epoch may be short; it is never dropped",
     "dataloader_drop_last=false"},
    {kHarmless,
     "batches are made in the training thread",
     "dataloader_num_workers dataloader_pin_memory "
     "dataloader_persistent_workers dataloader_prefetch_factor "
     "dataloader_multiprocessing_context dataloader_in_order"},
    {kHarmless,
     "other columns than prompt, chosen and rejected are ignored",
     "remove_unused_columns label_names length_column_name"},
    {kHarmless,
     "it does nothing in TRL's dpo either",
     "do_train do_eval do_predict skip_memory_metrics debug"},
    {kRefused,
     "prompts are no longer cut apart from their completions; --max_length "
     "bounds both together",
     "max_prompt_length max_completion_length"},
    {kRefused, "it is called --max_length now", "max_seq_length"},
    {kRefused, "it is called --eval_strategy now", "evaluation_strategy"},
    {kRefused, "it is called --dtype now", "torch_dtype"},
    {kRefused,
     "--reference chooses the reference; another model cannot be it",
     "ref_model_init_kwargs model_adapter_name ref_adapter_name "
     "force_use_ref_model=false reference_free=false"},
    {kRefused,
     "it is called --train_sampling_strategy now",
     "group_by_length=false"},
};

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) {
    parts.push_back(part);
  }
  return parts;
}

} // namespace

std::vector<ForeignFlag> trl_flags() {
  std::vector<ForeignFlag> flags;
  for (const Group& group : kGroups) {
    for (const std::string& entry : split(group.names, ' ')) {
      const std::vector<std::string> parts = split(entry, '=');
      flags.push_back(
          {parts.front(),
           group.advice,
           group.is_harmless,
           parts.size() > 1 ? split(parts[1], '|')
                            : std::vector<std::string>()});
    }
  }
  return flags;
}

} // namespace torchlora::cli
