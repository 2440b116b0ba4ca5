#!/usr/bin/env python3
"""Writes tests/data/lora/replication: an adapter by peft with layer_replication, on the net of tests/model/replicate_test.cpp.

  adapter_config.json, adapter_model.safetensors   as peft saves them, nothing in them zero
  reference.safetensors   base.<name> of the model, x, base_output of the model as it was, output and disabled_output of the adapted one
"""
import os
import shutil

import peft
import torch
from replicated_net import Net
from safetensors.torch import save_file

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "lora", "replication")


def main():
    shutil.rmtree(DATA, ignore_errors=True)
    torch.manual_seed(0)
    net = Net()
    x = torch.randn(5, 6)
    tensors = {"base." + k: v.detach().clone() for k, v in net.named_parameters()}
    tensors |= {"x": x, "base_output": net(x).detach()}
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=["up", "down"], layer_replication=[[0, 3], [1, 4]])
    model = peft.PeftModel(net, config)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape) * 0.3)
        tensors["output"] = net(x)
        with model.disable_adapter():
            tensors["disabled_output"] = net(x)
    model.save_pretrained(DATA)
    os.remove(os.path.join(DATA, "README.md"))
    save_file({k: v.contiguous() for k, v in tensors.items()}, os.path.join(DATA, "reference.safetensors"))


if __name__ == "__main__":
    main()
