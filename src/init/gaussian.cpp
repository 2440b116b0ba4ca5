#include <torch/nn/init.h>

#include <torchlora/init/initializer.h>

namespace torchlora::init {

void gaussian_init(Factors& factors, const Arguments& arguments) {
  if (arguments.is_loaded) {
    return;
  }
  torch::nn::init::normal_(
      factors.A, /*mean=*/0, /*std=*/1.0 / static_cast<double>(arguments.r));
  torch::nn::init::zeros_(factors.B);
}

} // namespace torchlora::init
