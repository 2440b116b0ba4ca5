#pragma once

#include <torch/nn/modules/conv.h>
#include <torch/nn/pimpl.h>

#include <torchlora/detail/convolve.h>
#include <torchlora/nn/adaptable.h>

namespace torchlora::nn {

/// The interface that `Conv1d`, `Conv2d` and `Conv3d` share. The LoRA layer of
/// a convolution calls these functions instead of the layer's forward.
class TORCHLORA_API Convolution {
 public:
  virtual ~Convolution();

  /// Convolves `input` with `kernel` [*, in_channels / groups, kernel size…]
  /// instead of the layer's own weight, and adds `bias` if it is defined.
  /// Stride, padding, padding mode, dilation and groups are the layer's.
  virtual Tensor convolve(
      const Tensor& input,
      const Tensor& kernel,
      const Tensor& bias) const = 0;
};

/// The common base of `Conv1d`, `Conv2d` and `Conv3d`: a LibTorch convolution
/// `Base` of D dimensions whose forward a LoRA layer can take over. `Self` is
/// the derived class.
template <size_t D, class Base, class Self>
class ConvNd : public Adaptable<Base, Self>, public Convolution {
 public:
  /// @{
  /// Takes the arguments of the LibTorch layer `Base`. A layer made from `base`
  /// shares the tensors of `base`.
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

  Tensor convolve(
      const Tensor& input,
      const Tensor& kernel,
      const Tensor& kernel_bias) const override {
    return detail::convolve<D>(
        input,
        kernel,
        kernel_bias,
        this->options,
        this->_reversed_padding_repeated_twice);
  }
};

/// A `torch::nn::Conv1d` whose forward a LoRA layer can take over.
class TORCHLORA_API Conv1dImpl
    : public ConvNd<1, torch::nn::Conv1dImpl, Conv1dImpl> {
 public:
  using ConvNd::ConvNd;
  ~Conv1dImpl() override;
};
TORCH_MODULE(Conv1d);

/// A `torch::nn::Conv2d` whose forward a LoRA layer can take over.
class TORCHLORA_API Conv2dImpl
    : public ConvNd<2, torch::nn::Conv2dImpl, Conv2dImpl> {
 public:
  using ConvNd::ConvNd;
  ~Conv2dImpl() override;
};
TORCH_MODULE(Conv2d);

/// A `torch::nn::Conv3d` whose forward a LoRA layer can take over.
class TORCHLORA_API Conv3dImpl
    : public ConvNd<3, torch::nn::Conv3dImpl, Conv3dImpl> {
 public:
  using ConvNd::ConvNd;
  ~Conv3dImpl() override;
};
TORCH_MODULE(Conv3d);

/// Returns the number of channel groups if `module` is a convolution or a
/// transposed convolution, from `torch::nn` or `torchlora::nn`; 1 for any other
/// module.
TORCHLORA_API int64_t convolution_groups(const Module& module);

} // namespace torchlora::nn
