// A shared library with torchlora inside, as a plugin of some program.
#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>
#include <torch/types.h>

#include <torchlora/lora/layers/linear.h>
#include <torchlora/lora/overlay.h>
#include <torchlora/lora/registry.h>
#include <torchlora/model.h>

namespace {

struct NetImpl : torch::nn::Module {
  torch::nn::Linear fc = register_module("fc", torch::nn::Linear(6, 4));
  torch::nn::Conv1d conv = register_module("conv", torch::nn::Conv1d(3, 5, 2));
};

std::string error;

void require(bool condition, const std::string& what) {
  if (!condition) {
    error += what + "; ";
  }
}

bool is_near(const at::Tensor& a, const at::Tensor& b) {
  return at::allclose(a, b, /*rtol=*/1e-12, /*atol=*/1e-12);
}

/// W + s·B·A of a layer by the factors' names.
at::Tensor dense_weight(torch::nn::Module& net, const std::string& name) {
  const auto parameters = net.named_parameters();
  const auto& weight = parameters[name + ".base_layer.weight"];
  const auto& a = parameters[name + ".lora_A.default.weight"];
  const auto& b = parameters[name + ".lora_B.default.weight"];
  return weight + 2 * at::mm(b.flatten(1), a.flatten(1)).view_as(weight);
}

void adapt_and_compare() {
  require(torchlora::has_weight_overlay(), "no weight overlay");
  const auto net = std::make_shared<NetImpl>();
  net->to(torch::kDouble);
  auto peft = torchlora::get_peft_model(
      *net,
      torchlora::LoraConfig(2).lora_alpha(4).target_modules({"fc", "conv"}));
  {
    const torch::NoGradGuard no_grad;
    for (auto& parameter : peft.trainable_parameters()) {
      parameter.normal_();
    }
  }
  const auto x = at::randn({5, 6}, at::kDouble);
  const auto images = at::randn({2, 3, 7}, at::kDouble);
  const auto weight = dense_weight(*net, "fc");
  const auto linear = at::linear(x, weight, net->fc->bias);
  const auto convolution =
      at::conv1d(images, dense_weight(*net, "conv"), net->conv->bias);

  require(is_near(net->fc(x), linear), "linear");
  require(is_near(net->conv(images), convolution), "convolution");
  require(is_near(net->fc->weight.square(), weight.square()), "dense weight");
  require(
      is_near(
          at::linear(x, net->fc->weight.slice(0, 1, 3)),
          at::linear(x, weight.slice(0, 1, 3))),
      "rows of the weight");
  require(
      is_near(at::matmul(x, net->fc->weight.t()), at::matmul(x, weight.t())),
      "matmul");

  const auto a = net->named_parameters()["fc.lora_A.default.weight"];
  net->fc(x).square().sum().backward();
  const auto gradient = a.grad().clone();
  a.mutable_grad().reset();
  at::linear(x, dense_weight(*net, "fc"), net->fc->bias)
      .square()
      .sum()
      .backward();
  require(is_near(gradient, a.grad()), "gradient");

  peft.merge_and_unload();
  require(is_near(net->fc(x), linear), "merged linear");
  require(is_near(net->conv(images), convolution), "merged convolution");
}

/// A model that one plugin makes and the other uses.
struct Shared {
  std::shared_ptr<NetImpl> net = std::make_shared<NetImpl>();
  std::optional<torchlora::PeftModel> peft;
};

/// Sends two samples through a model that the other plugin may have made.
void mix_and_compare(Shared& shared) {
  const torch::NoGradGuard no_grad;
  const auto x = at::randn({2, 6}, at::kDouble);
  const auto adapted = shared.net->fc(x);
  at::Tensor base;
  {
    const auto guard = shared.peft->disable_adapter();
    base = shared.net->fc(x);
  }
  require(!is_near(adapted, base), "an adapter that changes something");
  const auto guard = shared.peft->mixed_batch({"__base__", "default"});
  const auto mixed = shared.net->fc(x);
  require(is_near(mixed[0], base[0]), "a sample of the base");
  require(is_near(mixed[1], adapted[1]), "a sample of the adapter");
}

/// Runs a check and returns "", or what was wrong.
const char* check(const std::function<void()>& run) {
  error.clear();
  try {
    run();
  } catch (const std::exception& e) {
    error += e.what();
  }
  return error.c_str();
}

} // namespace

struct TheirLinearImpl : torch::nn::Module {
  at::Tensor matrix =
      register_parameter("matrix", at::randn({4, 6}, at::kDouble));

  at::Tensor forward(const at::Tensor& x) {
    return at::linear(x, matrix);
  }
};

extern "C" {

/// "" if layers of torch::nn are adapted right, else what was wrong.
const char* adapt() {
  return check(adapt_and_compare);
}

/// Makes a `Shared`, which `drop` of the same plugin destroys.
void* make_shared_model() {
  auto* shared = new Shared;
  shared->net->to(torch::kDouble);
  shared->net->eval();
  shared->peft = torchlora::get_peft_model(
      *shared->net,
      torchlora::LoraConfig(2).init_lora_weights(false).target_modules({"fc"}));
  shared->net->eval();
  return shared;
}

void drop(void* shared) {
  delete static_cast<Shared*>(shared);
}

/// "" if a mixed batch of a `Shared` is computed right, else what was wrong.
const char* mix(void* shared) {
  return check([&] { mix_and_compare(*static_cast<Shared*>(shared)); });
}

void register_type() {
  torchlora::LoraRegistry::global().add<TheirLinearImpl, torchlora::LoraLinear>(
      "TheirLinear", [](TheirLinearImpl& module) {
        return torchlora::BaseWeight(module.matrix).member(module.matrix);
      });
}

/// Whether a type that was registered is found and serves its modules.
bool knows_type() {
  auto theirs = std::make_shared<TheirLinearImpl>();
  return torchlora::LoraRegistry::global().find(*theirs) != nullptr;
}
}
