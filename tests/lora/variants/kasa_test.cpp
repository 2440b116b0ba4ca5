// KaSA against peft (tests/reference/make_kasa_goldens.py), and what it
// refuses.
#include <cmath>
#include <filesystem>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/adapter_files/hotswap.h>
#include <torchlora/io/safetensors.h>
#include <torchlora/lora/layer.h>
#include <torchlora/lora/variants/kasa.h>
#include <torchlora/model.h>

#include "lora/layer_suite.h"

namespace torchlora::test {
namespace {

namespace fs = std::filesystem;
using at::Tensor;

struct NetImpl : torch::nn::Module {
  NetImpl() {
    up = register_module("up", nn::Linear(12, 16));
    down = register_module("down", nn::Linear(16, 10));
  }
  Tensor forward(const Tensor& x) {
    return down(torch::tanh(up(x)));
  }
  nn::Linear up{nullptr}, down{nullptr};
};

LoraConfig kasa(const KasaConfig& values = {}) {
  return LoraConfig(4).target_modules({"up", "down"}).kasa_config(values);
}

class KasaGoldens : public testing::TestWithParam<const char*> {
 protected:
  KasaGoldens() {
    if (name_ == "bf16") {
      model->to(torch::kBFloat16);
    }
    torch::NoGradGuard no_grad;
    for (const auto& item : model->named_parameters()) {
      item.value().copy_(golden("base." + item.key()));
    }
  }
  Tensor golden(const std::string& name) const {
    return test::on_device(file_.tensor(name_ + "." + name));
  }
  void expect(const Tensor& value, const std::string& name) const {
    const auto expected = golden(name);
    ASSERT_EQ(value.sizes(), expected.sizes()) << name;
    ASSERT_EQ(value.scalar_type(), expected.scalar_type()) << name;
    EXPECT_LE(
        (value - expected).abs().max().item<double>(),
        (name_ == "bf16" ? 2e-2 : 2e-5) * expected.abs().max().item<double>())
        << name;
  }
  void expect_base(const std::string& stage) const {
    expect(model->up->weight, stage + ".up");
    expect(model->down->weight, stage + ".down");
  }
  const fs::path folder =
      fs::path(TORCHLORA_TEST_DATA) / "lora" / "kasa" / GetParam();
  std::shared_ptr<NetImpl> model = test::make_module<NetImpl>();

 private:
  std::string name_ = GetParam();
  io::SafetensorsFile file_{folder.parent_path() / "reference.safetensors"};
};

TEST_P(KasaGoldens, ALoadedAdapterTrainsAndMergesAsInPeft) {
  auto peft = PeftModel::from_pretrained(
      *model, folder, "default", LoadOptions().is_trainable(true));
  EXPECT_EQ(
      peft.peft_config().kasa_config(), KasaConfig().beta(.02).gamma(.03));
  expect_base("truncated");
  const std::string prefix = "base_model.model.";
  auto tensors = peft.state_dict();
  for (const std::string step : {"0.", "1.", "2."}) {
    const auto x = golden(step + "input").clone().requires_grad_();
    const auto output = model->forward(x);
    expect(output, step + "output");
    const auto regularizer = kasa_loss(*model);
    expect(regularizer, step + "kasa_loss");
    for (auto& item : tensors) {
      item.value().mutable_grad().reset();
    }
    ((output * golden(step + "weight")).mean() + regularizer).backward();
    expect(x.grad(), step + "grad.x");
    torch::NoGradGuard no_grad;
    for (auto& item : tensors) {
      const auto key = item.key().substr(prefix.size());
      expect(item.value().grad(), step + "grad." + key);
      item.value().sub_(item.value().grad(), .2);
    }
  }
  for (const auto& item : tensors) {
    expect(item.value(), "trained." + item.key().substr(prefix.size()));
  }
  torch::NoGradGuard no_grad;
  const auto x = golden("2.input");
  const auto adapted = model->forward(x);
  peft.merge_adapter();
  expect_base("merged");
  EXPECT_LE(
      difference(model->forward(x), adapted),
      1e-2 * adapted.abs().max().item<double>());
  peft.unmerge_adapter();
  expect_base("unmerged");
}

INSTANTIATE_TEST_SUITE_P(
    All,
    KasaGoldens,
    testing::Values("plain", "options", "bf16"));

class KasaTest : public testing::Test {
 protected:
  KasaTest() {
    torch::manual_seed(3);
    model = test::make_module<NetImpl>();
    x = test::randn({5, 12});
  }
  PeftModel adapt(const LoraConfig& config = kasa()) {
    return get_peft_model(*model, config);
  }
  /// Factors that do something.
  static void fill(
      const PeftModel& peft,
      const std::string& adapter = "default") {
    torch::NoGradGuard no_grad;
    for (auto& item : peft.state_dict(adapter)) {
      item.value().normal_(0, .3);
    }
  }
  Tensor run() {
    torch::NoGradGuard no_grad;
    return model->forward(x);
  }
  std::shared_ptr<NetImpl> model;
  Tensor x;
};

// In peft's order: both factors as layers, A again, the diagonal.
TEST_F(KasaTest, DrawsTheDiagonalThatPeftDraws) {
  torch::manual_seed(5);
  auto peft = adapt(kasa().target_modules({"up"}));
  torch::manual_seed(5);
  auto A = test::on_device(
      torch::nn::Linear(torch::nn::LinearOptions(12, 4).bias(false)));
  auto B = test::on_device(
      torch::nn::Linear(torch::nn::LinearOptions(4, 16).bias(false)));
  torch::nn::init::kaiming_uniform_(A->weight, std::sqrt(5));
  const auto diag = peft.state_dict()["base_model.model.up.lora_diag"];
  EXPECT_TRUE(torch::equal(diag, test::randn({4})));
  EXPECT_TRUE(diag.requires_grad());
  EXPECT_TRUE(model->named_parameters().contains("up.lora_diag.default"));
}

TEST_F(KasaTest, FilesComeBackAndTruncateTheBase) {
  const auto folder = fs::path(testing::TempDir()) / "kasa_adapter";
  torch::manual_seed(3);
  const auto base = test::make_module<NetImpl>();
  auto peft = adapt(kasa(KasaConfig().beta(.5)));
  fill(peft);
  peft.save_pretrained(folder);
  const auto adapted = run();
  model = base;
  auto again = PeftModel::from_pretrained(*model, folder);
  EXPECT_EQ(again.peft_config().kasa_config(), KasaConfig().beta(.5));
  EXPECT_TRUE(torch::equal(run(), adapted));
}

TEST_F(KasaTest, TheTruncatedBaseStays) {
  const auto before = model->up->weight.clone();
  auto peft = adapt();
  fill(peft);
  const auto truncated = model->up->weight.clone();
  EXPECT_LT(std::get<1>(at::linalg_svd(truncated))[8].item<double>(), 1e-6);
  EXPECT_GT(difference(truncated, before), 1e-3);
  const auto delta =
      peft.layers()[0].second->get_delta_weight("default").clone();
  peft.merge_adapter();
  EXPECT_LT(
      (model->up->weight - truncated - delta).abs().max().item<double>(), 1e-6);
  peft.unmerge_adapter();
  peft.unload();
  EXPECT_LT(difference(model->up->weight, truncated), 1e-6);
}

TEST_F(KasaTest, DisabledItIsTheTruncatedBase) {
  torch::NoGradGuard no_grad;
  const auto truncated = [](const nn::Linear& layer, const Tensor& input) {
    return at::linear(
        input, KasaVariant::truncate(layer->weight, 4), layer->bias);
  };
  const auto expected =
      truncated(model->down, torch::tanh(truncated(model->up, x)));
  auto peft = adapt();
  fill(peft);
  const auto adapted = run();
  const auto expect_disabled = [&] {
    const auto guard = peft.disable_adapter();
    EXPECT_LT(difference(run(), expected), 1e-5);
  };
  expect_disabled();
  peft.merge_adapter();
  expect_disabled();
  EXPECT_LT(difference(run(), adapted), 1e-5);
}

// As plain LoRA of the truncated base with the diagonal in A.
TEST_F(KasaTest, DropoutActsOnTheInputOfTheUpdate) {
  const auto dropout = [](LoraConfig config) {
    return config.lora_dropout(.5);
  };
  auto peft = adapt(dropout(kasa()));
  fill(peft);
  model->train();
  torch::manual_seed(7);
  const auto dropped = run();
  torch::NoGradGuard no_grad;
  const auto plain = test::make_module<NetImpl>();
  plain->up->weight.copy_(model->up->weight);
  plain->up->bias.copy_(model->up->bias);
  plain->down->weight.copy_(model->down->weight);
  plain->down->bias.copy_(model->down->bias);
  auto other = get_peft_model(
      *plain, dropout(LoraConfig(4).target_modules({"up", "down"})));
  for (size_t i = 0; i < 2; ++i) {
    const auto* from = peft.layers()[i].second->find_adapter("default");
    const auto* to = other.layers()[i].second->find_adapter("default");
    const auto [A, B] = from->variant->factors(*from);
    to->lora_A->weight.copy_(A);
    to->lora_B->weight.copy_(B);
  }
  plain->train();
  torch::manual_seed(7);
  EXPECT_LT(difference(plain->forward(x), dropped), 1e-5);
  model->eval();
  EXPECT_GT(difference(run(), dropped), 1e-3);
}

TEST_F(KasaTest, MixesWithOthersInOneBatch) {
  auto peft = adapt(kasa().target_modules({"up"}));
  peft.add_adapter("other", LoraConfig(4).target_modules({"down"}));
  torch::NoGradGuard no_grad;
  for (const auto& name : peft.adapter_names()) {
    fill(peft, name);
  }
  model->eval();
  const auto adapted = run();
  peft.set_adapter("other");
  const auto other = run();
  const auto guard =
      peft.mixed_batch({"default", "other", "__base__", "other", "default"});
  const auto mixed = run();
  EXPECT_LT(difference(mixed[0], adapted[0]), 1e-5);
  EXPECT_LT(difference(mixed[1], other[1]), 1e-5);
  EXPECT_LT(difference(mixed[3], other[3]), 1e-5);
  EXPECT_LT(difference(mixed[4], adapted[4]), 1e-5);
}

TEST_F(KasaTest, DoesNotTruncateAWeightThatAnotherAdapterReplaces) {
  auto peft =
      adapt(LoraConfig(4).target_modules({"down"}).modules_to_save({"up"}));
  const auto before = run();
  EXPECT_THROW(
      peft.add_adapter("kasa", kasa().target_modules({"up"})), c10::ValueError);
  EXPECT_TRUE(torch::equal(run(), before));
}

TEST_F(KasaTest, RefusesWhatItCannotBeWith) {
  const auto before = run();
  for (const auto& bad :
       {kasa().r(10),
        kasa(KasaConfig().beta(-1)),
        kasa(KasaConfig().gamma(std::nan(""))),
        kasa().use_dora(true),
        kasa().velora_config(VeloraConfig(4)),
        kasa().init_lora_weights("mica"),
        kasa().init_lora_weights("pissa")}) {
    EXPECT_THROW(adapt(bad), c10::ValueError);
  }
  EXPECT_TRUE(torch::equal(run(), before));
  const auto config = kasa().target_modules({"target", "other"});
  auto table = test::make_module<PairImpl<EmbeddingType>>();
  EXPECT_THROW(get_peft_model(*table, config), c10::ValueError);
  auto conv = test::make_module<PairImpl<Conv1dType>>();
  EXPECT_THROW(get_peft_model(*conv, config), c10::ValueError);
}

TEST_F(KasaTest, IsTheOnlyAdapterOfItsLayers) {
  const auto folder = fs::path(testing::TempDir()) / "kasa_only";
  const auto plain = LoraConfig(4).target_modules({"up", "down"});
  auto peft = adapt();
  EXPECT_THROW(peft.add_adapter("other", plain), c10::ValueError);
  EXPECT_THROW(peft.add_adapter("other", kasa()), c10::ValueError);
  EXPECT_THROW(
      peft.add_weighted_adapter({"default"}, {1.}, "sum"), c10::ValueError);
  peft.save_pretrained(folder);
  EXPECT_THROW(peft.save_pretrained(folder, {}, folder), c10::ValueError);
  peft.unload();
  peft = adapt(plain);
  EXPECT_THROW(peft.add_adapter("other", kasa()), c10::ValueError);
  EXPECT_THROW(hotswap_adapter(peft, folder, "default"), c10::ValueError);
}

} // namespace
} // namespace torchlora::test
