#!/usr/bin/env python3
"""Copies tiny Gemma 4 checkpoints made by make_gemma4_tiny.py into tests/data/tiny, with the text part of their references.

  trim_gemma4_reference.py SOURCE/E2B tests/data/tiny/E2B

Kept of reference.safetensors: `plain.*` and `text.*` inputs, logits, layer outputs and the bf16 run of transformers;
of reference.json: loss and gradient norms of the text scenario.
"""
import json
import os
import re
import shutil
import sys

from safetensors.torch import load_file, save_file

KEEP = re.compile(r"plain\.(in\.input_ids|logits)|text\.(in\.(input_ids|attention_mask|labels)|logits|logits\.bf16|final_norm|layer\d+)")


def main(source, destination):
    os.makedirs(destination, exist_ok=True)
    for name in os.listdir(source):
        if name.startswith(("config", "model")) or name == "generation_config.json":
            shutil.copyfile(os.path.join(source, name), os.path.join(destination, name))
    tensors = load_file(os.path.join(source, "reference.safetensors"))
    save_file({k: v for k, v in tensors.items() if KEEP.fullmatch(k)}, os.path.join(destination, "reference.safetensors"))
    with open(os.path.join(source, "reference.json"), encoding="utf-8") as f:
        reference = json.load(f)
    kept = {"loss": reference["loss"]["text"], "grad_norms": reference["grad_norms"]["text"], "versions": reference["versions"]}
    with open(os.path.join(destination, "reference.json"), "w", encoding="utf-8") as f:
        json.dump(kept, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
