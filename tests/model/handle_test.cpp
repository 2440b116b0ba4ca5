// What a handle refuses, and what it says.
#include <filesystem>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/error.h>
#include <torchlora/io/safetensors.h>
#include <torchlora/lora/layer.h>
#include <torchlora/model.h>
#include <torchlora/model/status.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/linear.h>
#include <torchlora/tools/intruders.h>

#include "support.h"

namespace torchlora {
namespace {

namespace fs = std::filesystem;
using at::Tensor;

struct NetImpl : torch::nn::Module {
  Tensor forward(const Tensor& ids) {
    return head(norm(fc(table(ids)).transpose(1, 2)).transpose(1, 2));
  }
  nn::Embedding table = register_module("table", nn::Embedding(9, 8));
  nn::Linear fc = register_module("fc", nn::Linear(8, 8));
  torch::nn::BatchNorm1d norm =
      register_module("norm", torch::nn::BatchNorm1d(8));
  nn::Linear head = register_module("head", nn::Linear(8, 4));
};

constexpr auto kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr auto kInf = std::numeric_limits<double>::infinity();

class Handle : public testing::Test {
 protected:
  static LoraConfig config() {
    return LoraConfig(2).target_modules({"fc"});
  }
  PeftModel adapted() {
    return get_peft_model(*model_, config());
  }
  static void expect(const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  }

  std::shared_ptr<NetImpl> model_ = test::make_module<NetImpl>();
  const fs::path folder_ = fs::path(testing::TempDir()) / "handle";
};

TEST_F(Handle, ThatIsEmptySaysWhatHappened) {
  const auto expect_empty = [&](PeftModel& peft, const std::string& by) {
    fs::remove_all(folder_);
    expect(refusal([&] { peft.save_pretrained(folder_); }), by);
    EXPECT_FALSE(fs::exists(folder_));
    expect(refusal([&] { peft.merge_adapter(); }), by);
    expect(refusal([&] { peft.unmerge_adapter(); }), by);
    expect(refusal([&] { peft.merge_and_unload(); }), by);
    expect(refusal([&] { peft.set_adapter("default"); }), by);
    expect(refusal([&] { peft.delete_adapter("default"); }), by);
  };
  auto peft = adapted();
  peft.merge_and_unload();
  expect_empty(peft, "merge_and_unload removed it");
  expect(refusal([&] { peft.unload(); }), "merge_and_unload");
  peft = adapted();
  peft.unload();
  expect_empty(peft, "unload removed it");
  peft.add_adapter("again", config());
  peft.set_adapter("again");
  peft.delete_adapter("again");
  expect_empty(peft, "delete_adapter removed it");
  peft.unload(); // the layers without adapters
  EXPECT_TRUE(model_->named_parameters().contains("fc.weight"));
}

TEST_F(Handle, ThatWasMovedFromIsStillOne) {
  auto peft = adapted();
  const auto moved = std::move(peft);
  EXPECT_EQ(peft.adapter_names(), moved.adapter_names());
}

TEST_F(Handle, RefusesAdapterNamesThatAreNoNames) {
  auto peft = adapted();
  peft.save_pretrained(folder_);
  using namespace std::string_literals;
  for (const auto& name :
       {""s,
        "a.b"s,
        ".."s,
        "__base__"s,
        "/abs/path"s,
        "../x"s,
        "a/b"s,
        "a\\b"s,
        "line\nbreak"s,
        "\x1b[31m"s,
        "nul\0byte"s,
        "\x7f"s}) {
    EXPECT_NE(refusal([&] { peft.add_adapter(name, config()); }), "") << name;
    EXPECT_NE(refusal([&] { peft.load_adapter(folder_, name); }), "") << name;
    EXPECT_NE(
        refusal([&] { peft.add_weighted_adapter({"default"}, {1.}, name); }),
        "")
        << name;
    EXPECT_NE(
        refusal([&] { reduce_intruder_dimension(peft, "default", name); }), "")
        << name;
    const auto other = test::make_module<NetImpl>();
    EXPECT_NE(refusal([&] { get_peft_model(*other, config(), name); }), "");
    EXPECT_NE(refusal([&] { inject_adapter(*other, config(), name); }), "");
    EXPECT_NE(
        refusal([&] { PeftModel::from_pretrained(*other, folder_, name); }),
        "");
    EXPECT_NE(
        refusal([&] {
          peft.layers()[0].second->update_layer(name, 2, 2, config());
        }),
        "");
  }
  EXPECT_EQ(peft.adapter_names().size(), 1U);
  expect(refusal([&] { peft.add_adapter("\x1b", config()); }), "\\x1b");
  for (const auto* name : {"küche", "a-b_c d", "v1+lora", "__base"}) {
    EXPECT_NO_THROW(peft.add_adapter(name, config())) << name;
  }
}

TEST_F(Handle, ErrorsNameTheFunctionThatWasCalled) {
  using Call = std::function<void(PeftModel&)>;
  const std::pair<const char*, Call> unknown[] = {
      {"set_adapter", [](auto& peft) { peft.set_adapter("no"); }},
      {"set_requires_grad", [](auto& peft) { peft.set_requires_grad({"no"}); }},
      {"merge_adapter",
       [](auto& peft) {
         peft.merge_adapter(MergeOptions().adapter_names({"no"}));
       }},
      {"state_dict", [](auto& peft) { peft.state_dict("no"); }},
      {"peft_config", [](auto& peft) { peft.peft_config("no"); }}};
  auto peft = get_peft_model(*model_, config());
  for (const auto& [function, call] : unknown) {
    EXPECT_EQ(
        refusal([&] { call(peft); }),
        c10::str("[", function, "] Adapter no not found."));
  }
  const auto starts = [](const std::string& text, const std::string& start) {
    EXPECT_TRUE(text.starts_with(start)) << text;
  };
  starts(
      refusal([&] { peft.add_adapter("a.b", config()); }),
      "[add_adapter] an adapter name");
  starts(
      refusal(
          [&] { peft.add_adapter("b", config().init_lora_weights("pissa")); }),
      "[add_adapter] the initializer pissa changes the base weight");
  {
    torch::NoGradGuard no_grad;
    peft.trainable_parameters()[0].fill_(NAN);
  }
  const auto safe = MergeOptions().safe_merge(true);
  starts(refusal([&] { peft.merge_adapter(safe); }), "[merge_adapter] NaNs");
  starts(
      refusal([&] { peft.merge_and_unload(safe); }), "[merge_and_unload] NaNs");
  peft.unload();
  starts(
      refusal([&] {
        inject_adapter(*model_, LoraConfig(2).target_modules({"none"}));
      }),
      "[inject_adapter] Target modules");
}

TEST_F(Handle, SavesAllSelectedAdaptersOrNone) {
  auto peft = adapted();
  fs::remove_all(folder_);
  EXPECT_NE(
      refusal([&] { peft.save_pretrained(folder_, {"default", "other"}); }),
      "");
  EXPECT_FALSE(fs::exists(folder_));
}

// As peft: load_adapter(..., is_trainable=True).
TEST_F(Handle, ALoadedTrainableAdapterRequiresGradientsAtOnce) {
  const auto with_all =
      config().modules_to_save({"head"}).trainable_token_indices(
          {{"table", {1, 2}}});
  auto peft = get_peft_model(*model_, with_all);
  peft.save_pretrained(folder_);
  const auto expect_trainable = [&](const char* name, Consistency trainable) {
    for (const auto& layer : get_layer_status(peft)) {
      EXPECT_EQ(layer.requires_grad.at(name), trainable) << layer.name;
    }
    for (const auto& item : peft.state_dict(name)) {
      EXPECT_EQ(item.value().requires_grad(), trainable == Consistency::kTrue)
          << item.key();
    }
  };
  peft.load_adapter(folder_, "frozen");
  expect_trainable("frozen", Consistency::kFalse);
  peft.load_adapter(folder_, "new", LoadOptions().is_trainable(true));
  expect_trainable("new", Consistency::kTrue);
  expect_trainable("default", Consistency::kTrue);
  EXPECT_EQ(peft.active_adapters(), std::vector<std::string>{"default"});
  EXPECT_FALSE(peft.peft_config("new").inference_mode());
  peft.set_adapter("new");
  expect_trainable("new", Consistency::kTrue);
  expect_trainable("default", Consistency::kFalse);
  peft.set_adapter("default");
  expect_trainable("new", Consistency::kFalse);
  peft.set_requires_grad({"new", "frozen"});
  expect_trainable("new", Consistency::kTrue);
  peft.set_requires_grad({"new"}, false);
  expect_trainable("new", Consistency::kFalse);
  EXPECT_NE(refusal([&] { peft.set_requires_grad({"unknown"}); }), "");
}

TEST_F(Handle, RefusesNumbersThatAreNone) {
  auto peft = adapted();
  peft.add_adapter("b", config());
  const auto layer = peft.layers()[0].second;
  for (const auto value : {kNaN, kInf, -kInf}) {
    expect(
        refusal([&] {
          peft.add_weighted_adapter({"default", "b"}, {1., value}, "c");
        }),
        "weight of adapter b");
    expect(
        refusal([&] {
          peft.add_weighted_adapter(
              {"default", "b"},
              {1., 1.},
              "c",
              CombinationOptions("ties").density(value));
        }),
        "density");
    expect(refusal([&] { layer->set_scale("b", value); }), "[set_scale]");
    expect(refusal([&] { layer->scale_layer(value); }), "[scale_layer]");
    expect(refusal([&] { layer->unscale_layer(value); }), "[unscale_layer]");
    expect(refusal([&] { layer->set_lora_dropout(value); }), "dropout");
    expect(
        refusal([&] { layer->update_layer("c", 2, value, config()); }),
        "`lora_alpha`");
    expect(
        refusal([&] { peft.add_adapter("c", config().lora_alpha(value)); }),
        "`lora_alpha`");
    expect(
        refusal([&] {
          reduce_intruder_dimension(peft, "default", "c", 10, .5, value);
        }),
        "mitigation_lambda");
  }
  expect(refusal([&] { layer->unscale_layer(0); }), "must not be 0");
  expect(
      refusal([&] {
        peft.add_adapter("c", config().rank_pattern({{"fc", 1e30}}));
      }),
      "1e+30");
  EXPECT_EQ(peft.adapter_names().size(), 2U);
  EXPECT_EQ(layer->find_adapter("default")->scaling, 4);
}

TEST_F(Handle, AModuleToSaveThatIsNoneIsRefused) {
  expect(
      refusal(*model_, config().modules_to_save({"head", "haed"})), "'haed'");
  EXPECT_TRUE(model_->named_parameters().contains("fc.weight"));
  // A file gets a warning only: peft adds the heads of all models of a task.
  auto peft = get_peft_model(
      *model_, config().modules_to_save({"head"}).task_type("SEQ_CLS"));
  peft.save_pretrained(folder_);
  EXPECT_NO_THROW(peft.load_adapter(folder_, "again"));
}

// PyTorch's and peft's named_modules have a module once, by its first name.
TEST_F(Handle, AModuleThatIsMeantByItsSecondNameIsNamed) {
  model_->register_module("second", model_->fc);
  const auto expect_named = [&](const LoraConfig& config, const char* field) {
    const auto text = refusal(*model_, config);
    expect(text, field);
    expect(text, "\"second\"");
    expect(text, "\"fc\"");
    EXPECT_TRUE(model_->named_parameters().contains("fc.weight"));
  };
  const auto head = LoraConfig(2).target_modules({"head"});
  expect_named(LoraConfig(2).target_modules({"second"}), "target_modules");
  expect_named(
      LoraConfig(2).target_modules({"head", "second"}), "target_modules");
  expect_named(LoraConfig(2).target_modules(".*second"), "target_modules");
  expect_named(config().exclude_modules({"second"}), "exclude_modules");
  expect_named(config().modules_to_save({"second"}), "modules_to_save");
  expect_named(config().rank_pattern({{"second", 4}}), "rank_pattern");
  expect_named(config().alpha_pattern({{"second", 4}}), "alpha_pattern");
  expect_named(
      LoraConfig(head).trainable_token_indices({{"second", {1}}}),
      "trainable_token_indices");
  auto peft = get_peft_model(
      *model_,
      LoraConfig(2)
          .target_modules({"fc", "second"})
          .rank_pattern({{"fc", 4}, {"second", 4}}));
  EXPECT_EQ(peft.layers().size(), 1U);
  expect(
      refusal([&] {
        peft.add_adapter("b", LoraConfig(2).target_modules({"second"}));
      }),
      "\"fc\"");
  EXPECT_NO_THROW(peft.add_adapter("b", head));
}

TEST_F(Handle, InjectAdapterWarnsOfRunningStatistics) {
  const Warnings warnings;
  inject_adapter(*model_, config());
  expect(warnings.text, "[inject_adapter] a forward in training mode");
}

TEST_F(Handle, WarnsOfRunningStatisticsThatTrainingChanges) {
  const auto warning = [&](const LoraConfig& config) {
    const Warnings warnings;
    get_peft_model(*model_, config).unload();
    return warnings.text;
  };
  expect(warning(config()), "statistics of norm");
  expect(warning(config()), "[get_peft_model]");
  {
    const Warnings warnings; // once per model
    auto peft = get_peft_model(*model_, config().inference_mode(true));
    EXPECT_EQ(warnings.text, "");
    for (const char* name : {"a", "b"}) {
      peft.add_adapter(name, config());
    }
    expect(warnings.text, "[add_adapter] a forward in training mode");
    EXPECT_EQ(
        warnings.text.find("statistics"), warnings.text.rfind("statistics"));
    peft.unload();
  }
  EXPECT_EQ(warning(config().modules_to_save({"norm"})), "");
  EXPECT_EQ(warning(config().inference_mode(true)), "");
  model_->replace_module(
      "norm",
      torch::nn::BatchNorm1d(
          torch::nn::BatchNorm1dOptions(8).track_running_stats(false)));
  EXPECT_EQ(warning(config()), "");
}

} // namespace
} // namespace torchlora
