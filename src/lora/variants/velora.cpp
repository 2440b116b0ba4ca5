#include "lora/variants/velora.h"

#include <cmath>

#include <torch/types.h>

namespace torchlora {
namespace {

/// [tokens, num_groups, group size], padded with zeros.
at::Tensor groups_of(const at::Tensor& x, const VeloraConfig& config) {
  const auto in_features = x.size(1);
  const auto size = velora_group_size(in_features, config);
  const auto padding = config.num_groups() * size - in_features;
  return (padding > 0 ? at::constant_pad_nd(x, {0, padding}) : x)
      .reshape({x.size(0), config.num_groups(), size});
}

/// Of length 1; what is zero becomes the direction of ones.
at::Tensor normalized(const at::Tensor& embed) {
  const auto wide =
      embed.to(c10::promoteTypes(embed.scalar_type(), at::kFloat));
  const auto norm = wide.norm();
  const auto length = std::sqrt(static_cast<double>(wide.numel()));
  return at::where(norm > 0, wide / norm, 1 / length);
}

} // namespace

int64_t velora_group_size(int64_t in_features, const VeloraConfig& config) {
  return (in_features + config.num_groups() - 1) / config.num_groups();
}

at::Tensor initial_velora_embed(
    int64_t group_size,
    const VeloraConfig& config,
    const at::TensorOptions& options) {
  return config.init_type() == "random"
      ? normalized(at::randn({group_size}, options)).to(options)
      : at::zeros({group_size}, options);
}

at::Tensor velora_embed(LoraVelora& velora, const at::Tensor& x) {
  const auto& type = velora.config.init_type();
  if (type == "random" || x.size(0) == 0) {
    return velora.embed;
  }
  if (type == "batch_average_once") {
    // An adapter that was loaded has its vector.
    velora.initialized = velora.initialized || velora.embed.any().item<bool>();
    if (velora.initialized) {
      return velora.embed;
    }
  }
  // NOTE: backward needs the vector of its own forward, not the next one's.
  auto embed = normalized(groups_of(x, velora.config).mean({0, 1}))
                   .to(velora.embed.scalar_type());
  velora.embed.copy_(embed);
  velora.initialized = true;
  return embed;
}

at::Tensor velora_compress(
    const at::Tensor& x,
    const at::Tensor& embed,
    const VeloraConfig& config) {
  return at::matmul(groups_of(x, config), embed.to(x.scalar_type()));
}

at::Tensor velora_grad_A(
    const at::Tensor& grad_Ax,
    const at::Tensor& compressed,
    const at::Tensor& embed,
    int64_t in_features,
    double scale) {
  // (g^T p) for each group, then along its vector: no x of full size.
  const auto by_group =
      at::mm(grad_Ax.t(), compressed.to(grad_Ax.scalar_type()));
  const auto direction = embed.to(grad_Ax.scalar_type()) * scale;
  return (by_group.unsqueeze(2) * direction)
      .flatten(1)
      .narrow(1, 0, in_features)
      .contiguous();
}

} // namespace torchlora
