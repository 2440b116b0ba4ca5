#!/usr/bin/env python3
"""Writes tests/data/lora/intruders.safetensors: what peft's reduce_intruder_dimension makes of two linear layers.

  base.<parameter>, adapter.<key of peft's file>, count.<layer>: how many intruders it found, update.<layer>: the new adapter's update
"""
import os

import peft
import torch
from peft.tuners.lora.intruders import reduce_intruder_dimension
from safetensors.torch import save_file
from torch import nn

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "lora")


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Module()
    model.up, model.down = nn.Linear(20, 24), nn.Linear(24, 16)
    with torch.no_grad():
        for layer in (model.up, model.down):
            U, S, Vh = torch.linalg.svd(layer.weight, full_matrices=False)
            layer.weight.copy_(U * (3 / torch.arange(1, len(S) + 1).float()) @ Vh)
    tensors = {"base." + k: v.detach().clone() for k, v in model.named_parameters()}
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["up", "down"], alpha_pattern={"down": 5})
    adapted = peft.get_peft_model(model, config)
    scales = {"up": 0.35, "down": 0.02}
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn(p.shape) * scales["up" if ".up." in name else "down"])
    tensors |= {"adapter." + k.removeprefix("base_model.model."): v.clone() for k, v in peft.get_peft_model_state_dict(adapted).items()}
    lines = []
    reduce_intruder_dimension(adapted, top_k=6, threshold_epsilon=0.6, mitigation_lambda=0.4, logging_sink=lines.append)
    print(*lines, sep="\n")
    for line in lines[:-1]:
        name, found = line.removeprefix("base_model.model.").split(": ", 1)
        tensors["count." + name] = torch.tensor(0 if found == "No intruders" else int(found.split()[-1]))
        tensors["update." + name] = getattr(model, name).get_delta_weight("intruder_reduced").detach()
    save_file({k: v.contiguous() for k, v in tensors.items()}, os.path.join(DATA, "intruders.safetensors"))


if __name__ == "__main__":
    main()
