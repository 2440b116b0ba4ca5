#include <set>

#include <torchlora/error.h>
#include <torchlora/io/checkpoint.h>
#include <torchlora/models/gemma4/model.h>

namespace torchlora::gemma4 {

namespace {

/// The parts of a multimodal checkpoint that text does not need.
constexpr const char* kTowers[] = {
    "model.vision_tower.",
    "model.audio_tower.",
    "model.embed_vision.",
    "model.embed_audio."};

bool is_in_tower(const std::string& key) {
  for (const auto* tower : kTowers) {
    if (key.rfind(tower, 0) == 0) {
      return true;
    }
  }
  return false;
}

/// Returns the tensors that may be in a file though no module reads them: the
/// tied head, and the keys and values of layers that read those of another
/// layer (the hub's files have them).
std::set<std::string> unused_keys(
    const TextConfig& config,
    const std::string& prefix) {
  std::set<std::string> keys{"lm_head.weight"};
  for (size_t i = 0; i < config.layers.size(); ++i) {
    if (config.layers[i].kv_source >= 0) {
      for (const auto* name : {"k_proj", "v_proj", "k_norm"}) {
        keys.insert(
            prefix + "layers." + std::to_string(i) + ".self_attn." + name +
            ".weight");
      }
    }
  }
  return keys;
}

/// Adds the module that owns the tensor `key` and all modules above it, except
/// the root's child "model".
void insert_modules(const std::string& key, std::set<std::string>& modules) {
  for (auto dot = key.rfind('.'); dot != std::string::npos;
       dot = key.rfind('.', dot - 1)) {
    const auto name = key.substr(0, dot);
    if (name == "model" || !modules.insert(name).second) {
      return;
    }
  }
}

} // namespace

Gemma4ForCausalLM from_pretrained(
    const std::filesystem::path& directory,
    const LoadOptions& options) {
  TORCH_CHECK_VALUE(
      !options.dtype ||
          (at::isFloatingType(*options.dtype) &&
           c10::elementSize(*options.dtype) >= 2),
      "[gemma4] dtype must be bf16, fp16, fp32 or fp64, found ",
      *options.dtype);
  const auto config = Config::from_pretrained(directory);
  const io::Checkpoint checkpoint(directory);
  const std::string prefix =
      config.is_conditional() ? "model.language_model." : "model.";

  const auto dtype =
      options.dtype.value_or(checkpoint.file_of(prefix + "embed_tokens.weight")
                                 .dtype(prefix + "embed_tokens.weight"));

  std::set<std::string> used;
  const TensorSource source(
      [&](const std::string& name, at::IntArrayRef sizes) {
        const auto tensor = checkpoint.tensor(name);
        TORCHLORA_CHECK_DATA(
            tensor.sizes() == sizes,
            "[gemma4] ",
            checkpoint.file_of(name).path().string(),
            ": ",
            name,
            " should have the sizes ",
            sizes,
            " by config.json, it has ",
            tensor.sizes());
        TORCHLORA_CHECK_DATA(
            tensor.is_floating_point() && tensor.element_size() >= 2,
            "[gemma4] ",
            checkpoint.file_of(name).path().string(),
            ": ",
            name,
            " has dtype ",
            tensor.scalar_type(),
            ", a weight must be bf16, fp16, fp32 or fp64");
        used.insert(name);
        return tensor.to(options.device).to(dtype);
      });

  std::set<std::string> unloaded;
  for (const auto& key : checkpoint.keys()) {
    if (config.is_conditional() && is_in_tower(key)) {
      insert_modules(key, unloaded);
    }
  }
  Gemma4ForCausalLM model(
      source,
      config,
      directory.string(),
      std::vector<std::string>(unloaded.begin(), unloaded.end()));

  const auto unused = unused_keys(config.text_config, prefix);
  for (const auto& key : checkpoint.keys()) {
    TORCHLORA_CHECK_DATA(
        used.count(key) || unused.count(key) ||
            (config.is_conditional() && is_in_tower(key)),
        "[gemma4] ",
        checkpoint.file_of(key).path().string(),
        ": the tensor ",
        key,
        " has no place in the model that config.json describes");
  }
  return model;
}

} // namespace torchlora::gemma4
