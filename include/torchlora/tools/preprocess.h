#pragma once

#include <torchlora/config/lora_config.h>
#include <torchlora/model.h>

namespace torchlora {

/// Collects what `init_lora_weights` "corda" needs: runs the model on sample
/// data by `run_model`, in eval mode, and returns the covariance [in_features,
/// in_features] of each targeted layer's input, for
/// `InjectOptions::init_statistics`. Each forward's input is divided by the
/// absolute value of its maximum, as in PEFT; a layer may see several forwards
/// and any batch. The model stays as it was.
///
/// ValueError if a targeted layer sees no input or no finite one. PEFT's
/// `preprocess_corda`.
TORCHLORA_API InitStatistics preprocess_corda(
    torch::nn::Module& model,
    const LoraConfig& config,
    const std::function<void()>& run_model);

/// Collects what `init_lora_weights` "lora_ga" needs: calls `train_step`, which
/// runs forward and backward passes (any number, without an optimizer), in
/// training mode, and returns the mean gradient [out_features, in_features] of
/// each targeted weight, for `InjectOptions::init_statistics`. Meanwhile only
/// those weights require a gradient. The model and its gradients stay as they
/// were.
///
/// ValueError for a model that is adapted already, and if a targeted weight
/// gets no gradient. PEFT's `preprocess_loraga`.
TORCHLORA_API InitStatistics preprocess_loraga(
    torch::nn::Module& model,
    const LoraConfig& config,
    const std::function<void()>& train_step);

/// Returns the rows of a layer's input [n, in_features] that
/// `initialize_lora_eva_weights` takes into account, for example all but those
/// of padding tokens. PEFT's `prepare_layer_inputs_fn`.
using PrepareLayerInputs =
    std::function<Tensor(const Tensor& rows, const std::string& module_name)>;

/// Completes `init_lora_weights` "eva" after `get_peft_model`. A becomes the
/// principal components of the layer's input and B zero. The ranks move to the
/// layers where they explain most of the variance; their sum does not grow. A
/// layer whose rank becomes 0 loses the adapter. The configuration's patterns
/// get the new ranks. Paischer et al. 2024, arXiv:2410.07170.
///
/// `run_batch` runs the model on the next batch and returns whether there was
/// one. It is called in eval mode, without gradients and with adapters
/// disabled, until the components have converged (`EvaConfig::tau`). Warns if
/// the data end first. A batch with fewer rows than a layer has components,
/// round(r · rho), does not count for that layer.
///
/// ValueError if the initializer is not "eva", if the adapter is merged, or if
/// a layer saw no batch. PEFT's `initialize_lora_eva_weights`.
TORCHLORA_API void initialize_lora_eva_weights(
    PeftModel& peft,
    const std::function<bool()>& run_batch,
    const std::string& adapter_name = "default",
    const PrepareLayerInputs& prepare_layer_inputs = {});

} // namespace torchlora
