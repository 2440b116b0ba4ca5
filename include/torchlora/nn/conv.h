#pragma once

#include <torch/nn/modules/conv.h>
#include <torch/nn/pimpl.h>

#include <torchlora/detail/convolve.h>
#include <torchlora/nn/adaptable.h>

namespace torchlora::nn {

/// What the three convolutions have in common.
class TORCHLORA_API Convolution {
 public:
  virtual ~Convolution();

  /// [out_channels, in_channels / groups, kernel…]
  virtual Tensor kernel() const = 0;
  /// [out_channels]; undefined for a layer without bias.
  virtual Tensor kernel_bias() const = 0;
  /// The number of groups of channels.
  virtual int64_t groups() const = 0;
  /// Convolves the input with another kernel [*, in_channels / groups,
  /// kernel…]; stride, padding and its mode, dilation and groups are the
  /// layer's. `bias` may be undefined.
  virtual Tensor convolve(
      const Tensor& input,
      const Tensor& kernel,
      const Tensor& bias) const = 0;
};

/// The common base of `Conv1d`, `Conv2d` and `Conv3d`: a convolution `Base` of
/// D dimensions that can be adapted.
template <size_t D, class Base, class Self>
class ConvNd : public Adaptable<Base, Self>, public Convolution {
 public:
  /// @{
  /// Same as `Base`.
  ConvNd(
      int64_t in_channels,
      int64_t out_channels,
      torch::ExpandingArray<D> kernel_size)
      : ConvNd(
            torch::nn::ConvOptions<D>(in_channels, out_channels, kernel_size)) {
  }
  explicit ConvNd(const torch::nn::ConvOptions<D>& options)
      : Adaptable<Base, Self>(options) {}
  explicit ConvNd(const Base& base) : Adaptable<Base, Self>(base) {}
  /// @}

  Tensor kernel() const override {
    return this->weight;
  }
  Tensor kernel_bias() const override {
    return this->bias;
  }
  int64_t groups() const override {
    return this->options.groups();
  }
  Tensor convolve(const Tensor& input, const Tensor& kernel, const Tensor& bias)
      const override {
    return detail::convolve<D>(
        input,
        kernel,
        bias,
        this->options,
        this->_reversed_padding_repeated_twice);
  }
};

/// A `torch::nn::Conv1d` that can be adapted.
class TORCHLORA_API Conv1dImpl
    : public ConvNd<1, torch::nn::Conv1dImpl, Conv1dImpl> {
 public:
  using ConvNd::ConvNd;
  ~Conv1dImpl() override;
};
TORCH_MODULE(Conv1d);

/// A `torch::nn::Conv2d` that can be adapted.
class TORCHLORA_API Conv2dImpl
    : public ConvNd<2, torch::nn::Conv2dImpl, Conv2dImpl> {
 public:
  using ConvNd::ConvNd;
  ~Conv2dImpl() override;
};
TORCH_MODULE(Conv2d);

/// A `torch::nn::Conv3d` that can be adapted.
class TORCHLORA_API Conv3dImpl
    : public ConvNd<3, torch::nn::Conv3dImpl, Conv3dImpl> {
 public:
  using ConvNd::ConvNd;
  ~Conv3dImpl() override;
};
TORCH_MODULE(Conv3d);

/// Returns the groups of a convolution or transposed convolution, also one of
/// `torch::nn`; 1 for all other modules.
TORCHLORA_API int64_t convolution_groups(const torch::nn::Module& module);

} // namespace torchlora::nn
