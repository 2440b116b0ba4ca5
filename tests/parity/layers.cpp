// What the parity scripts compare with peft beyond Gemma 4: a small model with
// every kind of layer that peft adapts.
//   parity_layers load BASE ADAPTER IDS OUTPUT
//     `output` and `merged` of the model with an adapter, for the `ids` of a
//     safetensors file
//   parity_layers reduce BASE ADAPTER IDS OUTPUT
//     `output` with the intruder dimensions of the adapter reduced, and their
//     number in `count`
//   parity_layers make BASE CONFIG IDS FOLDER
//     an adapter by the adapter_config.json of the folder CONFIG under seed 42,
//     saved in FOLDER/initial, trained for five steps and saved in FOLDER/raw
//     and, as a plain LoRA of the original base, in FOLDER/plain; its `output`
//     in FOLDER/output.safetensors
#include <torch/torch.h>

#include <torchlora/torchlora.h>

namespace {

namespace fs = std::filesystem;
namespace nn = torchlora::nn;

/// transformers' Conv1D, which the library has not.
struct TransposedModule : torch::nn::Cloneable<TransposedModule> {
  TransposedModule(int64_t in, int64_t out) : in_(in), out_(out) {
    TransposedModule::reset();
  }
  void reset() override {
    weight = register_parameter("weight", torch::empty({in_, out_}));
    bias = register_parameter("bias", torch::empty({out_}));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    return at::linear(x, weight.t(), bias);
  }
  int64_t in_, out_;
  torch::Tensor weight, bias;
};
struct TransposedImpl : nn::Adaptable<TransposedModule, TransposedImpl> {
  using Adaptable::Adaptable;
};
TORCH_MODULE(Transposed);

struct ExpertsImpl : torch::nn::Module, nn::StackedExperts {
  explicit ExpertsImpl(bool is_transposed) : StackedExperts(is_transposed) {
    const auto parameter = [&](const char* name, int64_t out, int64_t in) {
      return register_parameter(
          name,
          is_transposed ? torch::empty({3, in, out})
                        : torch::empty({3, out, in}));
    };
    parameter("up_proj", 10, 12);
    parameter("down_proj", 12, 10);
  }
  torch::Tensor forward(const torch::Tensor& x, const torch::Tensor& ids) {
    const auto [order, counts] = nn::sort_by_expert(ids.flatten(), 3);
    auto h = x.flatten(0, 1).index_select(0, order);
    h = expert_linear("up_proj", h, counts);
    h = expert_linear("down_proj", (h * 0.3).tanh(), counts) * 0.3;
    return h.index_select(0, order.argsort()).view(x.sizes());
  }
};
TORCH_MODULE(Experts);

struct BlockImpl : torch::nn::Cloneable<BlockImpl> {
  BlockImpl() {
    BlockImpl::reset();
  }
  void reset() override {
    mix = register_module("mix", nn::Linear(12, 12));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    return x + mix(x).tanh() * 0.3;
  }
  nn::Linear mix{nullptr};
};

/// What `layer_replication` stacks.
struct BlocksImpl : torch::nn::Module {
  torch::nn::ModuleList layers = register_module(
      "layers",
      torch::nn::ModuleList(BlockImpl(), BlockImpl(), BlockImpl()));
  torch::Tensor forward(torch::Tensor x) {
    for (const auto& layer : *layers) {
      x = layer->as<BlockImpl>()->forward(x);
    }
    return x;
  }
};
TORCH_MODULE(Blocks);

struct NetImpl : torch::nn::Module {
  nn::Embedding table = register_module(
      "table",
      nn::Embedding(torch::nn::EmbeddingOptions(20, 8).padding_idx(3)));
  nn::Conv1d conv1 = register_module(
      "conv1",
      nn::Conv1d(torch::nn::Conv1dOptions(8, 8, 3).padding(1)));
  nn::Conv2d conv2 = register_module(
      "conv2",
      nn::Conv2d(torch::nn::Conv2dOptions(1, 4, 3).padding(1)));
  nn::MultiheadAttention mha =
      register_module("mha", nn::MultiheadAttention(8, 2));
  Transposed c_attn = register_module("c_attn", Transposed(8, 12));
  Experts experts = register_module("experts", Experts(false));
  Experts transposed = register_module("transposed", Experts(true));
  nn::Linear up = register_module("up", nn::Linear(12, 16));
  nn::Linear down = register_module("down", nn::Linear(16, 6));
  Blocks blocks = register_module("model", Blocks());

  torch::Tensor forward(const torch::Tensor& ids) {
    auto x = table(ids);
    const auto y = x.transpose(0, 1);
    x = x + std::get<0>(mha(y, y, y, at::Tensor(), false)).transpose(0, 1);
    x = conv1(x.transpose(1, 2)).transpose(1, 2).tanh();
    x = conv2(x.unsqueeze(1)).tanh().mean(1);
    x = c_attn(x).tanh();
    x = x + experts(x, ids % 3) + transposed(x, (ids + 1) % 3);
    return down(up(blocks(x)).tanh());
  }
};
TORCH_MODULE(Net);

Net load_base(const fs::path& path) {
  Net net;
  const torchlora::io::SafetensorsFile file(path);
  torch::NoGradGuard no_grad;
  for (auto& item : net->named_parameters()) {
    item.value().copy_(file.tensor(item.key()));
  }
  return net;
}

void load(
    Net& net,
    const fs::path& adapter,
    const torch::Tensor& ids,
    const fs::path& output) {
  torch::NoGradGuard no_grad;
  auto peft = torchlora::PeftModel::from_pretrained(
      *net,
      adapter,
      "default",
      torchlora::LoadOptions().peft_multihead_attention(true));
  const auto unmerged = net(ids);
  if (peft.peft_config().layer_replication().empty()) {
    peft.merge_and_unload();
  } else {
    bool is_refused = false;
    try {
      peft.merge_and_unload();
    } catch (const c10::ValueError&) {
      is_refused = true;
    }
    TORCH_CHECK(is_refused, "a model with replicated layers was merged");
  }
  torchlora::io::save_safetensors(
      output, {{"output", unmerged}, {"merged", net(ids)}});
}

/// The adapter of a configuration, from the data where it takes them: each
/// sample alone, as peft has it.
torchlora::PeftModel
adapt(Net& net, const torchlora::LoraConfig& config, const torch::Tensor& ids) {
  torchlora::InitStatistics statistics;
  const auto samples = ids.split(1);
  const auto& init = config.init_lora_weights();
  if (init == torchlora::InitLoraWeights("corda")) {
    statistics = torchlora::preprocess_corda(*net, config, [&] {
      for (const auto& sample : samples) {
        net(sample);
      }
    });
  } else if (init == torchlora::InitLoraWeights("lora_ga")) {
    statistics = torchlora::preprocess_loraga(*net, config, [&] {
      for (const auto& sample : samples) {
        net(sample).square().mean().backward();
      }
    });
  }
  auto peft = torchlora::get_peft_model(
      *net,
      config,
      "default",
      torchlora::InjectOptions().init_statistics(std::move(statistics)));
  if (init == torchlora::InitLoraWeights("eva")) {
    torchlora::initialize_lora_eva_weights(peft, [&, i = size_t(0)]() mutable {
      net(samples[i++ % samples.size()]);
      return true;
    });
  }
  return peft;
}

void reduce(
    Net& net,
    const fs::path& adapter,
    const torch::Tensor& ids,
    const fs::path& output) {
  torch::NoGradGuard no_grad;
  auto peft = torchlora::PeftModel::from_pretrained(*net, adapter);
  int64_t count = 0;
  for (const auto& layer : torchlora::reduce_intruder_dimension(
           peft, "default", "reduced", 5, 0.9, 0.3)) {
    count += static_cast<int64_t>(layer.intruders.size());
  }
  torchlora::io::save_safetensors(
      output, {{"output", net(ids)}, {"count", torch::tensor(count)}});
}

void make(
    Net& net,
    const fs::path& config,
    const torch::Tensor& ids,
    const fs::path& folder) {
  torch::manual_seed(42);
  auto peft = adapt(
      net, torchlora::load_adapter_config(config).inference_mode(false), ids);
  peft.save_pretrained(folder / "initial");
  torch::optim::AdamW optimizer(peft.trainable_parameters(), 0.05);
  for (int step = 0; step < 5; ++step) {
    optimizer.zero_grad();
    net(ids).square().mean().backward();
    optimizer.step();
  }
  const auto options = torchlora::SaveOptions().peft_multihead_attention(true);
  peft.save_pretrained(folder / "raw", options);
  const auto& made = peft.peft_config();
  if (made.target_parameters().empty() && !made.kasa_config()) {
    peft.save_pretrained(
        folder / "plain",
        torchlora::SaveOptions(options)
            .path_initial_model_for_weight_conversion(folder / "initial"));
  }
  torch::NoGradGuard no_grad;
  torchlora::io::save_safetensors(
      folder / "output.safetensors", {{"output", net(ids)}});
}

} // namespace

int main(int argc, char** argv) {
  TORCH_CHECK_VALUE(argc == 6, "five arguments are needed");
  torchlora::LoraRegistry::global().add<TransposedImpl, torchlora::LoraLinear>(
      "Transposed", [](TransposedImpl& module) {
        return torchlora::BaseWeight(
            module.weight, module.bias, "", torchlora::WeightLayout::kInOut);
      });
  auto net = load_base(argv[2]);
  const auto ids = torchlora::io::SafetensorsFile(argv[4]).tensor("ids");
  const std::string command = argv[1];
  (command == "load"         ? load
       : command == "reduce" ? reduce
                             : make)(net, argv[3], ids, argv[5]);
}
