// Options of an Embedding that act on its table: max_norm and sparse.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/lora/overlay.h>
#include <torchlora/model.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/tools/preprocess.h>

#include "device/device.h"
#include "lora/overlay/overlay_fixture.h"

namespace torchlora {
namespace {

using at::Tensor;

template <class Table>
struct Holder : torch::nn::Module {
  template <class Options>
  explicit Holder(const Options& options)
      : table(register_module("table", Table(options))) {}
  Table table{nullptr};
};

template <class Table>
class EmbeddingOptionsOf : public testing::Test {
 protected:
  EmbeddingOptionsOf() {
    torch::manual_seed(12);
  }
  void SetUp() override {
    if (!std::is_same_v<Table, nn::Embedding> && !has_weight_overlay()) {
      GTEST_SKIP() << "no weight overlay";
    }
  }
};
using Tables = testing::Types<nn::Embedding, torch::nn::Embedding>;
TYPED_TEST_SUITE(EmbeddingOptionsOf, Tables);

// The plain layer scales the rows of its table in place, on which the adapted
// rows depend.
TYPED_TEST(EmbeddingOptionsOf, MaxNormWritesInNoState) {
  const auto options = torch::nn::EmbeddingOptions(9, 6).max_norm(1.5);
  const auto model = test::make_module<Holder<TypeParam>>(options);
  torch::NoGradGuard no_grad;
  model->table->weight.mul_(4);
  const auto indices = test::arange(9);
  auto plain = test::on_device(torch::nn::Embedding(options));
  plain->weight.copy_(model->table->weight);
  const auto base = plain(indices);
  const auto config = LoraConfig(2).target_modules({"table"});
  auto peft = get_peft_model(*model, config);
  const auto weight = [&] {
    return peft.layers()[0].second->base_weight().weight();
  };
  const auto before = weight().clone();
  EXPECT_LT(difference(model->table(indices), base), 1e-6);
  fill(peft);
  const auto adapted = model->table(indices);
  const auto expect_unchanged = [&](const char* what) {
    EXPECT_LT(difference(weight(), before), 1e-6) << what;
    EXPECT_LT(difference(model->table(indices), adapted), 1e-5) << what;
  };
  {
    const auto guard = peft.disable_adapter();
    EXPECT_LT(difference(model->table(indices), base), 1e-6);
    EXPECT_TRUE(torch::equal(weight(), before));
  }
  expect_unchanged("disabled");
  model->eval();
  {
    const auto guard =
        peft.mixed_batch(std::vector<std::string>(9, "__base__"));
    EXPECT_LT(difference(model->table(indices), base), 1e-6);
  }
  expect_unchanged("a batch of the base model's");
  peft.set_adapter(std::vector<std::string>{});
  model->table(indices);
  peft.set_adapter("default");
  expect_unchanged("no active adapter");
  peft.merge_adapter();
  model->table(indices);
  {
    const auto guard = peft.disable_adapter();
    EXPECT_LT(difference(model->table(indices), base), 1e-5);
  }
  peft.unmerge_adapter();
  expect_unchanged("merged");
  peft.unload();
  const auto raw = model->table->weight.clone();
  preprocess_corda(
      *model,
      LoraConfig(2).init_lora_weights("corda").target_modules({"table"}),
      [&] { model->table(indices); });
  EXPECT_TRUE(torch::equal(model->table->weight, raw));
}

// An optimizer such as AdamW takes dense gradients only.
TYPED_TEST(EmbeddingOptionsOf, SparseTrainsWithDenseGradients) {
  const auto indices = test::tensor({{1, 2}, {5, 2}});
  std::vector<std::vector<Tensor>> gradients;
  for (const bool sparse : {false, true}) {
    torch::manual_seed(13);
    const auto model = test::make_module<Holder<TypeParam>>(
        torch::nn::EmbeddingOptions(7, 4).sparse(sparse));
    auto peft = get_peft_model(*model, LoraConfig(2).target_modules({"table"}));
    fill(peft);
    torch::optim::AdamW optimizer(peft.trainable_parameters(), 1e-2);
    model->table(indices).square().sum().backward();
    gradients.emplace_back();
    for (const auto& parameter : peft.trainable_parameters()) {
      EXPECT_FALSE(parameter.grad().is_sparse());
      gradients.back().push_back(parameter.grad().clone());
    }
    optimizer.step();
  }
  for (size_t i = 0; i < gradients[0].size(); ++i) {
    EXPECT_TRUE(torch::equal(gradients[0][i], gradients[1][i]));
  }
}

TEST_F(Overlay, ASparseEmbeddingBagTrainsWithDenseGradients) {
  for (const bool sparse : {false, true}) {
    const auto model = test::make_module<Holder<torch::nn::EmbeddingBag>>(
        torch::nn::EmbeddingBagOptions(7, 4).mode(torch::kSum).sparse(sparse));
    auto peft = get_peft_model(*model, LoraConfig(2).target_modules({"table"}));
    fill(peft);
    model->table(test::tensor({{1, 2}, {5, 2}})).square().sum().backward();
    for (const auto& parameter : peft.trainable_parameters()) {
      EXPECT_FALSE(parameter.grad().is_sparse());
      EXPECT_GT(parameter.grad().norm().item<double>(), 0);
    }
  }
}

} // namespace
} // namespace torchlora
