#include <torchlora/lora/layers/experts.h>

#include <torchlora/detail/low_rank.h>
#include <torchlora/init/default.h>

namespace torchlora {
namespace {

nn::StackedExperts& experts_of(Module& base_layer) {
  if (auto* layer = dynamic_cast<LoraExperts*>(&base_layer)) {
    return experts_of(*layer->base_layer());
  }
  auto* experts = dynamic_cast<nn::StackedExperts*>(&base_layer);
  TORCH_CHECK_VALUE(
      experts,
      "[LoraExperts] the base layer must be a torchlora::nn::StackedExperts, ",
      base_layer.name(),
      " is not");
  return *experts;
}

/// The weights, or the factors, of all experts. NOTE: unbound at once, so that
/// backward does not make a gradient of the whole for each of them.
struct ByExpert {
  explicit ByExpert(const BaseWeight& base_) : base(base_) {}
  std::vector<Tensor> weight() const {
    return base.experts() ? base.by_expert().unbind(0)
                          : std::vector<Tensor>{base.weight()};
  }
  std::vector<Tensor> A(const Tensor& factor) const {
    return base.experts() ? base.A_by_expert(factor).unbind(0)
                          : std::vector<Tensor>{factor};
  }
  std::vector<Tensor> B(const Tensor& factor) const {
    return base.experts() ? base.B_by_expert(factor).unbind(0)
                          : std::vector<Tensor>{factor};
  }
  const BaseWeight& base;
};

/// `nn::for_each_expert` with the counts of the running `expert_linear`.
template <class Function>
Tensor for_each_expert(const Tensor& rows, const Function& function) {
  return nn::for_each_expert(
      rows, nn::StackedExperts::rows_per_expert(), function);
}

} // namespace

LoraExperts::LoraExperts(
    const std::shared_ptr<Module>& base_layer,
    const std::string& parameter_name)
    : LoraLayer(
          base_layer,
          [parameter_name](Module& module) {
            return parameter_weight(module, parameter_name);
          },
          kFactorNames,
          &experts_of(*base_layer).expert_product(parameter_name)),
      parameter_name_(parameter_name) {}

BaseWeight LoraExperts::parameter_weight(
    Module& base_layer,
    const std::string& parameter_name) {
  const auto& experts = experts_of(base_layer);
  auto weight = experts.expert_parameter(parameter_name);
  return weight.dim() == 2
      ? BaseWeight(std::move(weight))
      : BaseWeight::stacked(std::move(weight), experts.is_transposed());
}

init::Factors LoraExperts::construct_factors(
    const LoraConfig& /*config*/,
    int64_t r) const {
  const auto base = base_weight();
  init::Factors factors{
      at::empty(base.A_sizes(r), at::kFloat),
      at::empty(base.B_sizes(r), at::kFloat)};
  init::draw_as_linear(factors.A);
  init::draw_as_linear(factors.B);
  return factors;
}

void LoraExperts::check_config(const LoraConfig& config) const {
  const auto& initializer = init::find_initializer(config.init_lora_weights());
  TORCH_CHECK_VALUE(
      initializer.traits.supports_target_parameters,
      "[target_parameters] ",
      parameter_name_,
      ": the adapter of a parameter does not work with init_lora_weights=\"",
      initializer.name,
      "\"");
  const auto refuse = [&](bool given, const char* what) {
    TORCH_CHECK_VALUE(
        !given,
        "[target_parameters] ",
        parameter_name_,
        ": the adapter of a parameter does not work with ",
        what);
  };
  refuse(config.lora_dropout() != 0, "lora_dropout != 0");
  refuse(config.fan_in_fan_out(), "fan_in_fan_out");
  refuse(config.lora_bias(), "lora_bias");
  refuse(config.use_dora(), "use_dora");
}

Tensor LoraExperts::product(const LayerCall& call, ActiveUpdates updates)
    const {
  const auto base = base_weight();
  const ByExpert by_expert(base);
  const auto weights = by_expert.weight();
  std::vector<std::vector<Tensor>> As, Bs;
  for (const auto& update : updates) {
    As.push_back(by_expert.A(update.A));
    Bs.push_back(by_expert.B(update.B));
  }
  return for_each_expert(call.input, [&](size_t e, const Tensor& x) {
    std::vector<detail::LowRankTerm> terms;
    for (size_t i = 0; i < updates.size(); ++i) {
      terms.push_back(
          {As[i][e], Bs[i][e], updates[i].scaling, updates[i].dropout});
    }
    return detail::low_rank_linear(x, weights[e], {}, terms);
  });
}

Tensor LoraExperts::low_rank(
    const LayerCall& call,
    const Tensor& A,
    const Tensor& B) const {
  const auto base = base_weight();
  const ByExpert by_expert(base);
  const auto As = by_expert.A(A), Bs = by_expert.B(B);
  return for_each_expert(call.input, [&](size_t e, const Tensor& x) {
    return at::linear(at::linear(x, As[e]), Bs[e]);
  });
}

} // namespace torchlora
