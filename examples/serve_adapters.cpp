// One base model in memory, three adapters on it, and a batch whose rows are
// for different adapters, answered in one forward.
//
//   serve_adapters [NAME=DIR …]
//
// The folders have adapters of PEFT's form for this model, each with the name
// that requests call it by. Without them the program makes three in the
// system's temporary folder. It compares the batch with its rows answered one
// by one, and prints the time of both. Mixed batches through torch::nn layers
// take the weight overlay (torchlora/lora/overlay.h); torchlora::nn layers do
// without.
//
// Built as the target `serve_adapters` of torchlora, or in a project of your
// own as examples/consumer shows.
#include <torch/torch.h>
#include <torchlora/torchlora.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
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

// Names, and the folders of the adapters.
using Adapters = std::vector<std::pair<std::string, fs::path>>;

// Stand for three fine-tunes: both factors random.
Adapters make_adapters(const fs::path& parent) {
  Adapters adapters;
  for (const auto* name : {"polite", "terse", "formal"}) {
    auto model = make_model();
    torch::manual_seed(1 + static_cast<int64_t>(adapters.size()));
    const auto peft = tl::get_peft_model(
        *model,
        tl::LoraConfig(8)
            .target_modules({"up_proj", "down_proj"})
            .init_lora_weights(false));
    adapters.emplace_back(name, parent / name);
    peft.save_pretrained(adapters.back().second);
  }
  std::printf("made adapters in %s\n", parent.c_str());
  return adapters;
}

struct Server {
  explicit Server(const Adapters& adapters)
      : peft(tl::PeftModel::from_pretrained(
            *model,
            adapters[0].second,
            adapters[0].first)) {
    for (size_t i = 1; i < adapters.size(); ++i) {
      peft.load_adapter(adapters[i].second, adapters[i].first);
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

int run(const Adapters& given) {
  Server server(
      given.empty()
          ? make_adapters(fs::temp_directory_path() / "serve_adapters")
          : given);

  // Four requests, of 8 tokens each, for every adapter and for none.
  auto served = server.peft.adapter_names();
  served.push_back("__base__");
  std::vector<std::string> names;
  for (int i = 0; i < 4; ++i) {
    names.insert(names.end(), served.begin(), served.end());
  }
  torch::NoGradGuard no_grad;
  const auto rows_of_batch = static_cast<int64_t>(names.size());
  const auto x = torch::randn({rows_of_batch, 8, kSize});

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
    if (i < served.size()) {
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
  Adapters adapters;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto name = word.substr(0, word.find('='));
    if (name.empty() || name.size() == word.size()) {
      std::fprintf(stderr, "usage: %s [NAME=DIR …]\n", argv[0]);
      return 2;
    }
    adapters.emplace_back(name, word.substr(name.size() + 1));
  }
  try {
    return run(adapters);
  } catch (const c10::Error& e) {
    std::fprintf(stderr, "error: %s\n", e.what_without_backtrace());
    return 1;
  } catch (const std::exception& e) { // of the file system
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
