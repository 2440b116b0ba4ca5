// Bad inputs, each with the exit code and words of the message that it must
// get. None may end in a signal, hang, or take a gigabyte of memory. The
// command is called here, as a start of the program takes longer than all the
// rest; the last test starts it for one input of each kind.
#include <fstream>

#include <sys/resource.h>
#include <sys/stat.h>

#include <torchlora/error.h>

#include "cli/commands.h"
#include "cli/program.h"

namespace torchlora::cli {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

class BadInputs : public ProgramTest {
 protected:
  void expect_refusal(
      int exit_code,
      const std::vector<std::string>& args,
      const std::string& words) const {
    std::string command;
    for (const auto& arg : args) {
      command += arg + " ";
    }
    SCOPED_TRACE(command);
    const auto [code, message] = outcome(args);
    EXPECT_EQ(code, exit_code) << message;
    EXPECT_NE(message.find(words), std::string::npos)
        << "no \"" << words << "\" in: " << message;
    EXPECT_LT(message.size(), 2000U) << message;
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    EXPECT_LT(usage.ru_maxrss, 1 << 20); // KiB
    EXPECT_FALSE(fs::exists(output));
  }

  /// Returns the exit code that the program makes of what `dpo` does, and the
  /// message.
  static std::pair<int, std::string> outcome(
      const std::vector<std::string>& args) {
    try {
      return {dpo({args.begin() + 1, args.end()}), ""};
    } catch (const DataError& error) {
      return {3, error.what_without_backtrace()};
    } catch (const c10::ValueError& error) {
      return {2, error.what_without_backtrace()};
    } catch (const c10::Error& error) {
      return {1, error.what_without_backtrace()};
    }
  }

  void write(const fs::path& path, const std::string& content) const {
    std::ofstream(path, std::ios::binary) << content;
  }
};

struct BadFlags {
  std::vector<std::string> flags;
  const char* words;
  int exit_code = 2;
};

TEST_F(BadInputs, Flags) {
  const std::vector<BadFlags> cases = {
      {{"--lora_r", "-3"}, "--lora_r"},
      {{"--lora_r", "2.5"}, "--lora_r: must be a whole number, found 2.5"},
      {{"--lora_r", "eight"}, "must be a whole number, found eight"},
      {{"--lora_r", ""}, "--lora_r"},
      {{"--lora_r", "010"}, "must be a whole number, found 010"},
      {{"--lora_r", "0x10"}, "must be a whole number, found 0x10"},
      {{"--lora_r", "70000"}, "--lora_r must be at most 65536, found 70000"},
      {{"--lora_alpha", "nan"}, "must be a finite number, found nan"},
      {{"--lora_alpha", "1e999"}, "must be a finite number, found 1e999"},
      {{"--lora_dropout", "-0.1"}, "lora_dropout"},
      {{"--lora_dropout", "1.5"}, "lora_dropout"},
      {{"--lora_dropout", "nan"}, "must be a finite number, found nan"},
      {{"--learning_rate", "-1e-5"}, "learning_rate must be finite and not"},
      {{"--learning_rate", "1e-999"}, "must be a finite number, found 1e-999"},
      {{"--learning_rate", "1,5"}, "must be a number, found 1,5"},
      {{"--beta", "0"}, "beta must be positive, found 0"},
      {{"--beta", "-1"}, "beta must be positive, found -1"},
      {{"--beta", "1e400"}, "must be a finite number, found 1e400"},
      {{"--loss_type", "hinge"}, "sigmoid"},
      {{"--loss_type", "sigmoid,sigmoid"}, "sigmoid,sigmoid"},
      {{"--loss_weights", "1", "2"}, "loss_weights must be as many"},
      {{"--loss_weights", "x"}, "must be a number, found x"},
      {{"--reference", "none"}, "initial_adapter"},
      {{"--max_length", "1"}, "max_length must be at least 2, found 1"},
      {{"--max_length", "-5"}, "--max_length: must not be negative, found -5"},
      {{"--max_length", "1e3"}, "must be a whole number, found 1e3"},
      {{"--truncation_mode", "keep_middle"}, "keep_middle"},
      {{"--dtype", "float16"}, "float16"},
      {{"--torch_num_threads", "-1"}, "must not be negative, found -1"},
      {{"--torch_num_threads", "99999"}, "processors, found 99999"},
      {{"--per_device_train_batch_size", "-2"}, "must be positive, found -2"},
      {{"--per_device_train_batch_size", "4294967296"}, "found 4294967296"},
      {{"--per_device_eval_batch_size", "0"}, "must be positive, found 0"},
      {{"--gradient_accumulation_steps", "0"}, "must be positive, found 0"},
      {{"--gradient_accumulation_steps", "9223372036854775807"},
       "must be below 2^31, found 9223372036854775807"},
      {{"--num_train_epochs", "0"}, "num_train_epochs must be positive"},
      {{"--num_train_epochs", "-2"}, "num_train_epochs must be positive"},
      {{"--num_train_epochs", "2e9"}, "at most 1e9, found 2e+09"},
      {{"--max_steps", "9e9"}, "must be a whole number, found 9e9"},
      {{"--max_steps", "99999999999"}, "at most 1e9, found 99999999999"},
      {{"--lr_scheduler_type", "polynomial"}, "constant_with_warmup"},
      {{"--lr_scheduler_type", "Linear"}, "Linear"},
      {{"--warmup_steps", "-1"}, "warmup_steps must be"},
      {{"--warmup_steps", "2.5"}, "warmup_steps must be a whole number"},
      {{"--weight_decay", "-0.1"}, "weight_decay must be"},
      {{"--weight_decay", "nan"}, "must be a finite number, found nan"},
      {{"--adam_beta1", "1"}, "adam_beta1 must be in [0, 1), found 1"},
      {{"--adam_beta2", "-0.5"}, "adam_beta2 must be in [0, 1)"},
      {{"--adam_epsilon", "-1"}, "adam_epsilon must be"},
      {{"--adam_epsilon", "inf"}, "must be a finite number, found inf"},
      {{"--max_grad_norm", "-1"}, "max_grad_norm must be"},
      {{"--max_grad_norm", "inf"}, "must be a finite number, found inf"},
      {{"--seed", "abc"}, "must be a whole number, found abc"},
      {{"--seed", "1.5"}, "must be a whole number, found 1.5"},
      {{"--seed", "-7"}, "must not be negative, found -7"},
      {{"--seed", "99999999999999999999999"}, "99999999999999999999999"},
      {{"--train_sampling_strategy", "group_by_length"}, "sequential"},
      {{"--logging_steps", "0"}, "logging_steps must be positive, found 0"},
      {{"--logging_steps", "3.5"}, "logging_steps must be a whole number"},
      {{"--eval_strategy", "maybe"}, "maybe"},
      {{"--eval_strategy", "steps"}, "no evaluation data"},
      {{"--eval_on_start"}, "--eval_on_start: there is no evaluation data"},
      {{"--eval_strategy", "epoch"}, "--eval_strategy: there is no evaluation"},
      {{"--save_strategy", "best"}, "best"},
      {{"--save_steps", "0"}, "save_steps must be positive, found 0"},
      {{"--save_steps", "1.5"}, "save_steps must be a whole number"},
      {{"--dump_gradients_step", "-1"}, "must not be negative, found -1"},
      {{"--init_lora_weights", "nonsense"}, "nonsense"},
      {{"--init_lora_weights", "corda"}, "needs data"},
      {{"--init_lora_weights", "pissa_niter_4"}, "draws at random"},
      {{"--lora_target_modules", "q_proj v_proj"}, "values of their own"},
      {{"--lora_target_modules", "("}, "("},
      {{"--lora_target_modules", "q_prj"}, "Instead of 'q_prj': 'q_proj'?"},
      {{"--exclude_modules", "q_proj,v_proj"}, "--exclude_modules q_proj v_pr"},
      {{"--exclude_modules", ".*"}, "excluded"},
      {{"--loraplus_lr_ratio", "-1"}, "loraplus_lr_ratio must be"},
      {{"--loraplus_weight_decay", "0.1"}, "without loraplus_lr_ratio"},
      {{"--load_in_4bit"}, "quantized bases are not supported"},
      {{"--push_to_hub", "true"}, "nothing is uploaded"},
      {{"--fp16"}, "use --dtype bfloat16"},
      {{"--optim", "adafactor"}, "the optimizer is AdamW"},
      {{"--resume_from_checkpoint", "x"}, "cannot be resumed"},
      {{"--config", "missing.toml"}, "missing.toml"},
      {{"--config", "."}, "a regular file is required, found a folder"},
      {{"--use_dora", "maybe"}, "maybe"},
      {{"--lora_r", "4", "--lora_r", "8"}, "--lora_r"},
      {{"--lora_r"}, "--lora_r"},
      {{"-x"}, "-x"},
      {{"--eval_dataset_name", "missing.jsonl"}, "missing.jsonl", 3},
      {{"--eval_dataset_name", "."}, "folder", 3},
      {{"--adapter_name_or_path", "missing"}, "missing", 3},
      {{"--adapter_name_or_path", model}, "adapter_config.json", 3},
  };
  for (const auto& [flags, words, exit_code] : cases) {
    expect_refusal(exit_code, args_with(flags), words);
  }
}

TEST_F(BadInputs, Rows) {
  const std::string good = R"({"prompt": "p", "chosen": "c", "rejected": "r"})";
  const auto talk = [](const std::string& chosen) {
    return R"({"prompt": [{"role": "user", "content": "q"}], "chosen": )" +
        chosen + R"(, "rejected": [{"role": "assistant", "content": "r"}]})";
  };
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"[]", "JSON array"},
      {good + "\n7", ":2: a row should be a JSON object, found number"},
      {good + "\n\"text\"", ":2: a row should be a JSON object, found string"},
      {good + "\nnull", ":2: a row should be a JSON object, found null"},
      {"{}", ":1: the row has no `chosen`"},
      {R"({"prompt": "p", "chosen": "c", "rejected": null})", "no `rejected`"},
      {R"({"prompt": 1, "chosen": "c", "rejected": "r"})", "found number"},
      {R"({"prompt": "p", "chosen": {}, "rejected": "r"})", "found object"},
      {R"({"chosen": "", "rejected": "r"})", "`chosen` is empty"},
      {R"({"prompt": [], "chosen": [], "rejected": []})", "without messages"},
      {good + "\n" + R"({"chosen": "c", "rejected": "r"})", "no `prompt`"},
      {R"({"prompt": "p", "chosen": "c", "rejected": "\u12"})", ":1 is not"},
      {R"({"prompt": "p", "chosen": "c", "rejected": "\ud800"})", ":1 is not"},
      {good + " x", ":1 is not valid JSON"},
      {std::string(100000, '['), "pairs.jsonl"},
      {good + "\n" + R"({"a":)" + std::string(100000, '['), ":2 is not valid"},
      {std::string("{\"prompt\": \"p\0\"}", 16), "pairs.jsonl"},
      {"\xEF\xBB\xBF", "has no rows"},
      {" \n\t\n", "has no rows"},
      {R"({"prompt": "p", "chosen": "c", "rejected": "r", "images": [1]})",
       "the column `images` is not supported"},
      {talk("\"c\""), "should be"},
      {talk("[1]"), "`chosen[0]` should be a message"},
      {talk(R"([{"role": "tool", "content": "c"}])"), "\"tool\""},
      {talk(R"([{"role": 1, "content": "c"}])"), "should be a message"},
      {talk(R"([{"role": "assistant", "content": 7}])"), "found number"},
      {talk(R"([{"role": "assistant", "content": [{}]}])"), "parts"},
      {talk(R"([{"role": "assistant", "content": [{"type": "video"}]}])"),
       "\"video\""},
      {talk(R"([{"role": "assistant", "content": "c", "thinking": "t"}])"),
       "`chosen[0].thinking` is not supported"},
      {"\xfd\x37zXZ", "an xz file"},
      {"%PDF-1.7", "a PDF file"},
      {"\x7f\x45LF", "a program"},
  };
  for (const auto& [content, words] : cases) {
    write(data, content);
    expect_refusal(3, args_with({}), words);
  }
  write(data, R"({"prompt": "Which one? ", "chosen": "c", "rejected": "r"})");
  expect_refusal(3, args_with({"--max_length", "2"}), "every prompt alone");
}

TEST_F(BadInputs, ConfigFiles) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"learning-rat = 1", "did you mean --learning_rate"},
      {"lora_r = [1, 2]", "lora_r"},
      {"lora_r = \"\"", "lora_r"},
      {"seed = -1", "must not be negative, found -1"},
      {"[other]\nseed = 1", "[dpo]"},
      {"load_in_8bit = true\nfp16 = true", "fp16"},
      {"seed: 1", "YAML"},
      {"{\"seed\": 1}", "seed"},
  };
  for (const auto& [content, words] : cases) {
    const fs::path config = folder / "run.toml";
    write(config, content);
    expect_refusal(2, args_with({"--config", config}), words);
  }
}

TEST_F(BadInputs, Checkpoints) {
  const fs::path copy = folder / "model";
  const auto break_file = [&](const char* name, const std::string& content) {
    fs::remove_all(copy);
    fs::copy(fs::path(TORCHLORA_TEST_DATA) / "tiny" / "E2B", copy);
    model = copy;
    if (content.empty()) {
      fs::remove(copy / name);
    } else {
      write(copy / name, content);
    }
  };
  const std::string lfs = "version https://git-lfs.github.com/spec/v1\noid a";
  const std::vector<std::array<std::string, 3>> cases = {
      {"config.json", "", "config.json"},
      {"config.json", "[]", "config.json"},
      {"config.json", "{\"model_type\": \"llama\"}", "llama"},
      {"config.json", lfs, "Git LFS pointer"},
      {"tokenizer.json", "", "tokenizer.json"},
      {"tokenizer.json", "{}", "tokenizer.json"},
      {"tokenizer.json", lfs, "Git LFS pointer"},
      {"model.safetensors", "", "model.safetensors"},
      {"model.safetensors", "1234", "model.safetensors"},
      {"model.safetensors", lfs, "Git LFS pointer"},
      {"model.safetensors", "<!DOCTYPE html><html></html>", "web page"},
      {"model.safetensors", "PK\x03\x04zipzipzip", "zip file"},
  };
  for (const auto& [name, content, words] : cases) {
    break_file(name.c_str(), content);
    expect_refusal(3, args_with({}), words);
  }
  break_file("model.safetensors", "");
  write(copy / "pytorch_model.bin", "x");
  expect_refusal(3, args_with({}), "it has pytorch_model.bin, convert it");
}

// Opening a FIFO waits for a writer, and a device has no end.
TEST_F(BadInputs, PathsOfNoRegularFile) {
  const fs::path fifo = folder / "fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  for (const auto& [path, found] :
       std::vector<std::pair<std::string, std::string>>{
           {fifo, "found a FIFO"}, {"/dev/zero", "found a character device"}}) {
    fs::path other = path;
    expect_refusal(2, args_with({"--config", path}), found);
    expect_refusal(2, args_with({"--config=" + path}), found);
    expect_refusal(3, args_with({"--eval_dataset_name", path}), found);
    expect_refusal(3, args_with({"--adapter_name_or_path", path}), path);
    expect_refusal(
        2, args_with({"--merged_output_dir", path}), "must be a folder");
    std::swap(data, other);
    expect_refusal(3, args_with({}), found);
    std::swap(data, other);
    std::swap(model, other);
    expect_refusal(3, args_with({}), "there is no folder");
    std::swap(model, other);
    std::swap(output, other);
    EXPECT_EQ(outcome(args_with({})).first, 2);
    std::swap(output, other);
  }
  const fs::path config = folder / "long.toml";
  write(config, "# text");
  fs::resize_file(config, uintmax_t{1} << 40);
  expect_refusal(2, args_with({"--config", config}), "1099511627776 bytes");
}

TEST_F(BadInputs, FilesOfTheOutputFolder) {
  fs::create_directory(output);
  const auto args = args_with({"--overwrite_output_dir"});
  for (const char* name : {"log.jsonl", "adapter_model.safetensors"}) {
    for (const bool is_fifo : {true, false}) {
      const fs::path path = output / name;
      is_fifo ? mkfifo(path.c_str(), 0600) : mkdir(path.c_str(), 0700);
      const auto [code, message] = outcome(args);
      EXPECT_EQ(code, 2);
      EXPECT_NE(message.find(path.string() + " must be a file"), message.npos)
          << message;
      fs::remove(path);
    }
  }
}

TEST_F(BadInputs, EndTheProgramWithTheCodeAndTheMessage) {
  const auto expect_end = [&](int exit_code,
                              const std::vector<std::string>& more,
                              const std::string& words) {
    expect_refused(exit_code, args_with(more), {words});
  };
  expect_end(2, {"--lora_r", "eight"}, "must be a whole number, found eight");
  expect_end(2, {"--config", "/dev/zero"}, "found a character device");
  write(folder / "run.toml", "seed = -1");
  expect_end(2, {"--config", folder / "run.toml"}, "must not be negative");
  expect_end(3, {"--eval_dataset_name", "."}, "found a folder");
  expect_end(3, {"--adapter_name_or_path", model}, "adapter_config.json");
  write(data, std::string(100000, '['));
  expect_end(3, {}, "pairs.jsonl");
  output = "/proc/torchlora";
  expect_end(1, {}, "--output_dir");
}

TEST_F(BadInputs, Paths) {
  const fs::path right = model;
  for (const auto& [wrong, words] :
       std::vector<std::pair<std::string, std::string>>{
           {"", "--model_name_or_path"},
           {data.string(), "there is no folder"},
           {"google/gemma-4-E2B-it", "hub is not downloaded"}}) {
    model = wrong;
    expect_refusal(3, args_with({}), words);
  }
  model = right;
  data = "trl-lib/ultrafeedback_binarized";
  expect_refusal(3, args_with({}), "hub is not downloaded");
  data = folder / "pairs.jsonl";
  output = "/proc/torchlora";
  expect_refusal(1, args_with({}), "--output_dir");
  output = "";
  expect_refusal(2, args_with({}), "--output_dir");
}

} // namespace
} // namespace torchlora::cli
