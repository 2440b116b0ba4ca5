#!/usr/bin/env python3
"""Writes tests/data/lora/optimizers.safetensors: what peft's optimizers make of a small fp64 model in five steps (bf16: of given gradients in three).

  <case>/{base.<parameter>, adapter.<key of peft's file>, ids, target, losses, trained.<key of peft's file>, trained.norm.<parameter>}
  lorafa_bf16/{A, B, grads [3, …], trained}: one layer of scaling 1.5

The loss is (output - target).square().mean(). LoRA-FA's projection runs in the parameters' dtype: peft's own switches to bf16 even for fp32.
"""
import os

import peft
import torch
from peft import optimizers
from safetensors.torch import save_file
from torch import nn

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "lora")
ALL, LINEAR = ["table", "up", "down"], ["up", "down"]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.up = nn.Linear(8, 16)
        self.norm = nn.LayerNorm(16)
        self.down = nn.Linear(16, 6)

    def forward(self, ids):
        return self.down(self.norm(torch.tanh(self.up(self.table(ids)))))


def loraplus(optimizer, lr, **kwargs):
    return lambda model: optimizers.create_loraplus_optimizer(
        model, optimizer, lr=lr, loraplus_lr_ratio=4, loraplus_weight_decay=0.1, loraplus_lr_embedding=0.03, **kwargs)  # fmt: skip


def lorafa(model):
    for parameter in model.base_model.model.norm.parameters():
        parameter.requires_grad_(True)
    return optimizers.create_lorafa_optimizer(model, r=4, lora_alpha=6, lr=0.02, weight_decay=0.1)


def riemannian(optimizer, lr, **kwargs):
    return lambda model: optimizers.create_riemannian_optimizer(model, optimizer, lr=lr, **kwargs)


CASES = {
    "loraplus_adamw": (ALL, {"use_dora": True}, loraplus(torch.optim.AdamW, 0.02, betas=(0.8, 0.9))),
    "loraplus_adam": (ALL, {}, loraplus(torch.optim.Adam, 0.02)),
    "loraplus_sgd": (LINEAR, {"lora_bias": True}, loraplus(torch.optim.SGD, 0.05, momentum=0.5, weight_decay=0.7)),
    "lorafa": (ALL, {"rank_pattern": {"up": 3}, "alpha_pattern": {"down": 5}, "use_rslora": True}, lorafa),
    "riemannian_adamw": (ALL, {"use_dora": True}, riemannian(torch.optim.AdamW, 0.02, weight_decay=0.1)),
    "riemannian_sgd": (ALL, {}, riemannian(torch.optim.SGD, 0.02, momentum=0.5, reg=0.1)),
}


def case(targets, config, make_optimizer, generator):
    model = Net().double()
    tensors = {"base." + k: v.detach().clone() for k, v in model.named_parameters()}
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets, **config))
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=generator).double() * 0.3)
    short = len("base_model.model.")
    tensors |= {"adapter." + k[short:]: v.clone() for k, v in peft.get_peft_model_state_dict(adapted).items()}
    ids = torch.randint(0, 20, (3, 5), generator=generator)
    target = torch.randn((3, 5, 6), generator=generator).double()
    optimizer, losses = make_optimizer(adapted), []
    for _ in range(5):
        optimizer.zero_grad()
        loss = (adapted(ids) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    tensors |= {"ids": ids, "target": target, "losses": torch.stack(losses)}
    tensors |= {"trained." + k[short:]: v for k, v in peft.get_peft_model_state_dict(adapted).items()}
    tensors |= {"trained.norm." + k: v for k, v in model.norm.named_parameters()}
    return tensors


def lorafa_bf16(generator):
    model = nn.Sequential(nn.Linear(24, 18, bias=False)).bfloat16()
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, target_modules=["0"]), autocast_adapter_dtype=False)
    layer = model[0]
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        B.normal_(0, 0.3, generator=generator)
    tensors = {"A": A.detach().clone(), "B": B.detach().clone(), "grads": torch.randn((3, *B.shape), generator=generator).bfloat16()}
    optimizer = optimizers.create_lorafa_optimizer(adapted, r=4, lora_alpha=6, lr=0.02, weight_decay=0.1)
    for grad in tensors["grads"]:
        B.grad = grad
        optimizer.step()
    return tensors | {"trained": B}


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    cases = {"lorafa_bf16": lorafa_bf16(generator)}
    optimizers.lorafa.is_bf16_available = lambda: False
    cases |= {name: case(*values, generator) for name, values in CASES.items()}
    tensors = {f"{name}/{key}": value.detach().clone().contiguous() for name, values in cases.items() for key, value in values.items()}
    save_file(tensors, os.path.join(DATA, "optimizers.safetensors"))


if __name__ == "__main__":
    main()
