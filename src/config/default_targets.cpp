#include <torchlora/config/targets.h>

#include <unordered_map>

namespace torchlora {

ModuleNames default_target_modules(const std::string& model_type) {
  using Names = std::vector<std::string>;
  const Names qv{"q_proj", "v_proj"};
  const Names qkvo{"q_proj", "k_proj", "v_proj", "o_proj"};
  static const std::unordered_map<std::string, ModuleNames> table{
      {"bart", qv},
      {"bert", Names{"query", "value"}},
      {"blip-2", Names{"q", "v", "q_proj", "v_proj"}},
      {"bloom", Names{"query_key_value"}},
      {"btlm", Names{"c_proj", "c_attn"}},
      {"chatglm", Names{"query_key_value"}},
      {"codegen", Names{"qkv_proj"}},
      {"deberta", Names{"in_proj"}},
      {"deberta-v2", Names{"query_proj", "value_proj"}},
      {"electra", Names{"query", "value"}},
      {"falcon", Names{"query_key_value"}},
      {"gemma", qv},
      {"gemma2", qv},
      {"gemma3_text", qv},
      {"gemma4", R"(.*language_model\..*\.(q_proj|v_proj))"},
      // PEFT has none for it.
      {"gemma4_text", qv},
      {"gpt2", Names{"c_attn"}},
      {"gpt_bigcode", Names{"c_attn"}},
      {"gpt_neo", qv},
      {"gpt_neox", Names{"query_key_value"}},
      {"gptj", qv},
      {"layoutlm", Names{"query", "value"}},
      {"llama", qv},
      {"llama4", qv},
      {"mistral", qv},
      {"mixtral", qv},
      {"mpt", Names{"Wqkv"}},
      {"mt5", Names{"q", "v"}},
      {"nemotron_h", qkvo},
      {"opt", qv},
      {"phi", Names{"q_proj", "v_proj", "fc1", "fc2"}},
      {"qwen2", qv},
      {"qwen3", qv},
      {"RefinedWeb", Names{"query_key_value"}},
      {"RefinedWebModel", Names{"query_key_value"}},
      {"roberta", Names{"query", "value"}},
      {"rwkv", Names{"key", "value", "receptance", "output"}},
      {"rwkv7", Names{"r_proj", "k_proj", "v_proj", "o_proj", "key", "value"}},
      {"stablelm", qv},
      {"t5", Names{"q", "v"}},
      {"xlm-roberta", Names{"query", "value"}},
  };
  const auto found = table.find(model_type);
  return found == table.end() ? ModuleNames() : found->second;
}

} // namespace torchlora
