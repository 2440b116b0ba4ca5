// A Llama written in plain torch::nn, with weights from the Hugging Face hub,
// fine-tuned by LoRA in a hand-written loop. The model knows nothing of
// torchlora.
//
//   llama MODEL_DIR IDS OUTPUT_DIR [KEY=VALUE …]
//
// MODEL_DIR is a folder of model_type "llama", for example SmolLM2-135M's:
// config.json and model.safetensors, in one file or in shards. IDS is a file of
// token ids, a sequence a line:
//
//   tokenizer = transformers.AutoTokenizer.from_pretrained("SmolLM2-135M")
//   for text in texts: print(*tokenizer(text)["input_ids"], file=ids)
//
// OUTPUT_DIR receives an adapter that PEFT loads onto the same folder. Keys:
//
//   adapter=DIR   train this adapter further; r, alpha and targets are its own
//   r=8  alpha=16  targets=q_proj,k_proj,v_proj,o_proj
//   steps=100  lr=1e-4
//   logits=FILE   logits of the first sequence after training (safetensors)
//
// Built as the target `llama` of torchlora, or in a project of your own as
// examples/consumer shows.
#include <torch/torch.h>
#include <torchlora/io/atomic_file.h>
#include <torchlora/torchlora.h>

#include <iomanip>
#include <iostream>
#include <map>
#include <regex>
#include <sstream>

namespace tl = torchlora;
using torch::Tensor;

// ---- The model: module names are those of transformers' LlamaForCausalLM.

struct Config {
  int64_t vocab_size, hidden_size, intermediate_size, num_layers;
  int64_t num_heads, num_key_value_heads, head_dim;
  double rms_norm_eps, rope_theta;
  bool tie_word_embeddings;
};

torch::nn::Linear linear(int64_t in, int64_t out) {
  return torch::nn::Linear(torch::nn::LinearOptions(in, out).bias(false));
}

struct RMSNormImpl : torch::nn::Module {
  RMSNormImpl(int64_t size, double eps_)
      : weight(register_parameter("weight", torch::ones(size))), eps(eps_) {}
  Tensor forward(const Tensor& x) {
    const auto h = x.to(torch::kFloat);
    const auto variance = h.square().mean(-1, /*keepdim=*/true);
    return weight * (h * torch::rsqrt(variance + eps)).to(x.scalar_type());
  }
  Tensor weight;
  double eps;
};
TORCH_MODULE(RMSNorm);

// cos and sin of the positions' angles, each [length, head_dim].
struct Rotary {
  Rotary(const Config& config, int64_t length, torch::Device device) {
    const auto options = torch::dtype(torch::kFloat).device(device);
    const auto exponents =
        torch::arange(0, config.head_dim, 2, options) / config.head_dim;
    const auto angles = torch::outer(
        torch::arange(length, options),
        1.0 / torch::pow(config.rope_theta, exponents));
    cos = torch::cat({angles, angles}, -1).cos();
    sin = torch::cat({angles, angles}, -1).sin();
  }

  Tensor operator()(const Tensor& x) const {
    const auto halves = x.chunk(2, -1);
    const auto rotated = torch::cat({-halves[1], halves[0]}, -1);
    return x * cos.to(x.scalar_type()) + rotated * sin.to(x.scalar_type());
  }

  Tensor cos, sin;
};

struct AttentionImpl : torch::nn::Module {
  explicit AttentionImpl(const Config& config) : head_dim(config.head_dim) {
    const auto hidden = config.hidden_size;
    const auto heads = config.num_heads * head_dim;
    const auto kv_heads = config.num_key_value_heads * head_dim;
    q_proj = register_module("q_proj", linear(hidden, heads));
    k_proj = register_module("k_proj", linear(hidden, kv_heads));
    v_proj = register_module("v_proj", linear(hidden, kv_heads));
    o_proj = register_module("o_proj", linear(heads, hidden));
  }
  Tensor forward(const Tensor& x, const Rotary& rotary) {
    const auto heads = [&](const Tensor& h) { // [B, heads, T, head_dim]
      return h.unflatten(-1, {-1, head_dim}).transpose(1, 2);
    };
    const auto attended = torch::scaled_dot_product_attention(
        rotary(heads(q_proj(x))),
        rotary(heads(k_proj(x))),
        heads(v_proj(x)),
        /*attn_mask=*/{},
        /*dropout_p=*/0,
        /*is_causal=*/true,
        /*scale=*/std::nullopt,
        /*enable_gqa=*/true);
    return o_proj(attended.transpose(1, 2).flatten(2));
  }

  torch::nn::Linear q_proj{nullptr}, k_proj{nullptr}, v_proj{nullptr},
      o_proj{nullptr};
  int64_t head_dim;
};
TORCH_MODULE(Attention);

struct MLPImpl : torch::nn::Module {
  explicit MLPImpl(const Config& config) {
    const auto hidden = config.hidden_size, inner = config.intermediate_size;
    gate_proj = register_module("gate_proj", linear(hidden, inner));
    up_proj = register_module("up_proj", linear(hidden, inner));
    down_proj = register_module("down_proj", linear(inner, hidden));
  }
  Tensor forward(const Tensor& x) {
    return down_proj(torch::silu(gate_proj(x)) * up_proj(x));
  }

  torch::nn::Linear gate_proj{nullptr}, up_proj{nullptr}, down_proj{nullptr};
};
TORCH_MODULE(MLP);

struct DecoderLayerImpl : torch::nn::Module {
  explicit DecoderLayerImpl(const Config& config) {
    const auto norm = [&] {
      return RMSNorm(config.hidden_size, config.rms_norm_eps);
    };
    self_attn = register_module("self_attn", Attention(config));
    mlp = register_module("mlp", MLP(config));
    input_layernorm = register_module("input_layernorm", norm());
    post_attention_layernorm =
        register_module("post_attention_layernorm", norm());
  }
  Tensor forward(const Tensor& x, const Rotary& rotary) {
    const auto h = x + self_attn(input_layernorm(x), rotary);
    return h + mlp(post_attention_layernorm(h));
  }

  Attention self_attn{nullptr};
  MLP mlp{nullptr};
  RMSNorm input_layernorm{nullptr}, post_attention_layernorm{nullptr};
};
TORCH_MODULE(DecoderLayer);

struct LlamaImpl : torch::nn::Module {
  explicit LlamaImpl(const Config& config_) : config(config_) {
    embed_tokens = register_module(
        "embed_tokens",
        torch::nn::Embedding(config.vocab_size, config.hidden_size));
    layers = register_module("layers", torch::nn::ModuleList());
    for (int64_t i = 0; i < config.num_layers; ++i) {
      layers->push_back(DecoderLayer(config));
    }
    norm = register_module(
        "norm", RMSNorm(config.hidden_size, config.rms_norm_eps));
  }
  Tensor forward(const Tensor& ids) {
    const Rotary rotary(config, ids.size(1), ids.device());
    auto h = embed_tokens(ids);
    for (const auto& layer : *layers) {
      h = layer->as<DecoderLayer>()->forward(h, rotary);
    }
    return norm(h);
  }

  torch::nn::Embedding embed_tokens{nullptr};
  torch::nn::ModuleList layers{nullptr};
  RMSNorm norm{nullptr};
  Config config;
};
TORCH_MODULE(Llama);

// A Linear that can share its parameter with the embedding table.
struct LMHeadImpl : torch::nn::LinearImpl {
  using LinearImpl::LinearImpl;
  void tie(const Tensor& table) {
    parameters_["weight"] = weight = table;
  }
};
TORCH_MODULE(LMHead);

struct LlamaForCausalLMImpl : torch::nn::Module {
  explicit LlamaForCausalLMImpl(const Config& config) {
    model = register_module("model", Llama(config));
    lm_head = register_module(
        "lm_head",
        LMHead(torch::nn::LinearOptions(config.hidden_size, config.vocab_size)
                   .bias(false)));
    if (config.tie_word_embeddings) {
      lm_head->tie(model->embed_tokens->weight);
    }
  }
  // [B, T] → [B, T, vocab_size]
  Tensor forward(const Tensor& ids) {
    return lm_head(model(ids));
  }

  Llama model{nullptr};
  LMHead lm_head{nullptr};
};
TORCH_MODULE(LlamaForCausalLM);

// ---- Loading.

// The first value of a key in config.json, without quotes; enough for what a
// Llama's has.
std::string json_value(
    const std::string& json,
    const std::string& key,
    const std::string& otherwise = "") {
  std::smatch match;
  const std::regex entry("\"" + key + "\"\\s*:\\s*\"?([^\",}\\s]+)");
  if (std::regex_search(json, match, entry) && match[1] != "null") {
    return match[1];
  }
  TORCH_CHECK(!otherwise.empty(), "config.json has no \"", key, "\"");
  return otherwise;
}

Config read_config(const std::string& model_dir) {
  const auto json = tl::io::read_file(model_dir + "/config.json");
  const auto require = [&](const char* key, const std::string& value) {
    const std::regex entry("\"" + std::string(key) + "\"\\s*:\\s*\"?(\\w+)");
    for (std::sregex_iterator i(json.begin(), json.end(), entry), end; i != end;
         ++i) {
      const auto wanted = std::string(key) + " " + value;
      const auto found = (*i)[1].str();
      TORCH_CHECK(
          found == value || found == "null",
          "config.json must have ",
          wanted,
          ", found ",
          found);
    }
  };
  require("model_type", "llama");
  require("hidden_act", "silu");
  require("attention_bias", "false");
  require("mlp_bias", "false");
  require("rope_type", "default");
  require("type", "default"); // older files' rope_type
  const auto integer = [&](const char* key, int64_t otherwise = -1) {
    const auto fallback = otherwise < 0 ? "" : std::to_string(otherwise);
    return static_cast<int64_t>(std::stoll(json_value(json, key, fallback)));
  };
  Config config;
  config.vocab_size = integer("vocab_size");
  config.hidden_size = integer("hidden_size");
  config.intermediate_size = integer("intermediate_size");
  config.num_layers = integer("num_hidden_layers");
  config.num_heads = integer("num_attention_heads");
  config.num_key_value_heads = integer("num_key_value_heads", config.num_heads);
  config.head_dim = integer("head_dim", config.hidden_size / config.num_heads);
  config.rms_norm_eps = std::stod(json_value(json, "rms_norm_eps", "1e-6"));
  config.rope_theta = std::stod(json_value(json, "rope_theta", "1e4"));
  config.tie_word_embeddings =
      json_value(json, "tie_word_embeddings", "false") == "true";
  return config;
}

// In fp32, whatever the checkpoint has.
LlamaForCausalLM load_model(const std::string& model_dir) {
  const auto config = read_config(model_dir);
  LlamaForCausalLM model(config);
  const tl::io::Checkpoint checkpoint(model_dir);
  torch::NoGradGuard no_grad;
  for (auto& item : model->named_parameters()) {
    if (config.tie_word_embeddings && item.key() == "lm_head.weight") {
      continue;
    }
    const auto tensor = checkpoint.tensor(item.key());
    const auto found = tensor.sizes(), expected = item->sizes();
    TORCH_CHECK(
        found == expected, item.key(), " must be ", expected, ", is ", found);
    item->copy_(tensor);
  }
  return model;
}

// A [1, length] tensor a line.
std::vector<Tensor> read_ids(const std::string& path) {
  std::istringstream file(tl::io::read_file(path));
  std::vector<Tensor> sequences;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::vector<int64_t> ids;
    for (int64_t id; words >> id;) {
      ids.push_back(id);
    }
    const bool ok = words.eof() && ids.size() > 1;
    TORCH_CHECK(ok, path, ": a line must have two ids or more, found ", line);
    sequences.push_back(torch::tensor(ids).unsqueeze(0));
  }
  TORCH_CHECK(!sequences.empty(), path, " is empty");
  return sequences;
}

// ---- Training.

using Options = std::map<std::string, std::string>;

Options read_options(int argc, char** argv) {
  Options options{
      {"adapter", ""},
      {"r", "8"},
      {"alpha", "16"},
      {"targets", "q_proj,k_proj,v_proj,o_proj"},
      {"steps", "100"},
      {"lr", "1e-4"},
      {"logits", ""}};
  for (int i = 4; i < argc; ++i) {
    const std::string word = argv[i];
    const auto key = word.substr(0, word.find('='));
    const bool ok = options.contains(key) && key.size() < word.size();
    TORCH_CHECK(ok, "there is no such option: ", word);
    options[key] = word.substr(key.size() + 1);
  }
  return options;
}

// A number that is not negative.
template <class T>
T number(const Options& options, const std::string& key) {
  std::istringstream text(options.at(key));
  T value{};
  const bool ok = text >> value && text.peek() == EOF && value >= 0;
  const auto& found = options.at(key);
  TORCH_CHECK(ok, key, " must be a number of 0 or more, found ", found);
  return value;
}

tl::PeftModel
adapt(LlamaForCausalLM& model, const std::string& model_dir, Options& options) {
  if (!options["adapter"].empty()) {
    return tl::PeftModel::from_pretrained(
        *model,
        options["adapter"],
        "default",
        tl::LoadOptions().is_trainable(true));
  }
  std::vector<std::string> targets;
  std::istringstream names(options["targets"]);
  for (std::string name; std::getline(names, name, ',');) {
    targets.push_back(name);
  }
  torch::manual_seed(0);
  return tl::get_peft_model(
      *model,
      tl::LoraConfig(number<int64_t>(options, "r"))
          .lora_alpha(number<double>(options, "alpha"))
          .target_modules(targets)
          .task_type("CAUSAL_LM")
          .base_model_name_or_path(model_dir));
}

void train(
    LlamaForCausalLM& model,
    tl::PeftModel& peft,
    const std::vector<Tensor>& sequences,
    int64_t steps,
    double learning_rate) {
  const auto parameters = peft.trainable_parameters();
  torch::optim::AdamW optimizer(parameters, learning_rate);
  model->train();
  for (int64_t step = 0; step < steps; ++step) {
    const auto& ids = sequences[step % sequences.size()];
    const auto logits = model(ids.slice(1, 0, -1));
    const auto loss = torch::nn::functional::cross_entropy(
        logits.flatten(0, 1), ids.slice(1, 1).flatten());
    optimizer.zero_grad();
    loss.backward();
    torch::nn::utils::clip_grad_norm_(parameters, 1.0);
    optimizer.step();
    std::cout << "step " << step + 1 << " loss " << loss.item<double>() << '\n';
  }
  model->eval();
}

int run(int argc, char** argv) {
  const std::string model_dir = argv[1], output_dir = argv[3];
  auto options = read_options(argc, argv);
  const auto steps = number<int64_t>(options, "steps");
  const auto learning_rate = number<double>(options, "lr");
  const auto sequences = read_ids(argv[2]);
  auto model = load_model(model_dir);
  auto peft = adapt(model, model_dir, options);
  peft.print_trainable_parameters();
  train(model, peft, sequences, steps, learning_rate);
  peft.save_pretrained(output_dir);
  if (!options["logits"].empty()) {
    torch::NoGradGuard no_grad;
    tl::io::save_safetensors(
        options["logits"], {{"logits", model(sequences[0])}});
  }
  return 0;
}

int main(int argc, char** argv) {
  if (argc < 4) {
    std::cerr << "usage: llama MODEL_DIR IDS OUTPUT_DIR [KEY=VALUE …]\n";
    return 2;
  }
  std::cout << std::setprecision(8);
  try {
    return run(argc, argv);
  } catch (const c10::Error& e) {
    std::cerr << "error: " << e.what_without_backtrace() << '\n';
    return 1;
  } catch (const std::exception& e) { // a number in config.json that is none
    std::cerr << "error: " << e.what() << '\n';
    return 1;
  }
}
