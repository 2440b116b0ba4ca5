#!/usr/bin/env python3
"""The demo in TRL: the same checkpoint, data and arguments. Held-out accuracy of both, and the seconds that each took."""

import sys
import time
import tomllib

import common

ROOT = common.ROOT
CHECKPOINT = ROOT / "data" / "demo_checkpoint"
TRAIN, TEST = ROOT / "data" / "rasbt_pref_train.jsonl", ROOT / "data" / "rasbt_pref_test.jsonl"
LORA = ("lora_r", "lora_alpha", "lora_target_modules")


def trl_run(out, args):
    import trl_common
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer
    from trl.trainer.utils import create_model_from_path

    trl_common.determinism(args["seed"], threads=2)
    kept = {name: value for name, value in args.items() if name not in (*LORA, "dtype")}
    trainer = DPOTrainer(
        model=create_model_from_path(str(CHECKPOINT), dtype="float32", device_map=None),
        args=DPOConfig(
            output_dir=str(out), **kept, bf16=False, use_cpu=True, gradient_checkpointing=False, report_to="none",
            save_strategy="no", dataloader_pin_memory=False, disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(trl_common.read_jsonl(TRAIN)),
        eval_dataset=Dataset.from_list(trl_common.read_jsonl(TEST)),
        processing_class=AutoTokenizer.from_pretrained(CHECKPOINT),
        peft_config=LoraConfig(r=args["lora_r"], lora_alpha=args["lora_alpha"], target_modules=args["lora_target_modules"], task_type="CAUSAL_LM"),
    )  # fmt: skip
    began = time.perf_counter()
    trainer.train()
    return trainer.evaluate(), time.perf_counter() - began


def main():
    build, runs = common.build_dir(__doc__)
    args = tomllib.loads((ROOT / "data" / "demo_dpo.toml").read_text())
    with common.quiet(runs / "trl.log"):
        theirs, their_seconds = trl_run(runs / "trl", args)
    ours = runs / "torchlora"
    began = time.perf_counter()
    common.run_program(
        build / "src" / "torchlora",
        ["dpo", "--config", ROOT / "data" / "demo_dpo.toml", *common.flags({
            "model_name_or_path": CHECKPOINT, "dataset_name": TRAIN, "eval_dataset_name": TEST, "eval_steps": 1000000,
            "output_dir": ours, "torch_num_threads": 2,
        })],
        runs / "torchlora.log",
    )  # fmt: skip
    our_seconds = time.perf_counter() - began
    record = [r for r in common.log_history(ours) if "eval_loss" in r][-1]
    name = "eval_rewards/accuracies"
    print(f"\nThe demo: held-out accuracy {record[name]:.4f}, TRL's {theirs[name]:.4f}; margin {record['eval_rewards/margins']:.3f}, "
          f"TRL's {theirs['eval_rewards/margins']:.3f}; {our_seconds:.0f} s, TRL {their_seconds:.0f} s of training")  # fmt: skip
    table = common.Table("The demo against TRL", {"below 0.85": 0, "from TRL": 0.03})
    table.add("held-out accuracy", **{"below 0.85": max(0.0, 0.85 - record[name]), "from TRL": abs(record[name] - theirs[name])})
    return 0 if table.finish() else 1


if __name__ == "__main__":
    sys.exit(main())
