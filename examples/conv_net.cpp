// A convolutional net for another camera: LoRA on its convolutions and its
// head, with batch norms that belong to the adapter (modules_to_save).
//
//   conv_net [OUTPUT_DIR]
//
// The net learns to tell the direction of bright bars on a dark ground. A new
// camera is mounted on its side and shows them dark on a bright ground: the net
// fails, and an adapter learns that camera while the net stays what it was.
// OUTPUT_DIR (default: conv_net_adapter) receives the adapter.
//
// Built as the target `conv_net` of torchlora, or in a project of your own as
// examples/consumer shows.
#include <torch/torch.h>
#include <torchlora/torchlora.h>

#include <cmath>
#include <cstdio>

namespace tl = torchlora;
using torch::Tensor;

struct NetImpl : torch::nn::Module {
  NetImpl() {
    using Options = torch::nn::Conv2dOptions;
    conv1 = register_module(
        "conv1", torch::nn::Conv2d(Options(1, 8, 3).padding(1).bias(false)));
    norm1 = register_module("norm1", torch::nn::BatchNorm2d(8));
    conv2 = register_module(
        "conv2",
        torch::nn::Conv2d(Options(8, 16, 3).stride(2).padding(1).bias(false)));
    norm2 = register_module("norm2", torch::nn::BatchNorm2d(16));
    head = register_module("head", torch::nn::Linear(16, 4));
  }

  // [N, 1, height, width] → [N, 4]
  Tensor forward(const Tensor& images) {
    auto x = torch::relu(norm1(conv1(images)));
    x = torch::relu(norm2(conv2(x)));
    return head(x.mean({2, 3}));
  }

  torch::nn::Conv2d conv1{nullptr}, conv2{nullptr};
  torch::nn::BatchNorm2d norm1{nullptr}, norm2{nullptr};
  torch::nn::Linear head{nullptr};
};
TORCH_MODULE(Net);

enum class Camera { kOld, kNew };

struct Photos {
  Tensor images;     // [count, 1, 16, 16]
  Tensor directions; // [count], 0 to 3
};

// Noisy images of a bar in one of four directions.
Photos photograph(Camera camera, int64_t count) {
  const auto directions = torch::randint(4, {count});
  const auto angle = (directions * (M_PI / 4)).view({-1, 1, 1});
  const auto position = [&] { return torch::rand({count, 1, 1}) * 6 + 5; };
  const auto row = torch::arange(16).view({16, 1});
  const auto column = torch::arange(16).view({1, 16});
  const auto distance =
      (row - position()) * angle.cos() + (column - position()) * angle.sin();
  auto images = (distance.abs() < 1).to(torch::kFloat);
  if (camera == Camera::kNew) {
    images = 1 - images.rot90(1, {1, 2});
  }
  images += 0.2 * torch::randn_like(images);
  return {images.unsqueeze(1), directions};
}

void fit(Net& net, const std::vector<Tensor>& parameters, Camera camera) {
  torch::optim::AdamW optimizer(parameters, 0.01);
  net->train();
  for (int step = 0; step < 150; ++step) {
    const auto [images, directions] = photograph(camera, 32);
    const auto loss =
        torch::nn::functional::cross_entropy(net(images), directions);
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
  }
  net->eval();
}

double accuracy(Net& net, const Photos& photos) {
  torch::NoGradGuard no_grad;
  const auto found = net(photos.images).argmax(1);
  return (found == photos.directions).to(torch::kDouble).mean().item<double>();
}

int run(const std::string& output_dir) {
  torch::manual_seed(0);
  const auto old_photos = photograph(Camera::kOld, 512);
  const auto new_photos = photograph(Camera::kNew, 512);
  Net net;
  fit(net, net->parameters(), Camera::kOld);
  const auto original = accuracy(net, old_photos);
  const auto before = accuracy(net, new_photos);
  std::printf("accuracy, old camera: %.3f\n", original);
  std::printf("new camera, before: %.3f\n", before);

  // A batch norm's running statistics are no parameters: without
  // modules_to_save training would change those of the base model, and the
  // adapter's file would not have them.
  auto peft = tl::get_peft_model(
      *net,
      tl::LoraConfig(4)
          .lora_alpha(8)
          .target_modules({"conv1", "conv2", "head"})
          .modules_to_save({"norm1", "norm2"}));
  peft.print_trainable_parameters();
  fit(net, peft.trainable_parameters(), Camera::kNew);
  const auto after = accuracy(net, new_photos);
  std::printf("new camera, with the adapter: %.3f\n", after);

  // Without the adapter it is the net that it was.
  peft.save_pretrained(output_dir);
  peft.unload();
  const auto base = accuracy(net, old_photos);
  std::printf("old camera, unloaded: %.3f\n", base);

  // With it, from its file, the adapted one.
  tl::PeftModel::from_pretrained(*net, output_dir);
  const auto loaded = accuracy(net, new_photos);
  std::printf("new camera, loaded again: %.3f\n", loaded);
  const bool ok = before < 0.5 && after > 0.9;
  return ok && base == original && loaded == after ? 0 : 1;
}

int main(int argc, char** argv) {
  if (argc > 2) {
    std::fprintf(stderr, "usage: %s [OUTPUT_DIR]\n", argv[0]);
    return 2;
  }
  try {
    return run(argc > 1 ? argv[1] : "conv_net_adapter");
  } catch (const c10::Error& e) {
    std::fprintf(stderr, "error: %s\n", e.what_without_backtrace());
    return 1;
  }
}
