#include <torchlora/models/gemma4/model.h>

namespace torchlora::gemma4 {

Gemma4ForCausalLMImpl::Gemma4ForCausalLMImpl(
    const TensorSource& source,
    Config config,
    std::string name_or_path,
    std::vector<std::string> unloaded_modules)
    : config_(std::move(config)),
      name_or_path_(std::move(name_or_path)),
      unloaded_modules_(std::move(unloaded_modules)) {
  if (config_.is_conditional()) {
    auto model = register_module("model", std::make_shared<Module>("model"));
    language_model_ = model->register_module(
        "language_model",
        TextModel(source["model"]["language_model"], config_));
  } else {
    language_model_ =
        register_module("model", TextModel(source["model"], config_));
  }
}

Tensor Gemma4ForCausalLMImpl::hidden_states(
    const Tensor& input_ids,
    const Tensor& attention_mask) {
  return language_model_(input_ids, attention_mask);
}

nn::LmHead Gemma4ForCausalLMImpl::lm_head() const {
  return nn::LmHead::of(
      *language_model_->embed_tokens,
      config_.text_config.final_logit_softcapping);
}

Tensor Gemma4ForCausalLMImpl::forward(
    const Tensor& input_ids,
    const Tensor& attention_mask) {
  return lm_head().logits(hidden_states(input_ids, attention_mask));
}

} // namespace torchlora::gemma4
