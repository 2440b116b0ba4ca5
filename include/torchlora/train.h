#pragma once

/// The component train: the training loop, DPO, and their data, losses,
/// optimizers and schedules.

#include <torchlora/train/arguments.h>
#include <torchlora/train/callback.h>
#include <torchlora/train/dataset.h>
#include <torchlora/train/dpo.h>
#include <torchlora/train/dpo_loss.h>
#include <torchlora/train/logprobs.h>
#include <torchlora/train/optimizer.h>
#include <torchlora/train/preference.h>
#include <torchlora/train/schedule.h>
#include <torchlora/train/state.h>
#include <torchlora/train/token_scorer.h>
#include <torchlora/train/trainer.h>
