#!/usr/bin/env python3
"""`torchlora dpo` against TRL's DPOTrainer, step by step: the plain sigmoid loss and what surrounds it.

Each run starts both programs from the same adapter (lora_B is not zero but in the first run, so that step 1 says something), on the same
checkpoint, data and arguments. TRL's trainer is made to record means of all pairs and tokens, as torchlora does.
"""

import json
import shutil
import sys

import common

ROOT = common.ROOT
DATA = ROOT / "tests" / "data"
LANGUAGE = r".*language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"

RUNS = {
    "default": {"steps": 20},
    "nonzero_b": {"steps": 20, "lora_b_std": 0.05},
    "short_window": {"steps": 6, "rows": 13, "grad_accum": 4, "lora_b_std": 0.05},
    "random": {"steps": 20, "order": "random", "lora_b_std": 0.05},
    "rslora_cosine": {"steps": 20, "use_rslora": True, "lr_scheduler_type": "cosine", "warmup_steps": 4, "weight_decay": 0.01, "lora_b_std": 0.05},
    "clip": {"steps": 20, "max_grad_norm": 0.1, "lora_b_std": 0.05},
    "truncated": {"steps": 10, "max_length": 48, "lora_b_std": 0.05},
    "chat": {"steps": 10, "chat": True, "lora_b_std": 0.05},
    "eval": {"steps": 8, "lora_b_std": 0.05, "eval_data": ROOT / "data" / "rasbt_pref_test.jsonl"},
    **{f"hub_{kind}": {"steps": 6, "model": kind, "lora_target_modules": [LANGUAGE], "lora_b_std": 0.05} for kind in ("E2B", "E4B", "31B")},
}

SAME_NAME = ("lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "max_length", "beta", "seed")
REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
LOGPS = ("logps/chosen", "logps/rejected")
METRICS = ("logits/chosen", "logits/rejected", "mean_token_accuracy", "entropy", "num_tokens", "learning_rate", "epoch")

LIMITS = {"loss": 1e-4, "grad_norm, rel": 1e-2, "rewards": 1e-3, "logps / 100": 1e-3, "other metrics": 1e-3, "eval": 1e-3, "grads step 1, rel": 1e-3}


def with_tokenizer(kind, folder):
    """A tiny multimodal checkpoint of tests/data with the tokenizer that all of them share."""
    shutil.copytree(DATA / "tiny" / kind, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DATA / "tokenizer" / name, folder)
    return folder


def largest(pairs):
    return max((abs(a - b) for a, b in pairs), default=None)


def compare(run, ours):
    reference = json.loads((run / "reference.json").read_text())
    history = common.log_history(ours)
    steps = [record for record in history if "loss" in record]
    evals = [record for record in history if "eval_loss" in record]
    assert len(steps) == len(reference["steps"]) and len(evals) == len(reference["evals"]), "other numbers of records than TRL has"
    both = list(zip(steps, reference["steps"]))
    values = {
        "loss": largest((a["loss"], b["loss"]) for a, b in both),
        "grad_norm, rel": max(abs(a["grad_norm"] - b["grad_norm"]) / b["grad_norm"] for a, b in both),
        "rewards": largest((a[name], b[name]) for a, b in both for name in REWARDS),
        # Sums over a completion, -200 and less: by the hundred, as fp32 has seven digits.
        "logps / 100": max(abs(a[name] - b[name]) / max(1, abs(b[name]) / 100) for a, b in both for name in LOGPS),
        "other metrics": largest((a[name], b[name]) for a, b in both for name in METRICS),
        "eval": largest((a[name], b[name]) for a, b in zip(evals, reference["evals"]) for name in b if "second" not in name and "runtime" not in name),
    }
    values["grads step 1, rel"] = common.largest_relative_difference(ours / "grads_step1.safetensors", run / "grads_step1.safetensors")
    return values


def torchlora_run(build, run, args):
    ours = run / "torchlora"
    flags = {name: args[name] for name in SAME_NAME}
    common.torchlora_dpo(
        build, run / "torchlora.log", **flags,
        model_name_or_path=args["model"] or run / "model", dtype="float32", dataset_name=run / "train.jsonl",
        eval_dataset_name=run / "eval.jsonl" if args["eval_data"] else None, eval_steps=max(1, args["steps"] // 2),
        per_device_eval_batch_size=args["batch_size"], adapter_name_or_path=run / "init_adapter", reference="base",
        max_steps=args["steps"], learning_rate=args["lr"], per_device_train_batch_size=args["batch_size"],
        gradient_accumulation_steps=args["grad_accum"], train_sampling_strategy=args["order"], logging_steps=1,
        dump_gradients_step=1, output_dir=ours,
    )  # fmt: skip
    return ours


def main():
    build, runs = common.build_dir(__doc__)
    import trl_dpo

    table = common.Table("DPO: largest difference from TRL over the steps of a run", LIMITS)
    for name, options in RUNS.items():
        if "model" in options:
            options = options | {"model": with_tokenizer(options["model"], runs / f"{name}-checkpoint")}
        words = ["--out", str(runs / name), "--weighted_means", *common.flags(options)]
        args = trl_dpo.arguments(words)
        with common.quiet(runs / f"{name}.trl.log"):
            trl_dpo.run(args)
        table.add(name, **compare(runs / name, torchlora_run(build, runs / name, vars(args))))
    return 0 if table.finish() else 1


if __name__ == "__main__":
    sys.exit(main())
