#!/usr/bin/env python3
"""Copies a run of trl_dpo.py into tests/data/dpo: trim_dpo_run.py RUN NAME

NAME/ receives the initial adapter, the gradients of step 1, golden.json (arguments and the record of every step) and the pairs that were
used; model/ the checkpoint that the runs share.
"""
import json
import os
import shutil
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ARGUMENTS = ("steps", "batch_size", "grad_accum", "lr", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "max_length", "seed", "order", "beta")


def main(run, name):
    data = os.path.join(HERE, "..", "data", "dpo")
    out = os.path.join(data, name)
    os.makedirs(os.path.join(data, "model"), exist_ok=True)
    os.makedirs(os.path.join(out, "init_adapter"), exist_ok=True)
    for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(os.path.join(run, "model", file), os.path.join(data, "model", file))
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(os.path.join(run, "init_adapter", file), os.path.join(out, "init_adapter", file))
    with open(os.path.join(out, "init_adapter", "adapter_config.json"), encoding="utf-8") as f:
        config = json.load(f)
    config["base_model_name_or_path"] = None
    with open(os.path.join(out, "init_adapter", "adapter_config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f, indent=2, sort_keys=True)
        f.write("\n")
    shutil.copyfile(os.path.join(run, "grads_step1.safetensors"), os.path.join(out, "grads_step1.safetensors"))
    with open(os.path.join(run, "oracle.json"), encoding="utf-8") as f:
        oracle = json.load(f)
    meta = oracle["meta"]
    with open(meta["data"], encoding="utf-8") as f:
        rows = f.readlines()[: len(oracle["examples"])]
    with open(os.path.join(out, "pairs.jsonl"), "w", encoding="utf-8") as f:
        f.writelines(rows)
    golden = {"args": {k: meta["args"][k] for k in ARGUMENTS}, "versions": meta["versions"], "examples": [{k: e[k] for k in ("prompt_ids", "chosen_ids", "rejected_ids")} for e in oracle["examples"][:8]], "steps": oracle["steps"]}
    with open(os.path.join(out, "golden.json"), "w", encoding="utf-8") as f:
        json.dump(golden, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
