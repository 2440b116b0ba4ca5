#!/usr/bin/env python3
"""Seconds of each initializer on a weight of 2048 x 2048, r 16, in peft and in torchlora, in one run: best of three (slow ones: of one).
Those that need data get two batches of 2560 rows, and their preprocessing counts. peft's loftq needs a GPU: its decomposition of the rest alone is timed.
Two weights: singular values that fall as k^-1/2, and all equal to 1 but for a slope of 1e-3.

  bench/initializers.py INIT_BENCH
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import peft
import torch
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.loraga import preprocess_loraga
from peft.utils.loftq_utils import _low_rank_decomposition
from safetensors.torch import save_file

NAMES = [True, "gaussian", "orthogonal", "olora", "pissa", "pissa_niter_16", "mica", "corda", "corda_kpm", "lora_ga", "loftq", "eva"]
ROWS = 2560


def config_of(name):
    nested = {}
    if name == "corda_kpm":
        nested["corda_config"], name = {"corda_method": "kpm"}, "corda"
    elif name == "corda":
        nested["corda_config"] = {"corda_method": "ipm"}
    elif name == "lora_ga":
        nested["lora_ga_config"] = peft.LoraGAConfig()
    elif name == "eva":
        nested["eva_config"] = peft.EvaConfig(tau=0)
    return peft.LoraConfig(r=16, target_modules=["layer"], init_lora_weights=name, **nested)


def initialize(model, name, inputs):
    if name == "loftq":
        weight = model.layer.weight.detach()
        _low_rank_decomposition(weight - (weight * 20).round() / 20, reduced_rank=16)
        return
    config = config_of(name)
    if config.init_lora_weights == "corda":
        preprocess_corda(model, config, run_model=lambda: [model.layer(x) for x in inputs])
    elif name == "lora_ga":
        preprocess_loraga(model, config, lambda: [model.layer(x).square().mean().backward() for x in inputs])
    adapted = peft.get_peft_model(model, config)
    if name == "eva":
        peft.initialize_lora_eva_weights(adapted, dataloader=list(inputs), forward_fn=lambda model, x: model.base_model.model.layer(x),
                                         prepare_model_inputs_fn=None, prepare_layer_inputs_fn=None, show_progress_bar=False)  # fmt: skip


def seconds(weight, inputs, name):
    best = float("inf")
    for i in range(3):
        if i > 0 and best > 1:
            break
        model = torch.nn.Module()
        model.layer = torch.nn.Linear(*reversed(weight.shape), bias=False)
        model.layer.weight.data = weight.clone()
        began = time.perf_counter()
        initialize(model, name, inputs)
        best = min(best, time.perf_counter() - began)
    return best


def main():
    torch.manual_seed(0)
    torch.set_num_threads(2)
    size = 2048
    U, V = (torch.linalg.qr(torch.randn(size, size)).Q for _ in range(2))
    inputs = torch.randn(2, ROWS, size) @ ((U * torch.arange(1, size + 1) ** -0.5) @ V)
    k = torch.arange(1, size + 1, dtype=torch.float32)
    for title, values in {"k^-1/2": k**-0.5, "flat": 1 - 1e-3 * k / size}.items():
        weight = (U * values) @ V
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "weight.safetensors"
            save_file({"weight": weight, "inputs": inputs}, path)
            lines = subprocess.run([sys.argv[1], path], check=True, capture_output=True, text=True).stdout.splitlines()
        ours = {name: float(value) for name, value in map(str.split, lines)}
        print(f"\ninitializers, singular values {title}\n{'':16}{'peft, ms':>10}{'torchlora, ms':>15}{'times':>8}")
        for name in NAMES:
            mine, theirs = ours[str(name).lower()], seconds(weight, inputs, name)
            print(f"{str(name).lower():16}{theirs * 1e3:10.1f}{mine * 1e3:15.1f}{theirs / mine:8.1f}")


if __name__ == "__main__":
    main()
