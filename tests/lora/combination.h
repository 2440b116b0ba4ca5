#pragma once

#include <filesystem>
#include <optional>

#include <torchlora/adapter_files/hotswap.h>

#include "lora/combination_part.h"
#include "lora/combinations_layers.h"

namespace torchlora::test {

enum class Variant {
  kPlain,
  kRslora,
  kLoraBias,
  kDora,
  kKasa,
  kVelora,
  kPissa
};

enum class Operation {
  kForward,
  kBackward,
  kMerged,
  kUnmerged,
  kDisabled,
  kMixed,
  kLoaded,
  kHotswapped
};

/// A dtype, the relative error that rounding to it may make of an output, and
/// how half-precision products are computed.
struct Precision {
  at::ScalarType dtype;
  double tolerance;
  nn::ComputeRoute route = nn::ComputeRoute::kNative;
};

inline LoraConfig config_of(const CanDo& can, Variant variant, int64_t r) {
  auto config = LoraConfig(r).lora_alpha(3);
  if (can.is_experts) {
    config.target_parameters({"layer.weight"});
  } else {
    config.target_modules({"layer"});
  }
  switch (variant) {
    case Variant::kRslora:
      return config.use_rslora(true);
    case Variant::kLoraBias:
      return config.lora_bias(true);
    case Variant::kDora:
      return config.use_dora(true);
    case Variant::kKasa:
      return config.kasa_config(KasaConfig());
    case Variant::kVelora:
      return config.velora_config(VeloraConfig().num_groups(2));
    case Variant::kPissa:
      return config.init_lora_weights("pissa");
    default:
      return config;
  }
}

/// One layer in one dtype with one variant.
class Combination {
 public:
  Combination(
      const LayerEntry& entry,
      uint64_t seed,
      const Precision& precision,
      Variant variant,
      std::filesystem::path folder)
      : entry_(entry),
        precision_(precision),
        variant_(variant),
        folder_(std::move(folder)) {
    torch::manual_seed(seed);
    Draw draw(seed);
    drawn_ = entry.draw(draw);
    input_ = drawn_.input.is_floating_point() ? drawn_.input.to(precision.dtype)
                                              : drawn_.input;
    adapted_ = drawn_.adapted();
    adapted_.module->to(precision.dtype);
    for (const auto& item : adapted_.module->named_parameters()) {
      names_.emplace_back(item.key(), item.value());
      values_.push_back(item.value().detach().clone());
    }
    reference_ = drawn_.plain();
    reference_.module->to(at::kDouble);
    copy_to(*reference_.module);
    int64_t smallest = 5;
    for (const auto& value : values_) {
      for (int64_t dim = 0; value.dim() > 1 && dim < 2; ++dim) {
        smallest = std::min(smallest, value.size(dim));
      }
    }
    r_ = draw(1, std::max<int64_t>(1, smallest - 1));
    model_->register_module("layer", adapted_.module);
  }

  /// Adapts the model. Throws what `get_peft_model` does.
  void adapt() {
    peft_.emplace(get_peft_model(*model_, config_of(entry_.can, variant_, r_)));
    for (const auto& [name, layer] : peft_->layers()) {
      Part part{layer};
      const auto base = layer->base_weight();
      part.weight = in_reference(base.weight());
      part.W = base.weight().detach().clone().to(at::kDouble);
      part.bias = in_reference(base.bias());
      part.b = part.bias.defined() ? part.bias.detach().clone() : at::Tensor();
      parts_.push_back(std::move(part));
    }
    randomize("default");
    model_->eval();
  }

  void run(Operation operation) {
    switch (operation) {
      case Operation::kForward:
        return expect_output("default");
      case Operation::kBackward:
        return backward();
      case Operation::kMerged:
        was_merged_ = true;
        peft_->merge_adapter();
        expect_output("default");
        {
          const auto guard = peft_->disable_adapter();
          expect_output("");
        }
        return peft_->unmerge_adapter();
      case Operation::kUnmerged:
        was_merged_ = true;
        peft_->merge_adapter();
        peft_->unmerge_adapter();
        return expect_output("default");
      case Operation::kDisabled: {
        const auto guard = peft_->disable_adapter();
        return expect_output("");
      }
      case Operation::kMixed:
        return mixed_batch();
      case Operation::kLoaded:
        return save_and_load();
      case Operation::kHotswapped:
        return hotswap();
    }
  }

 private:
  void copy_to(torch::nn::Module& module) const {
    torch::NoGradGuard no_grad;
    auto parameters = module.named_parameters();
    for (size_t i = 0; i < names_.size(); ++i) {
      parameters[names_[i].first].copy_(values_[i]);
    }
    auto buffers = module.named_buffers();
    for (const auto& item : adapted_.module->named_buffers()) {
      buffers[item.key()].copy_(item.value());
    }
  }

  at::Tensor in_reference(const at::Tensor& tensor) const {
    const auto parameters = reference_.module->named_parameters();
    for (const auto& [name, parameter] : names_) {
      if (tensor.defined() && parameter.is_same(tensor)) {
        return parameters[name];
      }
    }
    const auto* added = parameters.find("added_bias");
    return added ? *added : at::Tensor();
  }

  /// Makes the update about as large as the weight.
  void randomize(const std::string& adapter) {
    torch::NoGradGuard no_grad;
    for (const auto& part : parts_) {
      const auto* found = part.layer->find_adapter(adapter);
      for (auto& [key, tensor] : found->tensors()) {
        if (key == "lora_magnitude_vector") {
          tensor.mul_(torch::rand_like(tensor) + 0.5);
        } else if (key != "lora_velora_embed") {
          tensor.normal_(0, 0.5);
        }
      }
      const auto delta = part.layer->get_delta_weight(adapter);
      found->lora_B->weight.mul_(part.W.norm() / delta.norm());
    }
  }

  /// Gives the reference the weights of an adapter; "" is the base model's.
  void show(const std::string& adapter) {
    for (auto& part : parts_) {
      part.weight.set_data(part.W.clone());
      if (part.bias.defined()) {
        part.bias.set_data(part.b.clone());
      }
      if (adapter.empty()) {
        continue;
      }
      auto leaves = part.leaves(adapter);
      const auto& found = *part.layer->find_adapter(adapter);
      part.weight.set_data(part.adapted_weight(found, leaves).detach());
      if (const auto bias = leaves.find("lora_B.bias"); bias != leaves.end()) {
        const auto change = (found.scaling * bias->second).detach();
        part.bias.set_data(part.b + change);
      }
    }
  }

  at::Tensor expected(const std::string& adapter) {
    torch::NoGradGuard no_grad;
    show(adapter);
    return reference_.forward(
        input_.is_floating_point() ? input_.to(at::kDouble) : input_);
  }

  void expect_output(const std::string& adapter) {
    torch::NoGradGuard no_grad;
    // A merge rounds W + ΔW, and what is computed of it afterwards is a
    // difference: the error is relative to the larger of the outputs of W and
    // of W + ΔW.
    const auto magnitude = was_merged_
        ? std::max(
              expected("").norm().item<double>(),
              expected("default").norm().item<double>())
        : 0;
    expect_near(
        adapted_.forward(input_), expected(adapter), "output", 1, magnitude);
  }

  void expect_near(
      const at::Tensor& found,
      const at::Tensor& expected,
      const std::string& what,
      double factor = 1,
      double magnitude = 0) const {
    EXPECT_LT(
        relative_error(found, expected, magnitude),
        factor * precision_.tolerance)
        << what;
  }

  void backward() {
    show("default");
    auto x = input_.detach().clone();
    auto wide = x.is_floating_point() ? x.to(at::kDouble) : x;
    if (x.is_floating_point()) {
      x.requires_grad_();
      wide.requires_grad_();
    }
    const auto expected = reference_.forward(wide);
    const auto direction = torch::randn_like(expected.detach());
    reference_.module->zero_grad();
    (expected * direction).sum().backward();
    (adapted_.forward(x).to(at::kDouble) * direction).sum().backward();
    const bool is_half = at::isReducedFloatingType(precision_.dtype);
    const double factor = !is_half ? 10 : entry_.can.clamps ? 20 : 2;
    if (x.is_floating_point()) {
      expect_near(x.grad(), wide.grad(), "gradient of the input", factor);
    }
    for (const auto& part : parts_) {
      const auto& adapter = *part.layer->find_adapter("default");
      auto leaves = part.leaves("default");
      part.adapted_weight(adapter, leaves).backward(part.weight.grad());
      for (const auto& [key, tensor] : adapter.tensors()) {
        if (key == "lora_B.bias") {
          expect_near(
              tensor.grad(), adapter.scaling * part.bias.grad(), key, factor);
        } else if (tensor.requires_grad()) {
          expect_near(tensor.grad(), leaves[key].grad(), key, factor);
        }
      }
    }
  }

  void mixed_batch() {
    std::vector<std::string> names{"__base__", "default"};
    if (variant_ != Variant::kKasa) {
      peft_->add_adapter("other", config_of(entry_.can, Variant::kPlain, 1));
      randomize("other");
      names.emplace_back("other");
    }
    model_->eval();
    std::vector<std::string> chosen;
    for (int64_t i = 0; i < input_.size(0); ++i) {
      chosen.push_back(names[static_cast<size_t>(i * i + 1) % names.size()]);
    }
    at::Tensor found;
    {
      torch::NoGradGuard no_grad;
      const auto guard = peft_->mixed_batch(chosen);
      found = adapted_.forward(input_);
    }
    for (int64_t i = 0; i < input_.size(0); ++i) {
      const auto& name = chosen[static_cast<size_t>(i)];
      expect_near(
          found[i],
          expected(name == "__base__" ? "" : name)[i],
          "sample of " + name,
          2);
    }
  }

  /// Saves the adapter once, as a file waits for the disk.
  void save() {
    if (!saved_output_.defined()) {
      peft_->save_pretrained(folder_);
      saved_output_ = expected("default");
    }
  }

  void save_and_load() {
    save();
    auto other = drawn_.adapted();
    other.module->to(precision_.dtype);
    copy_to(*other.module);
    const auto model = std::make_shared<torch::nn::Module>("Model");
    model->register_module("layer", other.module);
    const auto loaded = PeftModel::from_pretrained(*model, folder_);
    torch::NoGradGuard no_grad;
    expect_near(other.forward(input_), saved_output_, "loaded");
  }

  void hotswap() {
    save();
    randomize("default");
    hotswap_adapter(*peft_, folder_, "default");
    torch::NoGradGuard no_grad;
    expect_near(adapted_.forward(input_), saved_output_, "hotswapped");
  }

  const LayerEntry& entry_;
  const Precision& precision_;
  Variant variant_;
  std::filesystem::path folder_;
  DrawnLayer drawn_;
  at::Tensor input_, saved_output_;
  AnyLayer adapted_, reference_;
  /// The parameters of the layer and their first values.
  std::vector<std::pair<std::string, at::Tensor>> names_;
  std::vector<at::Tensor> values_;
  int64_t r_ = 1;
  bool was_merged_ = false;
  std::shared_ptr<torch::nn::Module> model_ =
      std::make_shared<torch::nn::Module>("Model");
  std::optional<PeftModel> peft_;
  std::vector<Part> parts_;
};

} // namespace torchlora::test
