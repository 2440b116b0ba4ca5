// Every layer type on a device that is not the CPU: nothing goes to the host
// and back. Runs with TORCHLORA_TEST_DEVICE=fake, which counts the copies.

#include "device/fake_device.h"
#include "lora/layers_fixture.h"

namespace torchlora::test {
namespace {

using at::Tensor;

/// Copies that a call makes.
template <class Call>
HostCopies copies_of(const Call& call) {
  const auto before = host_copies();
  call();
  const auto after = host_copies();
  return {
      after.to_host - before.to_host,
      after.to_device - before.to_device,
      after.bytes_to_device - before.bytes_to_device};
}

template <class Type>
class LayersOnDevice : public LayerSuite<Type> {
 protected:
  LayersOnDevice() : LayerSuite<Type>(11) {}
  void SetUp() override {
    if (!test_device().is_hpu()) {
      GTEST_SKIP() << "TORCHLORA_TEST_DEVICE=fake counts copies";
    }
    LayerSuite<Type>::SetUp();
  }
  /// DoRA is refused for parameters.
  static std::vector<bool> dora_or_not() {
    if (!Type::kHasDora ||
        std::is_base_of_v<
            nn::StackedExperts,
            typename Type::Layer::ContainedType>) {
      return {false};
    }
    return {false, true};
  }
  /// The copies to the host that LibTorch's own layer makes: experts sort their
  /// rows.
  int64_t own_copies() {
    return copies_of([&] { this->run(); }).to_host;
  }
};
TYPED_TEST_SUITE(LayersOnDevice, LayerTypes);

TYPED_TEST(LayersOnDevice, ForwardAndBackwardCopyNothing) {
  const auto own = this->own_copies();
  for (const bool dora : this->dora_or_not()) {
    for (const bool dropout : {false, true}) {
      if (dropout && !TypeParam::kTakesDropout) {
        continue;
      }
      auto peft = this->adapt(
          LoraConfig(4).use_dora(dora).lora_dropout(dropout ? 0.3 : 0));
      fill_update(peft);
      this->model_->train();
      Tensor output;
      const auto forward =
          copies_of([&] { output = this->model_->forward(this->x_); });
      EXPECT_EQ(forward.to_host, own) << dora << dropout;
      EXPECT_EQ(forward.to_device, 0) << dora << dropout;
      const auto loss = output.square().mean();
      const auto backward = copies_of([&] { loss.backward(); });
      EXPECT_EQ(backward.to_host, 0) << dora << dropout;
      EXPECT_EQ(backward.to_device, 0) << dora << dropout;
      for (const auto& parameter : peft.trainable_parameters()) {
        EXPECT_EQ(parameter.device(), test_device());
        EXPECT_EQ(parameter.grad().device(), test_device());
      }
      peft.unload();
    }
  }
}

TYPED_TEST(LayersOnDevice, AMergeCopiesNoWeight) {
  for (const bool dora : this->dora_or_not()) {
    auto peft = this->adapt(LoraConfig(4).use_dora(dora));
    fill_update(peft);
    this->model_->eval();
    const auto adapted = this->run();
    // DoRA's question whether a row can be divided by its scale: a number for
    // each factor pair.
    const auto questions = static_cast<int64_t>(
        dora ? peft.layers().size() * TypeParam::kFactorsOfALayer : 0);
    const auto merge = copies_of([&] { peft.merge_adapter(); });
    EXPECT_LE(merge.to_host, questions) << dora;
    EXPECT_EQ(merge.to_device, 0) << dora;
    EXPECT_LT(this->difference(this->run(), adapted), 1e-4);
    const auto unmerge = copies_of([&] { peft.unmerge_adapter(); });
    EXPECT_EQ(unmerge.to_host, 0) << dora;
    EXPECT_EQ(unmerge.to_device, 0) << dora;
    EXPECT_LT(this->difference(this->run(), adapted), 1e-4);
    peft.unload();
  }
}

// Adapted on the CPU, moved merged or not, and back.
TYPED_TEST(LayersOnDevice, AnAdaptedModelMoves) {
  for (const bool dora : this->dora_or_not()) {
    this->model_->to(at::kCPU);
    this->x_ = this->x_.to(at::kCPU);
    auto peft = this->adapt(LoraConfig(4).use_dora(dora));
    fill_update(peft);
    this->model_->eval();
    const auto adapted = this->run();
    const auto move = [&](at::Device device) {
      this->model_->to(device);
      this->x_ = this->x_.to(device);
    };
    move(test_device());
    EXPECT_LT(this->difference(adapted, this->run()), 1e-5);
    peft.merge_adapter();
    move(at::kCPU);
    EXPECT_LT(this->difference(adapted, this->run()), 1e-4);
    peft.unmerge_adapter();
    move(at::Device(test_device().type(), 1));
    EXPECT_LT(this->difference(adapted, this->run()), 1e-4);
    this->model_->train();
    this->model_->forward(this->x_).sum().backward();
    for (const auto& parameter : peft.trainable_parameters()) {
      EXPECT_EQ(parameter.grad().device().index(), 1);
    }
    peft.unload();
  }
}

// Layer by layer, as large models are.
TYPED_TEST(LayersOnDevice, AModelMayBeSpread) {
  const at::Device second(test_device().type(), 1);
  auto block = this->model_->named_children()["block"];
  block->to(second);
  auto peft = this->adapt();
  fill_update(peft);
  const auto folder = std::filesystem::path(testing::TempDir()) / "spread";
  peft.save_pretrained(folder);
  const auto x2 = this->x_.to(second);
  const auto output = this->model_->target(this->x_) -
      this->model_->other(x2).sin().to(test_device());
  output.sum().backward();
  for (const auto& [name, layer] : peft.layers()) {
    const auto device = name.starts_with("target") ? test_device() : second;
    for (const auto& [key, tensor] :
         layer->find_adapter("default")->tensors()) {
      EXPECT_EQ(tensor.device(), device) << name << key;
      EXPECT_EQ(tensor.grad().device(), device) << name << key;
    }
  }
  peft.merge_and_unload();
}

// An adapter that one device saved, on others.
TYPED_TEST(LayersOnDevice, AnAdapterLoadsOntoAnyDevice) {
  const auto folder = std::filesystem::path(testing::TempDir()) / "any_device";
  auto peft = this->adapt();
  fill_update(peft);
  this->model_->eval();
  const auto adapted = this->run();
  peft.save_pretrained(folder);
  peft.unload();
  for (const at::Device device :
       {at::Device(test_device().type(), 1), at::Device(at::kCPU)}) {
    this->model_->to(device);
    this->x_ = this->x_.to(device);
    auto loaded = PeftModel::from_pretrained(*this->model_, folder);
    for (const auto& item : loaded.state_dict()) {
      EXPECT_EQ(item.value().device(), device) << item.key();
    }
    EXPECT_LT(this->difference(this->run(), adapted.to(device)), 1e-5);
    loaded.unload();
  }
}

// Versions and rows of adapters that were not active when the model moved.
TEST(TensorsOfAdapters, FollowTheModel) {
  if (!test_device().is_hpu()) {
    GTEST_SKIP() << "TORCHLORA_TEST_DEVICE=fake counts copies";
  }
  struct NetImpl : torch::nn::Module {
    nn::Embedding table = register_module("table", nn::Embedding(9, 4));
    nn::Linear up = register_module("up", nn::Linear(4, 4));
    torch::nn::Linear head = register_module("head", torch::nn::Linear(4, 3));
    Tensor forward(const Tensor& ids) {
      return head(up(table(ids)));
    }
  };
  torch::manual_seed(1);
  const auto net = std::make_shared<NetImpl>();
  const auto config = LoraConfig(2)
                          .target_modules({"up"})
                          .modules_to_save({"head"})
                          .trainable_token_indices({{"table", {1, 5}}});
  auto peft = get_peft_model(*net, config);
  peft.add_adapter("second", config);
  auto ids = torch::tensor({1, 2, 5});
  const auto train = [&] {
    net->zero_grad(); // a move leaves gradients behind
    net->forward(ids).square().sum().backward();
    torch::optim::AdamW(peft.trainable_parameters(), 0.1).step();
  };
  train();
  peft.set_adapter("second");
  train();
  const auto second = net->forward(ids);
  net->to(test_device());
  ids = ids.to(test_device());
  EXPECT_LT(difference(second, net->forward(ids)), 1e-5);
  train();
  peft.set_adapter("default");
  train();
  for (const auto& parameter : peft.trainable_parameters()) {
    EXPECT_EQ(parameter.device(), test_device());
    EXPECT_EQ(parameter.grad().device(), test_device());
  }
  const auto guard = peft.disable_adapter();
  EXPECT_EQ(net->forward(ids).device(), test_device());
}

} // namespace
} // namespace torchlora::test
