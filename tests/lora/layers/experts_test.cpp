// target_parameters: stacked weights of experts, against peft's goldens
// (tests/reference/make_special_layer_goldens.py) and the dense formula.
#include <filesystem>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/adapter_files/adapter_config.h>
#include <torchlora/io/safetensors.h>

#include "lora/layers/experts_net.h"
#include "support.h"

namespace torchlora::experts_test {
namespace {

namespace fs = std::filesystem;

class ExpertGoldens
    : public testing::TestWithParam<std::tuple<const char*, const char*>>,
      public Goldens {
 protected:
  ExpertGoldens()
      : Goldens(
            "experts.safetensors",
            std::string(std::get<0>(GetParam())) + "_" +
                std::get<1>(GetParam())) {}
};

TEST_P(ExpertGoldens, ForwardGradientsAndMergeAreThoseOfPeft) {
  const std::string kind = std::get<0>(GetParam());
  auto net = test::make_module<NetImpl>(
      kind == "single" ? 1 : 4, kind == "transposed");
  auto peft = get_peft_model(
      *net,
      config().use_rslora(std::string(std::get<1>(GetParam())) == "rslora"));
  torch::NoGradGuard no_grad;
  for (const auto& item : net->layer->named_parameters()) {
    item.value().copy_(golden("base." + item.key()));
  }
  const std::string prefix = "base_model.model.layer.";
  auto tensors = peft.state_dict();
  EXPECT_EQ(tensors.size(), 4U);
  for (auto& item : tensors) {
    item.value().copy_(golden("adapter." + item.key().substr(prefix.size())));
  }
  const auto run = [&] { return net->layer(golden("input"), golden("ids")); };
  {
    torch::AutoGradMode grad(true);
    const auto output = run();
    expect(output, "output");
    (output * golden("weight")).sum().backward();
  }
  for (auto& item : tensors) {
    expect(item.value().grad(), "grad." + item.key().substr(prefix.size()));
  }
  peft.merge_adapter();
  expect(run(), "output");
  {
    const auto guard = peft.disable_adapter();
    const auto disabled = run();
    peft.unmerge_adapter();
    EXPECT_LT(difference(run(), disabled), 1e-5);
    expect(net->layer->up_proj, "base.up_proj");
  }
  peft.merge_and_unload(MergeOptions().safe_merge(true));
  expect(run(), "output");
  for (const auto& item : net->layer->named_parameters()) {
    expect(item.value(), "merged." + item.key());
  }
}

INSTANTIATE_TEST_SUITE_P(
    All,
    ExpertGoldens,
    testing::Combine(
        testing::Values("stacked", "transposed", "single"),
        testing::Values("plain", "rslora")));

/// [E, out, in] and [E, in, out].
class StackedLayout : public testing::TestWithParam<bool> {};

TEST_P(StackedLayout, TwoAdaptersHaveTheGradientsOfTheDenseFormula) {
  torch::manual_seed(1);
  auto net = test::make_module<NetImpl>(4, GetParam());
  net->to(torch::kDouble);
  auto peft = get_peft_model(*net, config());
  peft.add_adapter("second", config().r(3));
  randomize(peft, "default", 0.4);
  randomize(peft, "second", 0.4);
  peft.set_adapter({"default", "second"});
  const auto x = test::randn({9, 6}, torch::kDouble).requires_grad_();
  const auto weight = test::randn({9, 7}, torch::kDouble);
  const auto output = net->layer(x, kIds);
  (output * weight).sum().backward();

  // W_e = s B[:, k E + e] A[e r + k, :], row by row.
  std::vector<Tensor> found, leaves, dense;
  for (const auto& [name, layer] : peft.layers()) {
    auto W = layer->base_weight().by_expert().detach();
    for (const auto& adapter : layer->adapters()) {
      const auto leaf = [&](const Tensor& value) {
        found.push_back(value.grad());
        leaves.push_back(value.detach().clone().requires_grad_());
        return leaves.back();
      };
      const auto A = leaf(adapter.lora_A->weight);
      const auto B = leaf(adapter.lora_B->weight);
      std::vector<Tensor> deltas;
      for (int64_t e = 0; e < 4; ++e) {
        deltas.push_back(
            adapter.scaling *
            at::mm(
                B.slice(1, e, std::nullopt, 4),
                A.slice(0, e * adapter.r, (e + 1) * adapter.r)));
      }
      W = W + at::stack(deltas);
    }
    dense.push_back(W);
  }
  const auto x2 = x.detach().clone().requires_grad_();
  const auto h = at::einsum("toi,ti->to", {dense[0].index({kIds}), x2}).tanh();
  const auto expected = at::einsum("toi,ti->to", {dense[1].index({kIds}), h});
  EXPECT_LT(difference(output, expected), 1e-12);
  (expected * weight).sum().backward();
  for (size_t i = 0; i < leaves.size(); ++i) {
    EXPECT_LT(difference(found[i], leaves[i].grad()), 1e-12);
  }
  EXPECT_LT(difference(x.grad(), x2.grad()), 1e-12);

  torch::NoGradGuard no_grad;
  peft.merge_adapter();
  EXPECT_LT(difference(net->layer(x, kIds), output), 1e-12);
  peft.unmerge_adapter();
  EXPECT_LT(difference(net->layer(x, kIds), output), 1e-12);
  peft.delete_adapter("second");
  EXPECT_GT(difference(net->layer(x, kIds), output), 1e-3);
}

TEST_P(StackedLayout, InitializersAndFiles) {
  torch::manual_seed(2);
  const auto folder = fs::path(testing::TempDir()) / "experts_adapter";
  auto net = test::make_module<NetImpl>(4, GetParam());
  const auto x = test::randn({9, 6});
  torch::NoGradGuard no_grad;
  const auto base = net->layer(x, kIds);
  auto peft = get_peft_model(*net, config().init_lora_weights("gaussian"));
  EXPECT_TRUE(torch::equal(net->layer(x, kIds), base));
  const auto A = peft.layers()[0].second->find_adapter("default")->lora_A;
  EXPECT_GT(A->weight.abs().min().item<double>(), 0);
  EXPECT_THROW(peft.save_pretrained(folder, {}, folder), c10::ValueError);
  randomize(peft, "default", 0.4);
  const auto adapted = net->layer(x, kIds);
  peft.save_pretrained(folder);
  peft.unload();
  auto loaded = PeftModel::from_pretrained(*net, folder);
  EXPECT_TRUE(torch::equal(net->layer(x, kIds), adapted));
  EXPECT_EQ(loaded.peft_config().target_parameters(), kBoth);
  EXPECT_TRUE(loaded.peft_config().target_modules().list().empty());
}

INSTANTIATE_TEST_SUITE_P(All, StackedLayout, testing::Bool());

} // namespace
} // namespace torchlora::experts_test
