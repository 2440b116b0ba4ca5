// Log-probabilities without logits. `ScoreTokens` is one autograd function over
// tiles of tokens × vocabulary, so that one tile of logits exists at a time and
// never the [N, vocab_size] tensor. The forward pass keeps running statistics
// per token (maximum, sum of exponentials, …), which are rescaled whenever a
// new maximum appears, and saves only the log-sum-exp. The backward pass
// computes each tile again: the gradient of log p(label) in the logits is
// [label] − p, and p follows from the logits and the saved log-sum-exp.
#include <torchlora/train/logprobs.h>

#include <algorithm>
#include <limits>

#include <torch/autograd.h>

#include <torchlora/error.h>
#include <torchlora/nn/compute.h>

namespace torchlora::train {

namespace {

/// Returns fp64 for fp64 inputs, fp32 for all others.
at::ScalarType statistics_dtype(const Tensor& hidden) {
  return hidden.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

/// Computes the soft-capped logits of a tile, [tokens, words], in the dtype of
/// the statistics.
Tensor tile_logits(const Tensor& hidden, const Tensor& weight, double softcap) {
  const auto dtype = statistics_dtype(hidden);
  auto logits =
      nn::linear(
          hidden.to(c10::promoteTypes(dtype, weight.scalar_type())), weight)
          .to(dtype);
  if (softcap > 0) {
    logits.div_(softcap).tanh_().mul_(softcap);
  }
  return logits;
}

/// Gives the weight of the head [vocab_size, hidden_size] one piece at a time,
/// with its replaced rows.
class Vocabulary {
 public:
  /// The range [first, last) of `values` that replaces rows of a piece.
  struct Replaced {
    int64_t first, last;
    bool any() const {
      return first < last;
    }
  };

  Vocabulary(
      const Tensor& weight,
      const Tensor& values,
      std::vector<int64_t> indices,
      const Tensor& index)
      : weight_(weight),
        values_(values),
        indices_(std::move(indices)),
        index_(index) {}

  int64_t size() const {
    return weight_.size(0);
  }
  Replaced replaced(int64_t begin, int64_t size) const {
    const auto place = [&](int64_t id) {
      return std::ranges::lower_bound(indices_, id) - indices_.begin();
    };
    return {place(begin), place(begin + size)};
  }
  /// Returns the replaced rows (int64), relative to `begin`.
  Tensor index(const Replaced& rows, int64_t begin) const {
    return index_.slice(0, rows.first, rows.last) - begin;
  }
  Tensor piece(int64_t begin, int64_t size) const {
    const auto own = weight_.narrow(0, begin, size);
    const auto rows = replaced(begin, size);
    return rows.any()
        ? own.index_copy(
              0, index(rows, begin), values_.slice(0, rows.first, rows.last))
        : own;
  }

 private:
  Tensor weight_, values_;
  std::vector<int64_t> indices_;
  Tensor index_;
};

/// Calls `visit(begin, size)` for consecutive pieces of [0, total).
template <class Visit>
void for_each_piece(int64_t total, int64_t size, const Visit& visit) {
  for (int64_t begin = 0; begin < total; begin += size) {
    visit(begin, std::min(size, total - begin));
  }
}

/// Returns the labels relative to `begin`, clamped to [0, size), and a mask of
/// those that needed no clamping.
std::pair<Tensor, Tensor>
labels_in_piece(const Tensor& labels, int64_t begin, int64_t size) {
  const auto local = labels - begin;
  return {
      local.clamp(0, size - 1).unsqueeze(1),
      local.ge(0).logical_and_(local.lt(size))};
}

/// The statistics of the distributions of some tokens. `add` takes one piece of
/// the vocabulary after another.
struct RunningStatistics {
  RunningStatistics(const Tensor& labels, at::TensorOptions options)
      : labels_(labels),
        max(at::full(
            labels.sizes(),
            -std::numeric_limits<double>::infinity(),
            options)),
        sum_exp(at::zeros(labels.sizes(), options)),
        sum_exp_logit(at::zeros(labels.sizes(), options)),
        sum_logit(at::zeros(labels.sizes(), options)),
        label_logit(at::zeros(labels.sizes(), options)),
        top(at::zeros_like(labels)) {}

  void add(const Tensor& logits, int64_t begin) {
    const auto [piece_max, piece_top] = logits.max(1);
    const auto is_new = piece_max.gt(max);
    top = at::where(is_new, piece_top + begin, top);
    const auto new_max = at::maximum(max, piece_max);
    const auto rescale = (max - new_max).exp_();
    const auto [local, inside] =
        labels_in_piece(labels_, begin, logits.size(1));
    label_logit =
        at::where(inside, logits.gather(1, local).squeeze(1), label_logit);
    sum_logit.add_(logits.sum(1));
    auto weights = (logits - new_max.unsqueeze(1)).exp_();
    sum_exp.mul_(rescale).add_(weights.sum(1));
    sum_exp_logit.mul_(rescale).add_(weights.mul_(logits).sum(1));
    max = new_max;
  }

  Tensor logsumexp() const {
    return max + sum_exp.log();
  }

 private:
  const Tensor labels_;

 public:
  Tensor max, sum_exp, sum_exp_logit, sum_logit, label_logit, top;
};

struct ScoreTokens : torch::autograd::Function<ScoreTokens> {
  static torch::autograd::variable_list forward(
      torch::autograd::AutogradContext* ctx,
      const Tensor& hidden,
      const Tensor& weight,
      const Tensor& values,
      const Tensor& index,
      const Tensor& labels,
      const std::vector<int64_t>& indices,
      double softcap,
      int64_t tile_tokens,
      int64_t tile_vocabulary) {
    const Vocabulary words_of(weight, values, indices, index);
    const auto options = hidden.options().dtype(statistics_dtype(hidden));
    const auto total = hidden.size(0), vocabulary = weight.size(0);
    const auto logps = at::empty({total}, options);
    const auto logsumexp = at::empty({total}, options);
    const auto mean_logits = at::empty({total}, options);
    const auto entropy = at::empty({total}, options);
    const auto is_top1 = at::empty({total}, options.dtype(at::kBool));
    for_each_piece(total, tile_tokens, [&](int64_t t, int64_t tokens) {
      const auto tile_hidden = hidden.narrow(0, t, tokens);
      const auto tile_labels = labels.narrow(0, t, tokens);
      RunningStatistics statistics(tile_labels, options);
      for_each_piece(
          vocabulary, tile_vocabulary, [&](int64_t v, int64_t words) {
            statistics.add(
                tile_logits(tile_hidden, words_of.piece(v, words), softcap), v);
          });
      const auto tile_logsumexp = statistics.logsumexp();
      logsumexp.narrow(0, t, tokens).copy_(tile_logsumexp);
      logps.narrow(0, t, tokens).copy_(statistics.label_logit - tile_logsumexp);
      mean_logits.narrow(0, t, tokens)
          .copy_(statistics.sum_logit / static_cast<double>(vocabulary));
      entropy.narrow(0, t, tokens)
          .copy_(
              tile_logsumexp - statistics.sum_exp_logit / statistics.sum_exp);
      is_top1.narrow(0, t, tokens).copy_(statistics.top.eq(tile_labels));
    });
    ctx->save_for_backward({hidden, weight, values, index, labels, logsumexp});
    ctx->saved_data["indices"] = indices;
    ctx->saved_data["softcap"] = softcap;
    ctx->saved_data["tile_tokens"] = tile_tokens;
    ctx->saved_data["tile_vocabulary"] = tile_vocabulary;
    ctx->mark_non_differentiable({mean_logits, entropy, is_top1});
    return {logps, mean_logits, entropy, is_top1};
  }

  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* ctx,
      torch::autograd::variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto &hidden = saved[0], &weight = saved[1], &values = saved[2],
               &labels = saved[4], &logsumexp = saved[5];
    const Vocabulary words_of(
        weight, values, ctx->saved_data["indices"].toIntVector(), saved[3]);
    const auto softcap = ctx->saved_data["softcap"].toDouble();
    const auto tile_vocabulary = ctx->saved_data["tile_vocabulary"].toInt();
    const auto grad_hidden = at::zeros(hidden.sizes(), logsumexp.options());
    const auto grad_values = at::zeros(values.sizes(), logsumexp.options());
    for_each_piece(
        hidden.size(0),
        ctx->saved_data["tile_tokens"].toInt(),
        [&](int64_t t, int64_t tokens) {
          const auto grad = grads[0].narrow(0, t, tokens).unsqueeze(1);
          for_each_piece(
              weight.size(0), tile_vocabulary, [&](int64_t v, int64_t words) {
                const auto tile_weight = words_of.piece(v, words);
                const auto tile_hidden = hidden.narrow(0, t, tokens);
                const auto logits =
                    tile_logits(tile_hidden, tile_weight, softcap);
                // d log p(label) / d logit = [label] − p
                auto grad_logits =
                    (logits - logsumexp.narrow(0, t, tokens).unsqueeze(1))
                        .exp_()
                        .neg_();
                const auto [local, inside] =
                    labels_in_piece(labels.narrow(0, t, tokens), v, words);
                grad_logits.scatter_add_(
                    1, local, inside.unsqueeze(1).to(grad_logits.dtype()));
                grad_logits.mul_(grad);
                if (softcap > 0) {
                  grad_logits.addcmul_(
                      grad_logits * logits, logits, -1 / (softcap * softcap));
                }
                grad_hidden.narrow(0, t, tokens)
                    .add_(nn::linear_backward_input(grad_logits, tile_weight));
                if (const auto rows = words_of.replaced(v, words); rows.any()) {
                  grad_values.slice(0, rows.first, rows.last)
                      .addmm_(
                          grad_logits.index_select(1, words_of.index(rows, v))
                              .t(),
                          tile_hidden.to(grad_values.scalar_type()));
                }
              });
        });
    return {
        grad_hidden.to(hidden.scalar_type()),
        {},
        grad_values.to(values.scalar_type()),
        {},
        {},
        {},
        {},
        {},
        {}};
  }
};

} // namespace

TokenScores score_tokens(
    const Tensor& hidden,
    const nn::LmHead& head,
    const Tensor& labels,
    const LogProbTiling& tiling) {
  TORCH_CHECK_VALUE(
      hidden.dim() == 2 && labels.dim() == 1 &&
          hidden.size(0) == labels.size(0) &&
          hidden.size(1) == head.weight.size(1),
      "[score_tokens] hidden states [N, ",
      head.weight.size(1),
      "] and labels [N] are required, found ",
      hidden.sizes(),
      " and ",
      labels.sizes());
  TORCH_CHECK_VALUE(
      head.weight.has_storage(),
      "[score_tokens] the weight of the output head is an adapted "
      "torch::nn layer's (torchlora/lora/overlay.h), to which tiled "
      "log-probabilities give no gradient: build the head and the table from "
      "torchlora::nn layers");
  TORCH_CHECK_VALUE(
      !head.weight.requires_grad() || !at::GradMode::is_enabled(),
      "[score_tokens] the weight of the output head requires a gradient, "
      "which tiled log-probabilities do not give: freeze it");
  TORCH_CHECK_VALUE(
      tiling.tokens > 0 && tiling.vocabulary > 0,
      "[score_tokens] tiles must not be empty, found ",
      tiling.tokens,
      " x ",
      tiling.vocabulary);
  const auto rows = head.replaced_rows.value_or(nn::ReplacedRows{
      {},
      at::empty({0}, head.weight.options().dtype(at::kLong)),
      at::empty({0, head.weight.size(1)}, head.weight.options())});
  auto scores = ScoreTokens::apply(
      hidden,
      head.weight,
      rows.values,
      rows.index,
      labels,
      rows.indices,
      head.final_logit_softcapping,
      tiling.tokens,
      tiling.vocabulary);
  return {scores[0], scores[1], scores[2], scores[3]};
}

TokenScores score_logits(const Tensor& logits, const Tensor& labels) {
  TORCH_CHECK_VALUE(
      logits.dim() == 2 && labels.dim() == 1 &&
          logits.size(0) == labels.size(0),
      "[score_logits] logits [N, vocab_size] and labels [N] are required, "
      "found ",
      logits.sizes(),
      " and ",
      labels.sizes());
  // On another device that would wait for it.
  TORCHLORA_CHECK_DATA(
      !labels.is_cpu() ||
          labels.lt(logits.size(1))
              .logical_and_(labels.ge(0))
              .all()
              .item<bool>(),
      "[score_logits] a label is not one of the model's ",
      logits.size(1),
      " tokens; is the tokenizer the model's?");
  const auto values = logits.to(statistics_dtype(logits));
  const auto log_p = values.log_softmax(1);
  const auto logps = log_p.gather(1, labels.unsqueeze(1)).squeeze(1);
  const torch::NoGradGuard no_grad;
  return {
      logps,
      values.mean(1),
      log_p.exp().mul_(log_p).sum(1).neg_(),
      values.argmax(1).eq(labels)};
}

} // namespace torchlora::train
