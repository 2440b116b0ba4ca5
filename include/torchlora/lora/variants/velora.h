#pragma once

#include <cmath>

#include <ATen/Functions.h>

#include <torchlora/lora/layer.h>
#include <torchlora/lora/variant.h>

namespace torchlora {

/// VeLoRA, which saves memory in training. To compute the gradient of A, a
/// layer stores not its input x but a few numbers per token: it splits the
/// features of x into groups and projects each group on one vector v of length
/// 1:
///
///     stored: p = x_group · v        backward uses: x_group ≈ scale · p v
///
/// Outputs and all other gradients are those of plain LoRA. Miles et al. 2024,
/// arXiv:2405.17991. PEFT's `VeloraLinearVariant`.
class TORCHLORA_API VeloraVariant : public LoraVariant {
 public:
  /// Stores the options and the projection vector v, [group size].
  VeloraVariant(VeloraConfig config, Tensor embed)
      : config_(std::move(config)), embed_(std::move(embed)) {}
  ~VeloraVariant() override;

  /// Returns the entry of VeLoRA in the table of variants.
  static LoraVariantType type() {
    return {
        .name = "velora_config",
        .matches =
            [](const LoraConfig& config) {
              return config.velora_config().has_value();
            },
        .check =
            [](const LoraConfig& config) {
              const auto& initializer =
                  init::find_initializer(config.init_lora_weights());
              TORCH_CHECK_VALUE(
                  !config.use_dora() && initializer.traits.supports_velora,
                  "[update_layer] velora_config is not supported with ",
                  config.use_dora() ? "use_dora"
                                    : "init_lora_weights=" + initializer.name);
            },
        .specs =
            [](const BaseWeight& base,
               int64_t /*r*/,
               const LoraConfig& config) -> std::vector<AdapterTensorSpec> {
          return {
              {"lora_velora_embed",
               {group_size(base.in_features(), *config.velora_config())}}};
        },
        .create = [](const VariantArguments& arguments,
                     Tensor& /*base_weight*/) -> std::shared_ptr<LoraVariant> {
          const auto& base = arguments.base;
          const auto& config = *arguments.config.velora_config();
          return std::make_shared<VeloraVariant>(
              config,
              arguments.as_parameter(initial_embed(
                  group_size(base.in_features(), config),
                  config,
                  base.weight().options().requires_grad(false))));
        },
        .is_linear_only = true,
        .is_swappable = false};
  }

  std::vector<VariantTensor> tensors() const override {
    return {{"lora_velora_embed", embed_, VariantTensor::kBuffer}};
  }

  bool compresses() const override {
    return true;
  }
  /// Returns the projections p [tokens, num_groups] of `x` [tokens,
  /// in_features] and the vector v [group size] used for them. Depending on
  /// `init_type` it recomputes v from `x`.
  std::vector<Tensor> compress(const Tensor& x) override {
    const auto groups = groups_of(x);
    const auto v = next_embed(groups);
    return {at::matmul(groups, v.to(x.scalar_type())), v};
  }
  /// Returns the approximate gradient of A [r, in_features]: `grad_Ax`ᵀ p per
  /// group, times scale · v. It never rebuilds the input x in full size.
  Tensor grad_A(
      const Tensor& grad_Ax,
      const std::vector<Tensor>& compressed,
      int64_t in_features) const override {
    const auto dtype = grad_Ax.scalar_type();
    const auto by_group = at::mm(grad_Ax.t(), compressed[0].to(dtype));
    const auto direction = compressed[1].to(dtype) * config_.scale();
    return (by_group.unsqueeze(2) * direction)
        .flatten(1)
        .narrow(1, 0, in_features)
        .contiguous();
  }

  /// Returns the number of features per group, ⌈in_features / num_groups⌉. The
  /// last group may have fewer.
  static int64_t group_size(int64_t in_features, const VeloraConfig& config) {
    return (in_features + config.num_groups() - 1) / config.num_groups();
  }
  /// Returns the vector v [group_size] that the adapter has before the first
  /// batch: a random unit vector for init_type "random", else zeros.
  static Tensor initial_embed(
      int64_t group_size,
      const VeloraConfig& config,
      const at::TensorOptions& options) {
    return config.init_type() == "random"
        ? normalized(at::randn({group_size}, options)).to(options)
        : at::zeros({group_size}, options);
  }

 private:
  /// Returns `embed` scaled to length 1; for a zero vector the unit vector with
  /// equal elements.
  static Tensor normalized(const Tensor& embed) {
    const auto wide =
        embed.to(c10::promoteTypes(embed.scalar_type(), at::kFloat));
    const auto norm = wide.norm();
    const auto length = std::sqrt(static_cast<double>(wide.numel()));
    return at::where(norm > 0, wide / norm, 1 / length);
  }
  /// Returns `x` [tokens, in_features], padded with zeros, as [tokens,
  /// num_groups, group size].
  Tensor groups_of(const Tensor& x) const {
    const auto size = group_size(x.size(1), config_);
    const auto padding = config_.num_groups() * size - x.size(1);
    return (padding > 0 ? at::constant_pad_nd(x, {0, padding}) : x)
        .reshape({x.size(0), config_.num_groups(), size});
  }
  Tensor next_embed(const Tensor& groups) {
    const auto& type = config_.init_type();
    if (type == "random" || groups.size(0) == 0) {
      return embed_;
    }
    if (type == "batch_average_once") {
      // A loaded adapter has its vector.
      is_initialized_ = is_initialized_ || embed_.any().item<bool>();
      if (is_initialized_) {
        return embed_;
      }
    }
    // NOTE: backward needs the vector of its own forward, not the next one's.
    auto embed = normalized(groups.mean({0, 1})).to(embed_.scalar_type());
    embed_.copy_(embed);
    is_initialized_ = true;
    return embed;
  }

  VeloraConfig config_;
  Tensor embed_;
  /// Whether `embed_` is known to hold a vector computed from data. If not, it
  /// may be zero.
  bool is_initialized_ = false;
};

} // namespace torchlora
