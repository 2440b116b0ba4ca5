#include "cli/dpo_options.h"

#include <fmt/ranges.h>

#include <torchlora/train/dpo_loss.h>

#include "cli/numbers.h"
#include "cli/training_options.h"

namespace torchlora::cli {

void DpoOptions::add_to(CLI::App& app) {
  constexpr const char* kDpo = "DPO";
  model.add_to(app);
  data.add_to(app);
  output.add_to(app);
  lora.add_to(app);
  app.add_option("--beta", config.beta, "strength of the pull to the reference")
      ->capture_default_str()
      ->group(kDpo);
  app.add_option(
         "--loss_type",
         config.loss_type,
         fmt::format(
             "one or more of: {}", fmt::join(train::dpo_loss_types(), ", ")))
      ->check(CLI::IsMember(train::dpo_loss_types()))
      ->type_name("TEXT")
      ->capture_default_str()
      ->group(kDpo);
  app.add_option(
         "--loss_weights",
         config.loss_weights,
         "of the losses, each 1 by default")
      ->group(kDpo);
  app.add_option(
         "--reference",
         config.reference,
         "what the policy is compared with: the base model, or the adapter as "
         "it is at the start. auto: the initial adapter if it changes "
         "anything, else the base")
      ->check(CLI::IsMember({"auto", "base", "initial_adapter"}))
      ->capture_default_str()
      ->group(kDpo);
  app.add_option(
         "--max_length",
         max_length,
         "tokens of prompt and completion together; 0: never cut")
      ->check(not_negative())
      ->capture_default_str()
      ->group(kDpo);
  app.add_option(
         "--truncation_mode",
         config.truncation_mode,
         "which tokens of a row that is too long stay")
      ->check(CLI::IsMember({"keep_start", "keep_end"}))
      ->capture_default_str()
      ->group(kDpo);
  app.add_flag(
         "--disable_dropout,!--no_disable_dropout",
         config.disable_dropout,
         "no dropout, --lora_dropout included (on by default)")
      ->default_str("true")
      ->group(kDpo);
  add_training_options(app, config);
  app.add_option(
         "--dump_gradients_step",
         dump_gradients_step,
         "write the gradients of this step, before clipping, to "
         "grads_stepN.safetensors; 0: of none")
      ->check(not_negative())
      ->capture_default_str()
      ->group("Advanced");
}

void DpoOptions::resolve() {
  config.output_dir = output.output_dir;
  config.max_length = max_length > 0 ? std::optional(max_length) : std::nullopt;
  config.validate();
}

} // namespace torchlora::cli
