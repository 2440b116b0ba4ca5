#pragma once

#include <torch/nn/modules/conv.h>
#include <torch/nn/pimpl.h>

#include <torchlora/nn/adaptable.h>

namespace torchlora::nn {

/// What the three convolutions have in common.
class TORCHLORA_API Convolution {
 public:
  virtual ~Convolution() = default;

  /// [out_channels, in_channels / groups, kernel…]
  virtual at::Tensor kernel() const = 0;
  /// [out_channels]; undefined without one.
  virtual at::Tensor kernel_bias() const = 0;
  /// How many the channels are divided into.
  virtual int64_t groups() const = 0;
  /// The input convolved with another kernel [*, in_channels / groups,
  /// kernel…] as the layer convolves it with its own (stride, padding and its
  /// mode, dilation, groups); `bias` may be undefined.
  virtual at::Tensor convolve(
      const at::Tensor& input,
      const at::Tensor& kernel,
      const at::Tensor& bias) const = 0;
};

/// A convolution of D dimensions; not for users.
#define TORCHLORA_CONV(D)                                                 \
  class TORCHLORA_API Conv##D##dImpl                                      \
      : public Adaptable<torch::nn::Conv##D##dImpl, Conv##D##dImpl>,      \
        public Convolution {                                              \
   public:                                                                \
    Conv##D##dImpl(                                                       \
        int64_t in_channels,                                              \
        int64_t out_channels,                                             \
        torch::ExpandingArray<D> kernel_size)                             \
        : Conv##D##dImpl(torch::nn::Conv##D##dOptions(                    \
              in_channels,                                                \
              out_channels,                                               \
              kernel_size)) {}                                            \
    explicit Conv##D##dImpl(const torch::nn::Conv##D##dOptions& options_) \
        : Adaptable(options_) {}                                          \
    explicit Conv##D##dImpl(const torch::nn::Conv##D##dImpl& base)        \
        : Adaptable(base) {}                                              \
                                                                          \
    at::Tensor kernel() const override {                                  \
      return weight;                                                      \
    }                                                                     \
    at::Tensor kernel_bias() const override {                             \
      return bias;                                                        \
    }                                                                     \
    int64_t groups() const override {                                     \
      return options.groups();                                            \
    }                                                                     \
    at::Tensor convolve(                                                  \
        const at::Tensor& input,                                          \
        const at::Tensor& kernel,                                         \
        const at::Tensor& bias_) const override;                          \
  };                                                                      \
  TORCH_MODULE(Conv##D##d)

/// `torch::nn::Conv1d` that can be adapted.
TORCHLORA_CONV(1);
/// `torch::nn::Conv2d` that can be adapted.
TORCHLORA_CONV(2);
/// `torch::nn::Conv3d` that can be adapted.
TORCHLORA_CONV(3);
#undef TORCHLORA_CONV

/// Of a convolution or transposed convolution, of `torch::nn` too; 1 for all
/// other modules.
TORCHLORA_API int64_t convolution_groups(const torch::nn::Module& module);

} // namespace torchlora::nn
