#pragma once

#include <torchlora/config/lora_config.h>
#include <torchlora/model.h>

namespace torchlora {

/// Returns the statistics that the initializer "corda" needs, for
/// `InjectOptions::init_statistics`: the covariance [in_features, in_features]
/// of each targeted layer's input. Calls `run_model`, which runs the model on
/// your sample data, once in eval mode. Divides the input of each forward by
/// the absolute value of its maximum, as PEFT does; any number of forwards and
/// any batch size are allowed. The model does not change.
///
/// ValueError if a targeted layer gets no input or an input that is not finite.
/// PEFT's `preprocess_corda`.
TORCHLORA_API InitStatistics preprocess_corda(
    Module& model,
    const LoraConfig& config,
    const std::function<void()>& run_model);

/// Returns the statistics that the initializer "lora_ga" needs, for
/// `InjectOptions::init_statistics`: the mean gradient [out_features,
/// in_features] of each targeted weight. Calls `train_step` once in training
/// mode; it runs any number of forward and backward passes, without an
/// optimizer. Meanwhile only the targeted weights require a gradient. The model
/// and its gradients do not change.
///
/// ValueError if the model is adapted already or a targeted weight gets no
/// gradient. PEFT's `preprocess_loraga`.
TORCHLORA_API InitStatistics preprocess_loraga(
    Module& model,
    const LoraConfig& config,
    const std::function<void()>& train_step);

/// A function that selects the rows [n, in_features] of a layer's input that
/// `initialize_lora_eva_weights` uses, for example those that are not padding
/// tokens, and returns them. PEFT's `prepare_layer_inputs_fn`.
using PrepareLayerInputs =
    std::function<Tensor(const Tensor& rows, const std::string& module_name)>;

/// Completes the initializer "eva" after `get_peft_model`. Sets A to the
/// principal components of the layer's input and B to zero. Moves ranks to the
/// layers where they explain most of the variance; the sum of ranks does not
/// grow. Removes the adapter from a layer whose rank becomes 0. Writes the new
/// ranks into the configuration's patterns. Paischer et al. 2024,
/// arXiv:2410.07170.
///
/// `run_batch` runs the model on the next batch and returns whether there was
/// one. The function calls it in eval mode, without gradients and with adapters
/// disabled, until the components have converged (`EvaConfig::tau`). Warns if
/// the data end first. A batch with fewer rows than round(r · rho), the number
/// of components of a layer, does not count for that layer.
///
/// The first batch must reach every layer. If a layer loses its adapter, the
/// configuration lists the rest as `target_modules`.
///
/// ValueError if the initializer is not "eva", if an adapter is merged, if a
/// layer got no batch, or if a layer would lose its adapter while `bias` is not
/// "none". PEFT's `initialize_lora_eva_weights`.
TORCHLORA_API void initialize_lora_eva_weights(
    PeftModel& peft,
    const std::function<bool()>& run_batch,
    const std::string& adapter_name = "default",
    const PrepareLayerInputs& prepare_layer_inputs = {});

} // namespace torchlora
