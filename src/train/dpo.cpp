#include <torchlora/train/dpo.h>

#include <algorithm>
#include <unordered_set>

#include <fmt/ranges.h>
#include <torch/nn/modules/dropout.h>

#include <torchlora/error.h>
#include <torchlora/lora/layer.h>
#include <torchlora/lora/variant.h>
#include <torchlora/model/trainable_tokens.h>
#include <torchlora/train/dpo_loss.h>

namespace torchlora::train {

namespace {

constexpr const char* kReferenceAdapter = "ref";

/// Makes another adapter active, and not trainable, for its lifetime.
class ActiveAdapterGuard {
 public:
  ActiveAdapterGuard(PeftModel model, const std::string& adapter_name)
      : model_(std::move(model)), saved_(model_.active_adapters()) {
    model_.set_adapter({adapter_name}, /*inference_mode=*/true);
  }
  ~ActiveAdapterGuard() {
    model_.set_adapter(saved_);
  }
  ActiveAdapterGuard(const ActiveAdapterGuard&) = delete;
  ActiveAdapterGuard& operator=(const ActiveAdapterGuard&) = delete;

 private:
  PeftModel model_;
  std::vector<std::string> saved_;
};

/// Returns an active adapter of any layer for which `condition` holds, or
/// nullptr.
template <class Condition>
const LoraAdapter* find_active(
    const PeftModel& model,
    const Condition& condition) {
  for (const auto& [name, layer] : model.layers()) {
    for (const auto& adapter : layer->active_adapters()) {
      const auto* found = layer->find_adapter(adapter);
      if (condition(*found)) {
        return found;
      }
    }
  }
  return nullptr;
}

/// Copies a tensor of the host. On CUDA the host goes on meanwhile, which takes
/// pinned memory.
Tensor to_device(const Tensor& tensor, at::Device device) {
  return device.is_cuda()
      ? tensor.pin_memory().to(device, /*non_blocking=*/true)
      : tensor.to(device);
}

/// Returns whether the update B·A is not zero. It is zero while A or B is.
bool changes_something(const LoraAdapter& adapter) {
  return adapter.lora_A->weight.any().item<bool>() &&
      adapter.lora_B->weight.any().item<bool>();
}

/// Returns whether an active adapter replaces a tensor of the base model
/// (`modules_to_save`, `bias`) or rows of a table by other values.
bool replaces_something(const PeftModel& model) {
  for (const auto& module : model.base_model().modules()) {
    const auto* tokens = dynamic_cast<const TrainableTokens*>(module.get());
    if (tokens && tokens->changes_something()) {
      return true;
    }
  }
  std::vector<std::pair<Tensor, Tensor>> values;
  for (const auto& name : model.active_adapters()) {
    for (const auto& item : model.state_dict(name)) {
      values.emplace_back(item.value(), item.value().detach());
    }
  }
  const auto guard = model.disable_adapter();
  return std::any_of(values.begin(), values.end(), [](const auto& pair) {
    return !at::equal(pair.first.detach(), pair.second);
  });
}

/// Sums the log-probabilities of each row: [2B].
Tensor row_sums(const Tensor& logps, const PreferenceBatch& batch) {
  return at::zeros({batch.input_ids.size(0)}, logps.options())
      .index_add(0, batch.rows, logps);
}

void check_tokens(const PreferenceTokens& pair, int64_t vocabulary) {
  for (const auto* ids :
       {&pair.prompt_ids, &pair.chosen_ids, &pair.rejected_ids}) {
    for (const auto id : *ids) {
      TORCHLORA_CHECK_DATA(
          id >= 0 && id < vocabulary,
          "[DpoTrainer] ",
          pair.source,
          ": token ",
          id,
          " is not one of the model's ",
          vocabulary,
          "; is the tokenizer the model's?");
    }
  }
}

PreferenceTokenSet tokenize_or_none(
    const std::vector<PreferenceExample>& examples,
    const Tokenizer& tokenizer,
    const RowTruncation& truncation,
    const ChatFormat* chat_format) {
  return examples.empty()
      ? PreferenceTokenSet()
      : tokenize_preferences(examples, tokenizer, truncation, chat_format);
}

} // namespace

DpoTrainer::DpoTrainer(
    TokenScorer model,
    PeftModel peft_model,
    const Tokenizer& tokenizer,
    DpoConfig config,
    const std::vector<PreferenceExample>& train_dataset,
    const std::vector<PreferenceExample>& eval_dataset,
    const ChatFormat* chat_format)
    : DpoTrainer(
          std::move(model),
          std::move(peft_model),
          config,
          tokenize_preferences(train_dataset, tokenizer, config, chat_format),
          tokenize_or_none(eval_dataset, tokenizer, config, chat_format),
          // No result depends on padding, so any token will do.
          std::max<int64_t>(tokenizer.pad_token_id(), 0)) {}

DpoTrainer::DpoTrainer(
    TokenScorer model,
    PeftModel peft_model,
    DpoConfig config,
    PreferenceTokenSet train_dataset,
    PreferenceTokenSet eval_dataset,
    int64_t pad_token_id)
    : Trainer(std::move(peft_model), config),
      scorer_(std::move(model)),
      config_(std::move(config)),
      train_dataset_(std::move(train_dataset)),
      eval_dataset_(std::move(eval_dataset)),
      pad_token_id_(pad_token_id) {
  config_.validate();
  set_num_examples(
      static_cast<int64_t>(train_dataset_.examples.size()),
      static_cast<int64_t>(eval_dataset_.examples.size()));
  check_adapters();
  if (auto* causal_lm = scorer_.causal_lm()) {
    check_causal_lm(*causal_lm);
  }
  if (config_.disable_dropout) {
    disable_dropout();
  }
  set_up_reference();
}

void DpoTrainer::check_adapters() const {
  std::unordered_set<at::TensorImpl*> of_adapters;
  for (const auto& adapter : peft_model().adapter_names()) {
    for (const auto& item : peft_model().state_dict(adapter)) {
      of_adapters.insert(item.value().unsafeGetTensorImpl());
    }
  }
  for (const auto& [name, parameter] : trainable_parameters()) {
    TORCH_CHECK_VALUE(
        of_adapters.contains(parameter.unsafeGetTensorImpl()),
        "[DpoTrainer] ",
        name,
        " is trainable and not part of an adapter: the reference would train "
        "with it; freeze it");
  }
  for (const auto& [name, layer] : peft_model().layers()) {
    TORCH_CHECK_VALUE(
        !layer->merged(),
        "[DpoTrainer] the adapter is merged into ",
        name,
        ", so the reference is not the base model; unmerge it");
  }
}

void DpoTrainer::check_causal_lm(nn::CausalLM& causal_lm) const {
  TORCH_CHECK_VALUE(
      &causal_lm.module() == &model(),
      "[DpoTrainer] the model to train must be the one that was adapted");
  const auto heads = causal_lm.output_embeddings();
  for (const auto& [name, layer] : peft_model().layers()) {
    TORCH_CHECK_VALUE(
        std::ranges::find(heads, name) == heads.end(),
        "[DpoTrainer] the output head ",
        name,
        " is adapted; its weight is used directly, so leave it out by "
        "exclude_modules");
  }
  const auto vocabulary = causal_lm.lm_head().weight.size(0);
  for (const auto* dataset : {&train_dataset_, &eval_dataset_}) {
    for (const auto& pair : dataset->examples) {
      check_tokens(pair, vocabulary);
    }
  }
}

void DpoTrainer::disable_dropout() {
  double largest = 0;
  for (const auto& [name, layer] : peft_model().layers()) {
    for (const auto& adapter : layer->adapters()) {
      largest = std::max(largest, adapter.lora_dropout);
    }
    layer->set_lora_dropout(0);
  }
  for (const auto& module : model().modules()) {
    if (auto* dropout = module->as<torch::nn::DropoutImpl>()) {
      dropout->options.p(0);
    }
  }
  if (largest > 0) {
    TORCH_WARN(
        "[DpoTrainer] lora_dropout ",
        largest,
        " has no effect: DPO trains without dropout (disable_dropout)");
  }
}

void DpoTrainer::set_up_reference() {
  reference_ = config_.reference;
  if (reference_ == "auto") {
    reference_ = find_active(peft_model(), changes_something) ||
            replaces_something(peft_model())
        ? "initial_adapter"
        : "base";
  }
  auto peft = peft_model();
  const auto* lone = find_active(peft, [](const LoraAdapter& adapter) {
    return adapter.variant && adapter.variant->excludes_others();
  });
  TORCH_CHECK_VALUE(
      !lone,
      "[DpoTrainer] adapter ",
      lone->name,
      " has ",
      find_variant(peft.peft_config(lone->name))->name,
      ", which allows no other adapter in its layers: there cannot be a copy "
      "of it as reference");
  if (reference_ == "base") {
    const auto* changed = find_active(
        peft, [](const LoraAdapter& adapter) { return adapter.changed_base; });
    TORCH_CHECK_VALUE(
        !changed,
        "[DpoTrainer] the base cannot be the reference, as the initializer or "
        "the variant of adapter ",
        changed->name,
        " changed its weights; use initial_adapter");
    return;
  }
  const auto active = peft.active_adapters();
  TORCH_CHECK_VALUE(
      active.size() == 1,
      "[DpoTrainer] a copy of the initial adapter as reference needs one "
      "active adapter, found ",
      fmt::format("{}", fmt::join(active, ", ")));
  // Its values are copied below. An initializer could change the base again.
  auto config = peft.peft_config(active[0]);
  peft.add_adapter(kReferenceAdapter, config.forget_initializer());
  torch::NoGradGuard no_grad;
  const auto originals = peft.state_dict(active[0]);
  auto copies = peft.state_dict(kReferenceAdapter);
  for (const auto& item : originals) {
    auto* copy = copies.find(item.key());
    TORCH_CHECK_VALUE(
        copy,
        "[DpoTrainer] the initial adapter brought ",
        item.key(),
        " in its file, which its copy does not have; merge the adapter first, "
        "or use reference base");
    copy->copy_(item.value());
  }
  if (config_.disable_dropout) {
    for (const auto& [name, layer] : peft.layers()) {
      layer->set_lora_dropout(0);
    }
  }
}

TokenScores DpoTrainer::score(const PreferenceBatch& batch) const {
  return scorer_(batch.input_ids, batch.positions, batch.labels);
}

Tensor DpoTrainer::reference_logps(const PreferenceBatch& batch) const {
  torch::NoGradGuard no_grad;
  if (reference_ == "base") {
    const auto guard = peft_model().disable_adapter();
    return row_sums(score(batch).logps, batch);
  }
  const ActiveAdapterGuard guard(peft_model(), kReferenceAdapter);
  return row_sums(score(batch).logps, batch);
}

Tensor DpoTrainer::compute_loss(
    const std::vector<int64_t>& indices,
    bool training,
    Metrics& metrics) {
  const auto& dataset = training ? train_dataset_ : eval_dataset_;
  auto batch =
      collate_preferences(dataset.examples, indices, pad_token_id_, config_);
  const auto device = trainable_parameters().front().second.device();
  for (auto* tensor :
       {&batch.input_ids, &batch.positions, &batch.labels, &batch.rows}) {
    *tensor = to_device(*tensor, device);
  }
  const auto reference = reference_logps(batch).chunk(2);
  const auto scores = score(batch);
  const auto policy = row_sums(scores.logps, batch).chunk(2);
  const DpoLossInput input{
      policy[0], policy[1], reference[0], reference[1], config_.beta};
  auto loss = at::zeros({}, policy[0].options());
  for (size_t i = 0; i < config_.loss_type.size(); ++i) {
    const auto weight =
        config_.loss_weights.empty() ? 1.0 : config_.loss_weights[i];
    loss = loss + find_dpo_loss(config_.loss_type[i])(input).mean() * weight;
  }
  if (training) {
    num_train_tokens_ += batch.num_tokens;
  }
  add_metrics(batch, scores, input, metrics);
  return loss;
}

void DpoTrainer::add_metrics(
    const PreferenceBatch& batch,
    const TokenScores& scores,
    const DpoLossInput& input,
    Metrics& metrics) const {
  torch::NoGradGuard no_grad;
  // Each mean counts as often as it has values: pairs or tokens.
  const auto add = [&](const char* name, const Tensor& values) {
    if (values.numel() > 0) {
      metrics.add(
          name,
          values.to(at::kFloat).mean(),
          static_cast<double>(values.numel()));
    }
  };
  const auto chosen = [&](const Tensor& tokens) {
    return tokens.narrow(0, 0, batch.num_chosen);
  };
  const auto rejected = [&](const Tensor& tokens) {
    return tokens.narrow(
        0, batch.num_chosen, tokens.size(0) - batch.num_chosen);
  };
  const auto chosen_rewards = input.chosen_logratios() * config_.beta;
  const auto rejected_rewards = input.rejected_logratios() * config_.beta;
  add("entropy", scores.entropy);
  metrics.set("num_tokens", static_cast<double>(num_train_tokens_));
  add("logits/chosen", chosen(scores.mean_logits));
  add("logits/rejected", rejected(scores.mean_logits));
  add("mean_token_accuracy", chosen(scores.is_top1));
  add("rewards/chosen", chosen_rewards);
  add("rewards/rejected", rejected_rewards);
  add("rewards/accuracies", chosen_rewards.gt(rejected_rewards));
  add("rewards/margins", chosen_rewards - rejected_rewards);
  add("logps/chosen", input.chosen_logps);
  add("logps/rejected", input.rejected_logps);
}

} // namespace torchlora::train
