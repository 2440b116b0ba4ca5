// What the program makes of a checkpoint: its chat template, and the merge.
#include <fstream>

#include <torchlora/io/checkpoint.h>
#include <torchlora/nn/linear.h>

#include "cli/merge_probe.h"
#include "cli/program.h"
#include "support.h"

namespace torchlora::cli {
namespace {

namespace fs = std::filesystem;

class ProgramCheckpoints : public ProgramTest {
 protected:
  void copy_model(const std::string& kind) {
    fs::remove_all(folder / "model");
    model = fs::path(TORCHLORA_TEST_DATA) / "tiny" / kind;
    fs::copy(model, folder / "model");
    const fs::path tokenizer = fs::path(TORCHLORA_TEST_DATA) / "tokenizer";
    for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
      fs::copy(
          tokenizer / name,
          folder / "model" / name,
          fs::copy_options::overwrite_existing);
    }
    model = folder / "model";
  }

  void write(const fs::path& path, const std::string& content) const {
    std::ofstream(path) << content;
  }
};

// Activations in bf16 round by more than such an adapter changes.
TEST_F(ProgramCheckpoints, GoodMergesInBf16AreWritten) {
  for (const char* kind : {"E2B", "E4B"}) {
    copy_model(kind);
    output = folder / kind;
    const fs::path merged = folder / (std::string("merged_") + kind);
    const ProgramResult result = run_program(dpo_args(
        {"--dtype",
         "bfloat16",
         "--max_steps",
         "40",
         "--learning_rate",
         "1e-3",
         "--merged_output_dir",
         merged}));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(result.err.find("differ"), std::string::npos) << result.err;
    EXPECT_TRUE(fs::exists(merged / "config.json"));
    EXPECT_TRUE(fs::exists(merged / "model.safetensors"));
  }
}

struct NetImpl : torch::nn::Module {
  NetImpl() {
    torch::manual_seed(1);
    a = register_module("a", nn::Linear(48, 32));
    b = register_module("b", nn::Linear(32, 16));
  }
  nn::Linear a{nullptr}, b{nullptr};
};
TORCH_MODULE(Net);

TEST(MergeProbes, NameTheLayersThatAMergeDidNotRound) {
  for (const auto dtype : {at::kBFloat16, at::kHalf, at::kFloat, at::kDouble}) {
    for (const bool dora : {false, true}) {
      SCOPED_TRACE(std::string(toString(dtype)) + (dora ? " dora" : ""));
      const auto adapted = [&](Net& net) {
        net->to(dtype);
        auto peft = get_peft_model(
            *net, LoraConfig(4).target_modules({"a", "b"}).use_dora(dora));
        randomize(peft, "default", 0.1);
        return peft;
      };
      Net net;
      auto peft = adapted(net);
      const at::Tensor before = net->a->weight.clone();
      const MergeProbe probe(peft);
      EXPECT_EQ(net->a->weight.scalar_type(), dtype);
      EXPECT_TRUE(net->a->weight.equal(before));
      peft.merge_and_unload();
      EXPECT_EQ(probe.differing_layers(), std::vector<std::string>{});
      {
        torch::NoGradGuard no_grad;
        net->b->weight[3].mul_(1.5);
      }
      EXPECT_EQ(probe.differing_layers(), std::vector<std::string>{"b"});

      Net lost; // a merge that loses the adapter
      auto never = adapted(lost);
      const MergeProbe of_lost(never);
      EXPECT_EQ(of_lost.differing_layers().size(), 2U);
    }
  }
}

TEST_F(ProgramCheckpoints, AChatTemplateOfAnotherFormatIsRefused) {
  copy_model("E2B");
  const std::string talk =
      R"({"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": )"
      R"("assistant", "content": "a"}], "rejected": [{"role": "assistant", )"
      R"("content": "b"}]})";
  write_lines(data, {talk, talk});
  const auto args = dpo_args({"--max_steps", "1"});
  ASSERT_EQ(run_program(args).exit_code, 0);

  fs::remove_all(output);
  write(
      model / "chat_template.jinja",
      "{% for m in messages %}<|im_start|>{{ m.role }}{% endfor %}");
  expect_refused(3, args, {"chat_template.jinja", "<|turn>role"});
  fs::remove(model / "chat_template.jinja");
  write(
      model / "chat_template.json",
      R"({"chat_template": "<|im_start|>{{ messages }}"})");
  expect_refused(3, args, {"chat_template.json", "<|turn>role"});

  write(
      model / "chat_template.jinja",
      "{% for m in messages %}<|turn>{{ m.role }}<turn|>{% endfor %}");
  const ProgramResult unknown = run_program(args);
  EXPECT_EQ(unknown.exit_code, 0) << unknown.err;
  EXPECT_NE(
      unknown.err.find("is no chat template of Gemma 4"), std::string::npos);

  // Texts go by no template.
  fs::remove_all(output);
  write(model / "chat_template.jinja", "{{ messages }}");
  write_lines(data, rows(2));
  EXPECT_EQ(run_program(args).exit_code, 0);
}

} // namespace
} // namespace torchlora::cli
