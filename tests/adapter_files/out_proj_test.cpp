// PEFT adds the update of a MultiheadAttention's out_proj twice.

#include "support.h"

#include <torchlora/adapter_files/hotswap.h>
#include <torchlora/nn/linear.h>
#include <torchlora/nn/multihead_attention.h>

namespace torchlora {
namespace {
namespace fs = std::filesystem;

struct Net : torch::nn::Module {
  nn::MultiheadAttention attention =
      register_module("attention", nn::MultiheadAttention(8, 2));
  nn::Linear fc = register_module("fc", nn::Linear(8, 8));
};

class OutProj : public testing::Test {
 protected:
  OutProj() {
    torch::manual_seed(3);
    fs::remove_all(folder_);
  }
  PeftModel adapt() {
    auto peft = get_peft_model(
        *net_, LoraConfig(2).target_modules({"attention", "fc"}));
    randomize(peft);
    return peft;
  }
  at::Tensor B(const PeftModel& peft) const {
    return peft.state_dict()[kKey].detach().clone();
  }
  at::Tensor B_of_file() const {
    return test::on_device(
        io::SafetensorsFile(folder_ / "adapter_model.safetensors")
            .tensor(kKey)
            .clone());
  }
  static constexpr auto kKey =
      "base_model.model.attention.base_layer.out_proj.lora_B.weight";
  const std::shared_ptr<Net> net_ = test::make_module<Net>();
  const fs::path folder_ = fs::path(testing::TempDir()) / "out_proj";
};

TEST_F(OutProj, AFileForPeftHasHalfOfBAndIsReadBack) {
  auto peft = adapt();
  const auto B_here = B(peft);
  Warnings warnings;
  peft.save_pretrained(folder_, SaveOptions().peft_multihead_attention(true));
  EXPECT_TRUE(B_of_file().equal(B_here / 2));
  EXPECT_TRUE(B(peft).equal(B_here)); // the model's own
  const auto state = peft.state_dict();
  const io::SafetensorsFile file(folder_ / "adapter_model.safetensors");
  for (const auto& item : state) {
    EXPECT_TRUE(
        item.key() == kKey ||
        file.tensor(item.key()).equal(item.value().cpu()));
  }
  const auto randomized = B_here.clone();
  {
    torch::NoGradGuard no_grad;
    peft.state_dict()[kKey].zero_();
  }
  hotswap_adapter(peft, folder_);
  EXPECT_TRUE(B(peft).equal(randomized));
  peft.unload();
  peft = PeftModel::from_pretrained(*net_, folder_);
  EXPECT_TRUE(B(peft).equal(B_here));
  peft.unload();
  peft = PeftModel::from_pretrained(
      *net_, folder_, "default", LoadOptions().peft_multihead_attention(true));
  EXPECT_TRUE(B(peft).equal(B_here)); // not twice
  EXPECT_EQ(warnings.text, "");
}

TEST_F(OutProj, AFileOfPeftIsReadWithTwiceTheBIfItIsSaidToBeOne) {
  auto peft = adapt();
  peft.save_pretrained(folder_);
  const auto written = B_of_file();
  EXPECT_TRUE(B(peft).equal(written));
  peft.unload();
  peft = PeftModel::from_pretrained(
      *net_, folder_, "default", LoadOptions().peft_multihead_attention(true));
  EXPECT_TRUE(B(peft).equal(2 * written));
}

TEST_F(OutProj, AWarningNamesTheModules) {
  auto peft = adapt();
  {
    Warnings warnings;
    peft.save_pretrained(folder_);
    EXPECT_NE(warnings.text.find("(attention.out_proj)"), std::string::npos)
        << warnings.text;
    EXPECT_NE(
        warnings.text.find("SaveOptions().peft_multihead_attention"),
        std::string::npos);
  }
  peft.unload();
  Warnings warnings;
  peft = PeftModel::from_pretrained(*net_, folder_);
  EXPECT_NE(warnings.text.find("(attention.out_proj)"), std::string::npos)
      << warnings.text;
  EXPECT_TRUE(warnings.text.starts_with("[from_pretrained] ")) << warnings.text;
  warnings.text.clear();
  hotswap_adapter(peft, folder_);
  EXPECT_TRUE(warnings.text.starts_with("[hotswap_adapter] ")) << warnings.text;
  warnings.text.clear();
  peft.load_adapter(folder_, "second");
  EXPECT_TRUE(warnings.text.starts_with("[load_adapter] ")) << warnings.text;
  warnings.text.clear();
  peft.unload();
  peft = get_peft_model(*net_, LoraConfig(2).target_modules({"fc"}));
  peft.save_pretrained(folder_);
  peft.unload();
  PeftModel::from_pretrained(*net_, folder_);
  EXPECT_EQ(warnings.text, "");
}

TEST_F(OutProj, AVariantThatPeftRefusesIsNotWrittenForIt) {
  const auto peft = get_peft_model(
      *net_, LoraConfig(2).target_modules({"attention"}).use_dora(true));
  EXPECT_NE(
      refusal([&] {
        peft.save_pretrained(
            folder_, SaveOptions().peft_multihead_attention(true));
      }).find("attention.out_proj"),
      std::string::npos);
}

TEST_F(OutProj, ALayerWithInputsOfOtherSizesIsNamed) {
  struct Mixed : torch::nn::Module {
    torch::nn::MultiheadAttention attention = register_module(
        "cross_attention",
        torch::nn::MultiheadAttention(
            torch::nn::MultiheadAttentionOptions(8, 2).kdim(4).vdim(4)));
  };
  const auto net = test::make_module<Mixed>();
  EXPECT_NE(
      refusal(*net, LoraConfig(2).target_modules({"cross_attention"}))
          .find("module cross_attention"),
      std::string::npos);
}

} // namespace
} // namespace torchlora
