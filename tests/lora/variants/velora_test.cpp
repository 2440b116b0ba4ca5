// VeLoRA against peft (tests/reference/make_velora_goldens.py), and what a
// layer keeps for backward.
#include <atomic>
#include <filesystem>
#include <fstream>

#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/adapter_files/adapter_config.h>
#include <torchlora/error.h>
#include <torchlora/io/safetensors.h>
#include <torchlora/lora/layer.h>
#include <torchlora/model.h>
#include <torchlora/optim/lorafa.h>

#include "lora/layer_suite.h"

namespace torchlora::test {
namespace {

namespace fs = std::filesystem;
using at::Tensor;

struct OneLinearImpl : torch::nn::Module {
  OneLinearImpl(int64_t in, int64_t out) {
    layer = register_module("layer", nn::Linear(in, out));
  }
  nn::Linear layer{nullptr};
};

LoraConfig velora(const VeloraConfig& values) {
  return LoraConfig(4).lora_alpha(6).target_modules({"layer"}).velora_config(
      values);
}

class VeloraGoldens
    : public testing::TestWithParam<std::tuple<const char*, int>> {
 protected:
  Tensor golden(const std::string& name) const {
    return test::on_device(file_.tensor(
        std::string(std::get<0>(GetParam())) + "_" +
        std::to_string(std::get<1>(GetParam())) + "/" + name));
  }
  void expect(const Tensor& value, const std::string& name) const {
    const auto expected = golden(name);
    ASSERT_EQ(value.sizes(), expected.sizes()) << name;
    EXPECT_LE(
        (value - expected).abs().max().item<double>(),
        1e-5 * expected.abs().max().item<double>())
        << name;
  }
  io::SafetensorsFile file_{
      fs::path(TORCHLORA_TEST_DATA) / "lora" / "velora.safetensors"};
};

TEST_P(VeloraGoldens, TwoStepsAreThoseOfPeft) {
  const auto [init_type, num_groups] = GetParam();
  auto model = test::make_module<OneLinearImpl>(12, 10);
  torch::manual_seed(5);
  auto peft = get_peft_model(
      *model, velora(VeloraConfig(num_groups).scale(1.5).init_type(init_type)));
  const std::string prefix = "base_model.model.layer.";
  expect(
      peft.state_dict()[prefix + "lora_velora_embed"],
      "drawn.lora_velora_embed");
  {
    torch::NoGradGuard no_grad;
    const auto base = peft.layers()[0].second->base_layer();
    for (const auto& item : base->named_parameters()) {
      item.value().copy_(golden("base." + item.key()));
    }
    for (auto& item : peft.state_dict()) {
      item.value().copy_(golden("adapter." + item.key().substr(prefix.size())));
    }
  }
  const auto tensors = peft.state_dict();
  const auto& A = tensors[prefix + "lora_A.weight"];
  const auto& B = tensors[prefix + "lora_B.weight"];
  for (const std::string step : {"0.", "1."}) {
    const auto x = golden(step + "input").clone().requires_grad_();
    const auto output = model->layer(x);
    expect(output, step + "output");
    A.mutable_grad().reset();
    B.mutable_grad().reset();
    (output * golden(step + "weight")).sum().backward();
    expect(A.grad(), step + "grad.A");
    expect(B.grad(), step + "grad.B");
    expect(x.grad(), step + "grad.x");
    expect(tensors[prefix + "lora_velora_embed"], step + "embed");
  }
}

INSTANTIATE_TEST_SUITE_P(
    All,
    VeloraGoldens,
    testing::Combine(
        testing::Values("batch_average", "batch_average_once", "random"),
        testing::Values(4, 5)));

class VeloraTest : public testing::Test {
 protected:
  VeloraTest() {
    torch::manual_seed(4);
    model = test::make_module<OneLinearImpl>(12, 10);
  }
  PeftModel adapt(const LoraConfig& config) {
    auto peft = get_peft_model(*model, config);
    torch::NoGradGuard no_grad;
    peft.layers()[0].second->find_adapter("default")->lora_B->weight.normal_();
    return peft;
  }
  static const LoraAdapter& adapter(const PeftModel& peft) {
    return *peft.layers()[0].second->find_adapter("default");
  }
  Tensor grad_A(const PeftModel& peft, const Tensor& x) {
    auto A = adapter(peft).lora_A->weight;
    A.mutable_grad().reset();
    torch::manual_seed(8);
    model->layer(x).square().sum().backward();
    return A.grad().clone();
  }
  std::shared_ptr<OneLinearImpl> model;
};

TEST_F(VeloraTest, OneGroupAFeatureIsLoraWithDropoutToo) {
  const auto x = test::randn({6, 12}).add_(1).requires_grad_();
  auto peft = adapt(velora(VeloraConfig(12)).lora_dropout(0.4));
  const auto compressed = grad_A(peft, x);
  const auto grad_x = x.grad().clone();
  x.mutable_grad().reset();
  const auto copy = adapter(peft).lora_A->weight.detach().clone();
  const auto B = adapter(peft).lora_B->weight.detach().clone();
  peft.unload();
  peft = adapt(
      LoraConfig(4).lora_alpha(6).lora_dropout(0.4).target_modules({"layer"}));
  torch::NoGradGuard no_grad;
  adapter(peft).lora_A->weight.copy_(copy);
  adapter(peft).lora_B->weight.copy_(B);
  torch::AutoGradMode grad(true);
  EXPECT_LT((grad_A(peft, x) - compressed).abs().max().item<double>(), 1e-4);
  EXPECT_LT((x.grad() - grad_x).abs().max().item<double>(), 1e-5);
}

TEST_F(VeloraTest, OutOfTrainingTheGradientIsExactAndNothingIsWritten) {
  const auto x = test::randn({6, 12});
  auto peft = adapt(velora(VeloraConfig(3)));
  const auto approximate = grad_A(peft, x);
  adapter(peft).variant_tensor("lora_velora_embed").zero_();
  {
    torch::NoGradGuard no_grad;
    model->layer(x);
  }
  model->eval();
  const auto exact = grad_A(peft, x);
  EXPECT_GT((exact - approximate).abs().max().item<double>(), 1e-2);
  model->train();
  peft.set_adapter({"default"}, /*inference_mode=*/true);
  model->layer(x);
  EXPECT_FALSE(
      adapter(peft).variant_tensor("lora_velora_embed").any().item<bool>());
}

// Two forwards before their backwards: each is rebuilt by its own vector.
TEST_F(VeloraTest, AForwardKeepsItsVector) {
  const auto x = test::randn({6, 12}), y = test::randn({6, 12});
  auto peft = adapt(velora(VeloraConfig(3)));
  const auto expected = grad_A(peft, x) + grad_A(peft, y);
  adapter(peft).lora_A->weight.mutable_grad().reset();
  const auto first = model->layer(x), second = model->layer(y);
  (first.square().sum() + second.square().sum()).backward();
  EXPECT_LT(
      (adapter(peft).lora_A->weight.grad() - expected)
          .abs()
          .max()
          .item<double>(),
      1e-4);
}

// peft draws the vector of a loaded batch_average_once adapter anew.
TEST_F(VeloraTest, ALoadedVectorIsKept) {
  const auto folder = fs::path(testing::TempDir()) / "velora_adapter";
  const auto values = VeloraConfig(5).scale(2).init_type("batch_average_once");
  auto peft = adapt(velora(values));
  grad_A(peft, test::randn({6, 12}));
  const auto embed = adapter(peft).variant_tensor("lora_velora_embed").clone();
  EXPECT_NEAR(embed.norm().item<double>(), 1, 1e-6);
  peft.save_pretrained(folder);
  EXPECT_TRUE(io::SafetensorsFile(folder / "adapter_model.safetensors")
                  .contains("base_model.model.layer.lora_velora_embed"));
  peft.unload();
  peft = PeftModel::from_pretrained(
      *model, folder, "default", LoadOptions().is_trainable(true));
  EXPECT_EQ(peft.peft_config().velora_config(), values);
  grad_A(peft, test::randn({6, 12}));
  EXPECT_TRUE(
      torch::equal(adapter(peft).variant_tensor("lora_velora_embed"), embed));
  EXPECT_TRUE(
      model->named_buffers().contains("layer.lora_velora_embed.default"));
  peft.add_adapter("other", velora(values));
  peft.delete_adapter("default");
  EXPECT_FALSE(
      model->named_buffers().contains("layer.lora_velora_embed.default"));
  EXPECT_TRUE(model->named_buffers().contains("layer.lora_velora_embed.other"));
}

TEST_F(VeloraTest, AFileWithAValueOfAnotherTypeIsRefused) {
  const auto folder = fs::path(testing::TempDir()) / "velora_bad";
  fs::create_directories(folder);
  for (const char* bad :
       {R"({"num_groups": "4"})", R"({"scale": true})", "3"}) {
    std::ofstream(folder / "adapter_config.json")
        << R"({"peft_type": "LORA", "velora_config": )" << bad << "}";
    EXPECT_THROW(load_adapter_config(folder), DataError) << bad;
  }
}

TEST_F(VeloraTest, RefusesWhatPeftRefuses) {
  for (const auto& bad :
       {velora(VeloraConfig(0)),
        velora(VeloraConfig().scale(0)),
        velora(VeloraConfig().init_type("ones")),
        velora(VeloraConfig()).use_dora(true),
        velora(VeloraConfig()).init_lora_weights("mica")}) {
    EXPECT_THROW(get_peft_model(*model, bad), c10::ValueError);
  }
  const auto config =
      velora(VeloraConfig()).target_modules({"target", "other"});
  auto table = test::make_module<PairImpl<EmbeddingType>>();
  EXPECT_THROW(get_peft_model(*table, config), c10::ValueError);
  auto conv = test::make_module<PairImpl<Conv1dType>>();
  EXPECT_THROW(get_peft_model(*conv, config), c10::ValueError);
  auto clipped = test::make_module<PairImpl<ClippableLinearType>>();
  get_peft_model(*clipped, config);
}

/// Counts the bytes of CPU tensors that are alive.
class CountingAllocator : public c10::Allocator {
 public:
  CountingAllocator() : inner_(c10::GetAllocator(c10::kCPU)) {
    c10::SetAllocator(c10::kCPU, this, /*priority=*/255);
  }
  ~CountingAllocator() override {
    c10::SetAllocator(c10::kCPU, inner_, /*priority=*/255);
  }
  c10::DataPtr allocate(size_t size) override {
    auto* block = new Block{inner_->allocate(size), size};
    live += size;
    return {block->data.get(), block, &release, c10::kCPU};
  }
  void copy_data(void* to, const void* from, std::size_t size) const override {
    default_copy_data(to, from, size);
  }
  static inline std::atomic<size_t> live = 0;

 private:
  struct Block {
    c10::DataPtr data;
    size_t size;
  };
  static void release(void* context) {
    auto* block = static_cast<Block*>(context);
    live -= block->size;
    delete block;
  }
  c10::Allocator* inner_;
};

/// What the graph of a forward keeps, beyond its output; nothing else holds
/// the input.
size_t kept_bytes(nn::Linear& layer, const Tensor& leaf) {
  CountingAllocator counter;
  const auto before = CountingAllocator::live.load();
  const auto output = layer(leaf * 2);
  return CountingAllocator::live - before - output.nbytes();
}

TEST(KeptForBackward, VeloraAndLoraFAKeepNoInput) {
  if (!test_device().is_cpu()) {
    GTEST_SKIP() << "counts what the CPU allocates";
  }
  constexpr int64_t kTokens = 64, kIn = 256, kRank = 4, kGroups = 8;
  auto model = test::make_module<OneLinearImpl>(kIn, 16);
  const auto leaf = test::randn({kTokens, kIn}).requires_grad_();
  const auto Ax = kTokens * kRank * 4;
  const auto x = kTokens * kIn * 4;
  const auto kept = [&](LoraConfig config, bool freezes_A = false) {
    auto peft = get_peft_model(*model, config.target_modules({"layer"}));
    torch::NoGradGuard no_grad;
    peft.layers()[0].second->find_adapter("default")->lora_B->weight.normal_();
    if (freezes_A) {
      create_lorafa_optimizer(*model);
    }
    torch::AutoGradMode grad(true);
    const auto bytes = static_cast<int64_t>(kept_bytes(model->layer, leaf));
    peft.unload();
    return bytes;
  };
  EXPECT_EQ(kept(LoraConfig(kRank)), x + Ax);
  EXPECT_EQ(kept(LoraConfig(kRank).lora_dropout(0.3)), x + Ax);
  EXPECT_EQ(kept(LoraConfig(kRank), /*freezes_A=*/true), Ax);
  const auto compressed = kTokens * kGroups * 4;
  const auto embed = kIn / kGroups * 4;
  for (const double dropout : {0., 0.3}) {
    EXPECT_EQ(
        kept(LoraConfig(kRank).lora_dropout(dropout).velora_config(
            VeloraConfig(kGroups))),
        Ax + compressed + embed);
  }
}

} // namespace
} // namespace torchlora::test
