#include <torchlora/tools/preprocess.h>

#include <torch/types.h>

#include "model/function_name.h"
#include "model/inject.h"
#include "tools/observe.h"

namespace torchlora {
namespace {

/// For its lifetime only `weights` require a gradient, and no parameter has
/// one.
class GradientGuard {
 public:
  GradientGuard(Module& model, const std::vector<Tensor>& weights) {
    for (const auto& parameter : model.parameters()) {
      saved_.push_back(
          {parameter, parameter.grad(), parameter.requires_grad()});
    }
    for (auto& [parameter, grad, requires_grad] : saved_) {
      parameter.mutable_grad() = Tensor();
      parameter.set_requires_grad(false);
    }
    for (auto weight : weights) {
      weight.set_requires_grad(true);
    }
  }
  ~GradientGuard() {
    for (auto& [parameter, grad, requires_grad] : saved_) {
      parameter.mutable_grad() = grad;
      parameter.set_requires_grad(requires_grad);
    }
  }
  GradientGuard(const GradientGuard&) = delete;
  GradientGuard& operator=(const GradientGuard&) = delete;

 private:
  struct Saved {
    Tensor parameter, grad;
    bool requires_grad;
  };
  std::vector<Saved> saved_;
};

/// Sums the gradients of a weight over backward passes, whether or not they are
/// zeroed in between.
class GradientSum {
 public:
  explicit GradientSum(const Tensor& weight) : weight_(weight) {
    hook_ = weight_.register_hook([this](const Tensor& gradient) {
      torch::NoGradGuard no_grad;
      const auto value = (gradient.is_sparse() ? gradient.to_dense() : gradient)
                             .to(sum_dtype());
      sum_ = sum_.defined() ? sum_.add_(value) : value.clone();
      ++count_;
      weight_.mutable_grad() = Tensor();
    });
  }
  ~GradientSum() {
    weight_.remove_hook(hook_);
  }
  GradientSum(const GradientSum&) = delete;
  GradientSum& operator=(const GradientSum&) = delete;

  /// Undefined without a backward pass.
  Tensor mean() const {
    return count_ == 0 ? Tensor() : sum_ / count_;
  }

 private:
  at::ScalarType sum_dtype() const {
    return c10::promoteTypes(weight_.scalar_type(), at::kFloat);
  }

  Tensor weight_, sum_;
  int64_t count_ = 0;
  unsigned hook_ = 0;
};

struct Covariance {
  Tensor sum;
  int64_t count = 0;

  void add(const Tensor& rows) {
    if (rows.numel() == 0) {
      return; // It says nothing of the module's input.
    }
    auto x = rows.to(c10::promoteTypes(rows.scalar_type(), at::kFloat));
    x = x / x.max().abs();
    if (!sum.defined()) {
      sum = at::zeros({x.size(1), x.size(1)}, x.options());
    }
    sum.addmm_(x.t(), x);
    ++count;
  }
};

/// ValueError for a target whose weight is complex: the initializers' formulas
/// are those of real ones.
void check_is_real(const InjectionPlan& plan, const char* function) {
  for (const auto& target : plan.targets) {
    const auto dtype = target.site.base_weight().weight().scalar_type();
    TORCH_CHECK_VALUE(
        !at::isComplexType(dtype),
        "[",
        function,
        "] the weight of module ",
        target.site.name,
        " must be real, found ",
        dtype,
        "; leave it out by exclude_modules");
  }
}

} // namespace

TrainingModeGuard::TrainingModeGuard(Module& model, bool training) {
  for (const auto& module : model.modules()) {
    saved_.emplace_back(module, module->is_training());
  }
  model.train(training);
}

TrainingModeGuard::~TrainingModeGuard() {
  for (const auto& [module, training] : saved_) {
    module->train(training);
  }
}

ObservedModule::ObservedModule(
    const TargetSite& site,
    std::function<void(const Tensor& rows)> observer)
    : layer_(
          site.layer ? site.layer
                     : LoraRegistry::global().create(site.name, site.module)) {
  layer_->set_input_observer(std::move(observer));
  layer_->bind();
}

ObservedModule::~ObservedModule() {
  if (layer_) { // Not moved from; a layer of the tree is somebody else's too.
    layer_->set_input_observer({});
  }
}

InitStatistics preprocess_corda(
    Module& model,
    const LoraConfig& config,
    const std::function<void()>& run_model) {
  const auto plan = in_function("preprocess_corda", [&] {
    return plan_injection(model, config, "default");
  });
  check_is_real(plan, "preprocess_corda");
  std::vector<Covariance> covariances(plan.targets.size());
  {
    const TrainingModeGuard mode(model, /*training=*/false);
    std::vector<ObservedModule> observed;
    for (size_t i = 0; i < plan.targets.size(); ++i) {
      observed.emplace_back(
          plan.targets[i].site,
          [&sum = covariances[i]](const Tensor& rows) { sum.add(rows); });
    }
    torch::NoGradGuard no_grad;
    run_model();
  }
  InitStatistics statistics;
  for (size_t i = 0; i < plan.targets.size(); ++i) {
    const auto& name = plan.targets[i].site.name;
    const auto& [sum, count] = covariances[i];
    TORCH_CHECK_VALUE(
        count > 0,
        "[preprocess_corda] run_model must run every targeted module, ",
        name,
        " saw no input; leave it out by exclude_modules");
    TORCH_CHECK_VALUE(
        at::isfinite(sum).all().item<bool>(),
        "[preprocess_corda] the input of module ",
        name,
        " must be finite and its largest element not 0; look at the data");
    statistics[name] = sum / count;
  }
  return statistics;
}

InitStatistics preprocess_loraga(
    Module& model,
    const LoraConfig& config,
    const std::function<void()>& train_step) {
  TORCH_CHECK_VALUE(
      config.lora_ga_config(),
      "[preprocess_loraga] needs init_lora_weights \"lora_ga\" and "
      "`lora_ga_config`");
  TORCH_CHECK_VALUE(
      lora_sites(model).empty(),
      "[preprocess_loraga] needs a model that is not adapted, as adapted "
      "layers give their weight no gradient; unload it first");
  const auto plan = in_function("preprocess_loraga", [&] {
    return plan_injection(model, config, "default");
  });
  check_is_real(plan, "preprocess_loraga");
  std::vector<Tensor> weights;
  for (const auto& target : plan.targets) {
    TORCH_CHECK_VALUE(
        target.site.type,
        "[preprocess_loraga] module ",
        target.site.name,
        " cannot be adapted; leave it out by exclude_modules");
    weights.push_back(target.site.base_weight().weight());
  }
  InitStatistics statistics;
  const TrainingModeGuard mode(model, /*training=*/true);
  const GradientGuard gradients(model, weights);
  std::list<GradientSum> sums;
  for (const auto& weight : weights) {
    sums.emplace_back(weight);
  }
  {
    const torch::AutoGradMode enable_grad(true);
    train_step();
  }
  auto sum = sums.begin();
  for (const auto& target : plan.targets) {
    const auto mean = (sum++)->mean();
    TORCH_CHECK_VALUE(
        mean.defined(),
        "[preprocess_loraga] train_step must run a backward pass through every "
        "targeted module, the weight of ",
        target.site.name,
        " got no gradient; leave it out by exclude_modules");
    statistics[target.site.name] =
        BaseWeight(mean, {}, "", target.site.base_weight().layout()).matrix();
  }
  return statistics;
}

} // namespace torchlora
