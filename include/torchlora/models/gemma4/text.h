#pragma once

#include <functional>

#include <torch/nn/pimpl.h>

#include <torchlora/models/gemma4/config.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/linear.h>

namespace torchlora::gemma4 {

/// A function from names to weights. The modules of the model use its tensors
/// as their weights, so they allocate and initialize nothing first.
class TORCHLORA_API TensorSource {
 public:
  /// A function that returns the tensor of a full name, such as
  /// "model.norm.weight". It checks that the tensor has the given sizes.
  using Get = std::function<Tensor(const std::string&, at::IntArrayRef)>;
  /// Makes a source that calls `get` with `prefix` + name.
  explicit TensorSource(Get get, std::string prefix = "")
      : get_(std::move(get)), prefix_(std::move(prefix)) {}

  /// Returns the tensor `name` of the module to which this source belongs.
  /// DataError if the tensor has other sizes.
  Tensor operator()(const std::string& name, at::IntArrayRef sizes) const {
    return get_(prefix_ + name, sizes);
  }
  /// Returns the source that the child module `name` takes its weights from.
  TensorSource operator[](const std::string& name) const {
    return TensorSource(get_, prefix_ + name + ".");
  }

 private:
  Get get_;
  std::string prefix_;
};

/// The norm y = x · (mean(x²) + eps)^-½ · w over the last dimension. It
/// computes in fp32 (fp64 for fp64 inputs) and rounds once, at the end.
class TORCHLORA_API RMSNormImpl : public Module {
 public:
  /// Takes the tensor "weight" [size] from `source`. `eps` is the constant
  /// under the root.
  RMSNormImpl(const TensorSource& source, int64_t size, double eps);
  /// Normalizes `input` [*, size] over its last dimension; the result has the
  /// same sizes and dtype.
  Tensor forward(const Tensor& input);

  /// The factor w of each element: [size].
  Tensor weight;

 private:
  double eps_;
};
TORCH_MODULE(RMSNorm);

/// The keys and the values of one attention layer, each
/// [B, heads, T, head_dim]: B rows of T tokens.
using KeyValue = std::pair<Tensor, Tensor>;

/// The inputs that all layers of one kind (sliding or full) share in one
/// forward.
struct AttentionInputs {
  /// @{
  /// The cosines and sines of the rotary embedding for T positions:
  /// [T, head_dim] in the dtype of the hidden states.
  Tensor cos, sin;
  /// @}

  /// The mask [1 or B, 1, T, T] that attention adds to its scores: 0, or a very
  /// negative number where a query must not see a key. Undefined: causal
  /// attention without padding.
  Tensor mask;
  /// Whether `mask` may hide every key of a query, because rows have padding.
  bool has_padding = false;
};

/// The attention of a decoder layer: transformers' `Gemma4TextAttention`.
class TORCHLORA_API AttentionImpl : public Module {
 public:
  /// Takes the weights from `source`. `layer` has the sizes of this layer,
  /// `config` those that all layers share.
  AttentionImpl(
      const TensorSource& source,
      const TextConfig& config,
      const TextConfig::Layer& layer);
  /// Computes attention over `hidden` [B, T, hidden_size]; the result has the
  /// same sizes. A layer with its own keys and values writes `key_value`. Any
  /// other layer reads it, and the caller passes the one that its source layer
  /// wrote.
  Tensor forward(
      const Tensor& hidden,
      const AttentionInputs& inputs,
      KeyValue& key_value);

  /// @{
  /// The children, with transformers' names. A layer that reads the keys and
  /// values of another layer has no `k_proj`, `v_proj` and `k_norm`. A layer
  /// with `k_eq_v` has no `v_proj`.
  nn::Linear q_proj{nullptr}, k_proj{nullptr}, v_proj{nullptr}, o_proj{nullptr};
  RMSNorm q_norm{nullptr}, k_norm{nullptr};
  /// @}

 private:
  TextConfig::Layer layer_;
  double eps_;
};
TORCH_MODULE(Attention);

/// The MLP of a decoder layer: down(gelu_tanh(gate x) · up x), with three
/// linear layers without bias.
class TORCHLORA_API MLPImpl : public Module {
 public:
  /// Takes the weights of the three linear layers from `source`.
  MLPImpl(
      const TensorSource& source,
      int64_t hidden_size,
      int64_t intermediate_size);
  /// Computes the MLP of `hidden` [*, hidden_size]; the result has the same
  /// sizes.
  Tensor forward(const Tensor& hidden);

  /// @{
  /// The three linear layers, with transformers' names.
  nn::Linear gate_proj{nullptr}, up_proj{nullptr}, down_proj{nullptr};
  /// @}
};
TORCH_MODULE(MLP);

/// One decoder layer: transformers' `Gemma4TextDecoderLayer`.
class TORCHLORA_API DecoderLayerImpl : public Module {
 public:
  /// Takes the weights from `source`. `layer` has the sizes of this layer,
  /// `config` those that all layers share.
  DecoderLayerImpl(
      const TensorSource& source,
      const TextConfig& config,
      const TextConfig::Layer& layer);
  /// Computes the layer's output for the hidden states `hidden`
  /// [B, T, hidden_size]; the result has the same sizes. `per_layer_input` is
  /// [B, T, hidden_size_per_layer_input], or undefined for a model without
  /// per-layer inputs. A layer with its own keys and values writes `key_value`.
  /// Any other layer reads it, and the caller passes the one that its source
  /// layer wrote.
  Tensor forward(
      const Tensor& hidden,
      const Tensor& per_layer_input,
      const AttentionInputs& inputs,
      KeyValue& key_value);

  /// @{
  /// The children, with transformers' names. `per_layer_input_gate`,
  /// `per_layer_projection` and `post_per_layer_input_norm` are empty if the
  /// model has no per-layer inputs. The layer multiplies its output by the
  /// buffer `layer_scalar` [1].
  Attention self_attn{nullptr};
  MLP mlp{nullptr};
  RMSNorm input_layernorm{nullptr}, post_attention_layernorm{nullptr};
  RMSNorm pre_feedforward_layernorm{nullptr};
  RMSNorm post_feedforward_layernorm{nullptr};
  nn::Linear per_layer_input_gate{nullptr}, per_layer_projection{nullptr};
  RMSNorm post_per_layer_input_norm{nullptr};
  Tensor layer_scalar;
  /// @}
};
TORCH_MODULE(DecoderLayer);

/// Gemma 4's language model without the output head: transformers'
/// `Gemma4TextModel` with its module names. A model in bf16 or fp16 keeps its
/// weights so and passes fp32 from layer to layer, as autocast does for the
/// residual stream and the norms; matrix products go by `nn::linear`.
class TORCHLORA_API TextModelImpl : public Module {
 public:
  /// Builds the model that `config` describes with the weights from `source`.
  TextModelImpl(const TensorSource& source, const Config& config);

  /// Returns the hidden states [B, T, hidden_size] after the last norm, in fp32
  /// (fp64 for an fp64 model), for `input_ids` [B, T] (int64): B rows of T
  /// tokens. `attention_mask` [B, T] is 1 for real tokens and 0 for padding;
  /// undefined means that all tokens are real. Rows that are padded on the
  /// right need no mask: the states of their real tokens are exact without one.
  /// Appends the output of each layer to `layer_outputs` if given. ValueError
  /// for other shapes.
  Tensor forward(
      const Tensor& input_ids,
      const Tensor& attention_mask = {},
      std::vector<Tensor>* layer_outputs = nullptr);

  const TextConfig& config() const {
    return config_;
  }

  /// @{
  /// The children, with transformers' names. `embed_tokens_per_layer`,
  /// `per_layer_projection_norm` and `per_layer_model_projection` are empty if
  /// the model has no per-layer inputs.
  nn::Embedding embed_tokens{nullptr}, embed_tokens_per_layer{nullptr};
  std::vector<DecoderLayer> layers;
  RMSNorm norm{nullptr}, per_layer_projection_norm{nullptr};
  nn::Linear per_layer_model_projection{nullptr};
  /// @}

 private:
  Tensor per_layer_inputs(const Tensor& input_ids, const Tensor& embeddings);

  TextConfig config_;
  std::vector<int64_t> placeholder_token_ids_;
};
TORCH_MODULE(TextModel);

} // namespace torchlora::gemma4
