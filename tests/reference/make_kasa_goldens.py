#!/usr/bin/env python3
"""Writes tests/data/lora/kasa: peft's KaSA on two linear layers and on the same layers in bf16.

  <case>/adapter_config.json, adapter_model.safetensors   as peft saves them before the first step, lora_B not zero
  reference.safetensors, of each case:
    <case>.base.<name>                  the weights before the adapter; the layers are `up` and `down`
    <case>.truncated.<layer>            the base weights that KaSA leaves
    <case>.<step>.{input, weight, output, loss, kasa_loss, grad.x, grad.<key of the file>}   each on an input of its own; the loss is
                                        (output * weight).mean() + kasa_loss, followed by p -= 0.2 grad
    <case>.trained.<key of the file>    after three steps
    <case>.merged.<layer>, <case>.unmerged.<layer>
"""
import os
import shutil

import peft
import torch
from safetensors.torch import save_file
from torch import nn

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "lora", "kasa")
CASES = {
    "plain": {},
    "options": {"use_rslora": True, "lora_bias": True, "alpha_pattern": {"up": 9}},
    "bf16": {},
}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(12, 16)
        self.down = nn.Linear(16, 10)

    def forward(self, x):
        return self.down(torch.tanh(self.up(x)))


def file_tensors(model):
    return {k.removeprefix("base_model.model."): v.detach().clone() for k, v in peft.get_peft_model_state_dict(model).items()}


def base_weights(model):
    return {k.split(".")[2]: v.detach().clone() for k, v in model.named_parameters() if k.endswith("base_layer.weight")}


def fill_b(model, generator):
    with torch.no_grad():
        for k, p in sorted(model.named_parameters()):
            if "lora_B" in k:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.3)


def case(name, values):
    torch.manual_seed(len(name))
    generator = torch.Generator().manual_seed(len(name))
    dtype = torch.bfloat16 if name == "bf16" else torch.float32
    net = Net().to(dtype)
    tensors = {"base." + k: v.detach().clone() for k, v in net.named_parameters()}
    kasa = peft.KasaConfig(beta=0.02, gamma=0.03)
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["up", "down"], rank_pattern={"down": 3}, kasa_config=kasa, **values)
    model = peft.get_peft_model(net, config)
    fill_b(model, generator)
    model.save_pretrained(os.path.join(DATA, name))
    os.remove(os.path.join(DATA, name, "README.md"))
    tensors |= {"truncated." + k: v for k, v in base_weights(model).items()}
    trained = {k.replace(".default", "").removeprefix("base_model.model."): p for k, p in model.named_parameters() if p.requires_grad}
    for step in "012":
        x = torch.randn((3, 5, 12), generator=generator).to(dtype).requires_grad_()
        output = model(x)
        weight = torch.randn(output.shape, generator=generator).to(dtype)
        kasa_loss = model.base_model._get_kasa_loss()
        loss = (output * weight).mean() + kasa_loss
        for p in model.parameters():
            p.grad = None
        loss.backward()
        tensors |= {f"{step}.{k}": v.detach().clone() for k, v in
                    {"input": x, "weight": weight, "output": output, "loss": loss, "kasa_loss": kasa_loss, "grad.x": x.grad}.items()}  # fmt: skip
        tensors |= {f"{step}.grad.{k}": p.grad.clone() for k, p in trained.items()}
        with torch.no_grad():
            for p in trained.values():
                p -= 0.2 * p.grad
    tensors |= {"trained." + k: v for k, v in file_tensors(model).items()}
    model.merge_adapter()
    tensors |= {"merged." + k: v for k, v in base_weights(model).items()}
    model.unmerge_adapter()
    tensors |= {"unmerged." + k: v for k, v in base_weights(model).items()}
    return tensors


def main():
    torch.set_num_threads(1)
    shutil.rmtree(DATA, ignore_errors=True)
    os.makedirs(DATA)
    tensors = {f"{name}.{k}": v.contiguous() for name, values in CASES.items() for k, v in case(name, values).items()}
    save_file(tensors, os.path.join(DATA, "reference.safetensors"))


if __name__ == "__main__":
    main()
