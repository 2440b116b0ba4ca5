#include <torchlora/models/gemma4/text.h>

#include <cmath>

#include <torch/nn/modules/container/modulelist.h>
#include <torch/types.h>

#include "models/gemma4/functional.h"

namespace torchlora::gemma4 {

namespace {

nn::Linear linear(
    const TensorSource& source,
    const std::string& name,
    int64_t in_features,
    int64_t out_features) {
  return nn::LinearImpl::from_weight(
      source[name]("weight", {out_features, in_features}));
}

/// Rounds `value` to the dtype, as transformers does with its buffer.
double rounded(double value, at::ScalarType dtype) {
  return at::scalar_tensor(value, at::TensorOptions().dtype(dtype))
      .to(at::kDouble)
      .item<double>();
}

/// Makes an embedding whose output is multiplied by a scale in the dtype of the
/// weight: transformers' `Gemma4TextScaledWordEmbedding`. Its output is fp32 if
/// the weight is bf16 or fp16, and with it all that the model computes, as each
/// layer keeps the dtype of its input.
nn::Embedding scaled_word_embedding(
    const TensorSource& source,
    int64_t num_embeddings,
    int64_t embedding_dim,
    int64_t padding_idx,
    double embed_scale) {
  auto layer = nn::EmbeddingImpl::from_weight(
      source("weight", {num_embeddings, embedding_dim}));
  layer->options.padding_idx(padding_idx);
  layer->embed_scale = rounded(embed_scale, layer->weight.scalar_type());
  layer->gives_fp32 = true;
  return nn::Embedding(layer);
}

} // namespace

RMSNormImpl::RMSNormImpl(const TensorSource& source, int64_t size, double eps)
    : weight(register_parameter("weight", source("weight", {size}))),
      eps_(eps) {}

Tensor RMSNormImpl::forward(const Tensor& input) {
  return rms_norm(input, weight, eps_);
}

AttentionImpl::AttentionImpl(
    const TensorSource& source,
    const TextConfig& config,
    const TextConfig::Layer& layer)
    : layer_(layer), eps_(config.rms_norm_eps) {
  const auto hidden = config.hidden_size;
  const auto query_size = config.num_attention_heads * layer.head_dim;
  const auto key_size = layer.num_key_value_heads * layer.head_dim;
  q_proj =
      register_module("q_proj", linear(source, "q_proj", hidden, query_size));
  q_norm = register_module(
      "q_norm", RMSNorm(source["q_norm"], layer.head_dim, eps_));
  if (layer.kv_source < 0) {
    k_norm = register_module(
        "k_norm", RMSNorm(source["k_norm"], layer.head_dim, eps_));
    k_proj =
        register_module("k_proj", linear(source, "k_proj", hidden, key_size));
    if (!layer.k_eq_v) {
      v_proj =
          register_module("v_proj", linear(source, "v_proj", hidden, key_size));
    }
  }
  o_proj =
      register_module("o_proj", linear(source, "o_proj", query_size, hidden));
}

Tensor AttentionImpl::forward(
    const Tensor& hidden,
    const AttentionInputs& inputs,
    KeyValue& key_value) {
  const auto heads = [&](const Tensor& t) {
    return t.unflatten(-1, {-1, layer_.head_dim});
  };
  const auto rotated = [&](RMSNorm& norm, const Tensor& t) {
    return apply_rotary(norm(t).transpose(1, 2), inputs.cos, inputs.sin);
  };
  const auto query = rotated(q_norm, heads(q_proj(hidden)));
  if (layer_.kv_source < 0) {
    const auto key = heads(k_proj(hidden));
    const auto value = layer_.k_eq_v ? key : heads(v_proj(hidden));
    key_value = {
        rotated(k_norm, key), rms_norm(value, {}, eps_).transpose(1, 2)};
  }
  return o_proj(attention(query, key_value, inputs).transpose(1, 2).flatten(2));
}

MLPImpl::MLPImpl(
    const TensorSource& source,
    int64_t hidden_size,
    int64_t intermediate_size) {
  gate_proj = register_module(
      "gate_proj", linear(source, "gate_proj", hidden_size, intermediate_size));
  up_proj = register_module(
      "up_proj", linear(source, "up_proj", hidden_size, intermediate_size));
  down_proj = register_module(
      "down_proj", linear(source, "down_proj", intermediate_size, hidden_size));
}

Tensor MLPImpl::forward(const Tensor& hidden) {
  return down_proj(at::gelu(gate_proj(hidden), "tanh") * up_proj(hidden));
}

DecoderLayerImpl::DecoderLayerImpl(
    const TensorSource& source,
    const TextConfig& config,
    const TextConfig::Layer& layer) {
  const auto hidden = config.hidden_size;
  const auto per_layer = config.hidden_size_per_layer_input;
  const auto norm = [&](const std::string& name) {
    return register_module(
        name, RMSNorm(source[name], hidden, config.rms_norm_eps));
  };
  self_attn = register_module(
      "self_attn", Attention(source["self_attn"], config, layer));
  mlp = register_module(
      "mlp", MLP(source["mlp"], hidden, layer.intermediate_size));
  input_layernorm = norm("input_layernorm");
  post_attention_layernorm = norm("post_attention_layernorm");
  pre_feedforward_layernorm = norm("pre_feedforward_layernorm");
  post_feedforward_layernorm = norm("post_feedforward_layernorm");
  if (per_layer > 0) {
    per_layer_input_gate = register_module(
        "per_layer_input_gate",
        linear(source, "per_layer_input_gate", hidden, per_layer));
    per_layer_projection = register_module(
        "per_layer_projection",
        linear(source, "per_layer_projection", per_layer, hidden));
    post_per_layer_input_norm = norm("post_per_layer_input_norm");
  }
  layer_scalar = register_buffer("layer_scalar", source("layer_scalar", {1}));
}

Tensor DecoderLayerImpl::forward(
    const Tensor& hidden,
    const Tensor& per_layer_input,
    const AttentionInputs& inputs,
    KeyValue& key_value) {
  auto x = hidden +
      post_attention_layernorm(
               self_attn(input_layernorm(hidden), inputs, key_value));
  x = x + post_feedforward_layernorm(mlp(pre_feedforward_layernorm(x)));
  if (per_layer_input.defined()) {
    x = x +
        post_per_layer_input_norm(per_layer_projection(
            at::gelu(per_layer_input_gate(x), "tanh") * per_layer_input));
  }
  return x * layer_scalar;
}

TextModelImpl::TextModelImpl(const TensorSource& source, const Config& config)
    : config_(config.text_config),
      placeholder_token_ids_(config.placeholder_token_ids) {
  const auto hidden = config_.hidden_size;
  const auto per_layer = config_.hidden_size_per_layer_input;
  const auto count = static_cast<int64_t>(config_.layers.size());
  embed_tokens = register_module(
      "embed_tokens",
      scaled_word_embedding(
          source["embed_tokens"],
          config_.vocab_size,
          hidden,
          config_.pad_token_id,
          std::sqrt(static_cast<double>(hidden))));
  auto list = register_module("layers", torch::nn::ModuleList());
  for (int64_t i = 0; i < count; ++i) {
    layers.emplace_back(
        source["layers." + std::to_string(i)],
        config_,
        config_.layers[static_cast<size_t>(i)]);
    list->push_back(layers.back());
  }
  norm = register_module(
      "norm", RMSNorm(source["norm"], hidden, config_.rms_norm_eps));
  if (per_layer > 0) {
    embed_tokens_per_layer = register_module(
        "embed_tokens_per_layer",
        scaled_word_embedding(
            source["embed_tokens_per_layer"],
            config_.vocab_size_per_layer_input,
            count * per_layer,
            config_.pad_token_id,
            std::sqrt(static_cast<double>(per_layer))));
    per_layer_model_projection = register_module(
        "per_layer_model_projection",
        linear(
            source, "per_layer_model_projection", hidden, count * per_layer));
    per_layer_projection_norm = register_module(
        "per_layer_projection_norm",
        RMSNorm(
            source["per_layer_projection_norm"],
            per_layer,
            config_.rms_norm_eps));
  }
}

Tensor TextModelImpl::per_layer_inputs(
    const Tensor& input_ids,
    const Tensor& embeddings) {
  if (!embed_tokens_per_layer) {
    return {};
  }
  const auto size = config_.hidden_size_per_layer_input;
  const auto by_layer = [&](const Tensor& t) {
    return t.unflatten(-1, {-1, size});
  };
  const auto scale = 1.0 / std::sqrt(static_cast<double>(config_.hidden_size));
  const auto projected = per_layer_projection_norm(
      by_layer(per_layer_model_projection(embeddings) * scale));
  return (projected + by_layer(embed_tokens_per_layer(input_ids))) *
      std::sqrt(0.5);
}

Tensor TextModelImpl::forward(
    const Tensor& input_ids,
    const Tensor& attention_mask,
    std::vector<Tensor>* layer_outputs) {
  TORCH_CHECK_VALUE(
      input_ids.dim() == 2 && input_ids.scalar_type() == at::kLong,
      "[gemma4] input_ids must be [B, T] of int64, found ",
      input_ids.sizes(),
      " of ",
      input_ids.scalar_type());
  TORCH_CHECK_VALUE(
      !attention_mask.defined() || attention_mask.sizes() == input_ids.sizes(),
      "[gemma4] attention_mask must have the sizes of input_ids, ",
      input_ids.sizes(),
      ", found ",
      attention_mask.sizes());
  auto ids = input_ids;
  for (const auto token : placeholder_token_ids_) {
    ids = ids.masked_fill(ids == token, config_.pad_token_id);
  }
  auto hidden = embed_tokens(ids);
  const auto per_layer = per_layer_inputs(ids, hidden);

  const auto length = ids.size(1);
  const auto options = hidden.options();
  AttentionInputs inputs[2];
  inputs[true].mask =
      causal_mask(length, config_.sliding_window, attention_mask, options);
  inputs[false].mask = causal_mask(length, 0, attention_mask, options);
  inputs[true].has_padding = inputs[false].has_padding =
      attention_mask.defined();

  std::vector<KeyValue> key_values(layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    const auto& layer = config_.layers[i];
    auto& shared = inputs[layer.is_sliding];
    if (!shared.cos.defined()) {
      std::tie(shared.cos, shared.sin) = rotary_embedding(
          layer.is_sliding ? config_.sliding_rope : config_.full_rope,
          layer.head_dim,
          length,
          options);
    }
    const auto source = layer.kv_source < 0 ? i : layer.kv_source;
    hidden = layers[i](
        hidden,
        per_layer.defined() ? per_layer.select(2, static_cast<int64_t>(i))
                            : Tensor(),
        shared,
        key_values[source]);
    if (layer_outputs) {
      layer_outputs->push_back(hidden);
    }
  }
  return norm(hidden);
}

} // namespace torchlora::gemma4
