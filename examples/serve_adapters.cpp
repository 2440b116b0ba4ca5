// One base model in memory, three adapters on it, and a batch whose rows are
// for different adapters, answered in one forward.
//
//   serve_adapters [DIR_A DIR_B DIR_C]
//
// The folders have adapters of PEFT's form for this model, each known by its
// folder's name. Without them the program makes three in the system's temporary
// folder. It compares the batch with its rows answered one by one, and prints
// the time of both. Mixed batches through torch::nn layers take the weight
// overlay (torchlora/lora/overlay.h); torchlora::nn layers do without.
//
// Built as the target `serve_adapters` of torchlora, or in a project of your
// own as examples/consumer shows.
#include <torch/torch.h>
#include <torchlora/torchlora.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>

namespace fs = std::filesystem;
namespace tl = torchlora;
using torch::Tensor;

struct BlockImpl : torch::nn::Module {
  explicit BlockImpl(int64_t size) {
    norm = register_module(
        "norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({size})));
    up_proj = register_module("up_proj", torch::nn::Linear(size, 4 * size));
    down_proj = register_module("down_proj", torch::nn::Linear(4 * size, size));
  }
  Tensor forward(const Tensor& x) {
    return x + down_proj(torch::gelu(up_proj(norm(x))));
  }
  torch::nn::LayerNorm norm{nullptr};
  torch::nn::Linear up_proj{nullptr}, down_proj{nullptr};
};
TORCH_MODULE(Block);

constexpr int64_t kSize = 256;

// Stands for a model of yours.
torch::nn::Sequential make_model() {
  torch::manual_seed(0);
  torch::nn::Sequential model;
  for (int i = 0; i < 4; ++i) {
    model->push_back(Block(kSize));
  }
  model->eval();
  return model;
}

// Stand for three fine-tunes: both factors random.
std::vector<fs::path> make_adapters(const fs::path& parent) {
  std::vector<fs::path> folders;
  for (const auto* name : {"polite", "terse", "formal"}) {
    auto model = make_model();
    torch::manual_seed(1 + static_cast<int64_t>(folders.size()));
    const auto peft = tl::get_peft_model(
        *model,
        tl::LoraConfig(8)
            .target_modules({"up_proj", "down_proj"})
            .init_lora_weights(false));
    folders.push_back(parent / name);
    peft.save_pretrained(folders.back());
  }
  std::printf("made adapters in %s\n", parent.c_str());
  return folders;
}

struct Server {
  explicit Server(const std::vector<fs::path>& folders)
      : peft(tl::PeftModel::from_pretrained(
            *model,
            folders[0],
            folders[0].filename())) {
    for (size_t i = 1; i < folders.size(); ++i) {
      peft.load_adapter(folders[i], folders[i].filename());
    }
  }

  // Row i of `x` [rows, T, size] through the adapter names[i], "__base__" being
  // none, in one forward.
  Tensor answer_batch(const Tensor& x, const std::vector<std::string>& names) {
    const auto mixed = peft.mixed_batch(names);
    return model->forward(x);
  }

  // The same, a forward a row.
  Tensor answer_rows(const Tensor& x, const std::vector<std::string>& names) {
    std::vector<Tensor> answers;
    for (size_t i = 0; i < names.size(); ++i) {
      const auto row = x.narrow(0, static_cast<int64_t>(i), 1);
      if (names[i] == "__base__") {
        const auto disabled = peft.disable_adapter();
        answers.push_back(model->forward(row));
      } else {
        peft.set_adapter({names[i]}, /*inference_mode=*/true);
        answers.push_back(model->forward(row));
      }
    }
    return torch::cat(answers);
  }

  torch::nn::Sequential model = make_model();
  tl::PeftModel peft;
};

// The median of 9 calls.
double milliseconds(const std::function<void()>& call) {
  std::vector<double> times;
  for (int i = 0; i < 9; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    call();
    const std::chrono::duration<double, std::milli> passed =
        std::chrono::steady_clock::now() - begin;
    times.push_back(passed.count());
  }
  std::ranges::sort(times);
  return times[times.size() / 2];
}

int run(const std::vector<fs::path>& given) {
  const auto folders = given.empty()
      ? make_adapters(fs::temp_directory_path() / "serve_adapters")
      : given;
  Server server(folders);

  // 16 requests of 8 tokens each.
  std::vector<std::string> names = server.peft.adapter_names();
  names.push_back("__base__");
  for (size_t i = 0; names.size() < 16; ++i) {
    names.push_back(names[i]);
  }
  torch::NoGradGuard no_grad;
  const auto x = torch::randn({16, 8, kSize});

  const auto batch = server.answer_batch(x, names);
  const auto rows = server.answer_rows(x, names);
  const auto difference = (batch - rows).abs().max().item<double>();
  std::printf("largest difference %.1e\n", difference);

  // What the adapters change, by row: nothing where there is none.
  const auto base = server.answer_batch(
      x, std::vector<std::string>(names.size(), "__base__"));
  const auto changes = (batch - base).abs().amax({1, 2});
  bool ok = difference < 1e-4;
  for (size_t i = 0; i < names.size(); ++i) {
    const auto change = changes[static_cast<int64_t>(i)].item<double>();
    ok = ok && (names[i] == "__base__" ? change == 0 : change > 1e-2);
    if (i < 4) {
      std::printf("  %s changes its row by %.3f\n", names[i].c_str(), change);
    }
  }
  std::printf("in one batch %.2f ms\n", milliseconds([&] {
                server.answer_batch(x, names);
              }));
  std::printf("one by one   %.2f ms\n", milliseconds([&] {
                server.answer_rows(x, names);
              }));
  return ok ? 0 : 1;
}

int main(int argc, char** argv) {
  if (argc != 1 && argc != 4) {
    std::fprintf(stderr, "usage: %s [DIR_A DIR_B DIR_C]\n", argv[0]);
    return 2;
  }
  try {
    return run({argv + 1, argv + argc});
  } catch (const c10::Error& e) {
    std::fprintf(stderr, "error: %s\n", e.what_without_backtrace());
    return 1;
  }
}
