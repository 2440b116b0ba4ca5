#include <cmath>

#include <torch/nn/init.h>

#include <torchlora/init/initializer.h>

namespace torchlora::init {

void default_init(Factors& factors, const Arguments& arguments) {
  if (arguments.is_loaded) {
    return;
  }
  torch::nn::init::kaiming_uniform_(factors.A, std::sqrt(5.0));
  torch::nn::init::zeros_(factors.B);
  if (factors.bias.defined()) {
    torch::nn::init::zeros_(factors.bias);
  }
}

void embedding_init(Factors& factors, const Arguments& arguments) {
  if (arguments.is_loaded) {
    return;
  }
  torch::nn::init::zeros_(factors.A);
  torch::nn::init::normal_(factors.B);
}

void eva_init(Factors& factors, const Arguments& /*arguments*/) {
  torch::nn::init::zeros_(factors.B);
}

void no_init(Factors& /*factors*/, const Arguments& /*arguments*/) {}

} // namespace torchlora::init
