#!/usr/bin/env python3
"""Seconds of each initialiser on a weight of 2048 x 2048, r 16, in peft and in torchlora, in one run: best of three (peft's slow ones: of one).
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
from safetensors.torch import save_file

NAMES = [True, "gaussian", "orthogonal", "olora", "pissa", "pissa_niter_16", "mica"]


def seconds(weight, name):
    best, slow = float("inf"), name in ("pissa", "mica")
    for _ in range(1 if slow else 3):
        model = torch.nn.Module()
        model.layer = torch.nn.Linear(*reversed(weight.shape), bias=False)
        model.layer.weight.data = weight.clone()
        began = time.perf_counter()
        peft.get_peft_model(model, peft.LoraConfig(r=16, target_modules=["layer"], init_lora_weights=name))
        best = min(best, time.perf_counter() - began)
    return best


def main():
    torch.manual_seed(0)
    torch.set_num_threads(2)
    size = 2048
    U, V = (torch.linalg.qr(torch.randn(size, size)).Q for _ in range(2))
    k = torch.arange(1, size + 1, dtype=torch.float32)
    for title, values in {"k^-1/2": k**-0.5, "flat": 1 - 1e-3 * k / size}.items():
        weight = (U * values) @ V
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "weight.safetensors"
            save_file({"weight": weight}, path)
            lines = subprocess.run([sys.argv[1], path], check=True, capture_output=True, text=True).stdout.splitlines()
        ours = {name: float(value) for name, value in map(str.split, lines)}
        print(f"\ninitialisers, singular values {title}\n{'':16}{'peft, ms':>10}{'torchlora, ms':>15}{'times':>8}")
        for name in NAMES:
            mine, theirs = ours[str(name).lower()], seconds(weight, name)
            print(f"{str(name).lower():16}{theirs * 1e3:10.1f}{mine * 1e3:15.1f}{theirs / mine:8.1f}")


if __name__ == "__main__":
    main()
