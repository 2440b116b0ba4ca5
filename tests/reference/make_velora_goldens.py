#!/usr/bin/env python3
"""Writes tests/data/lora/velora.safetensors: two steps of peft's VeLoRA on a linear layer, each on an input of its own.

  <init_type>_<num_groups>/{base.weight, base.bias, drawn.lora_velora_embed (as seed 5 draws it), adapter.<key of peft's file>,
  <step>.{input, weight, output, embed, grad.A, grad.B, grad.x}}; the loss is (output * weight).sum()
"""
import os

import peft
import torch
from safetensors.torch import save_file
from torch import nn

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "lora")


def case(init_type, num_groups, generator):
    model = nn.Module()
    model.layer = nn.Linear(12, 10)
    tensors = {"base." + k: v.detach().clone() for k, v in model.layer.named_parameters()}
    velora = peft.VeloraConfig(num_groups=num_groups, scale=1.5, init_type=init_type)
    torch.manual_seed(5)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, target_modules=["layer"], velora_config=velora))
    layer = adapted.base_model.model.layer
    tensors["drawn.lora_velora_embed"] = layer.lora_velora_embed["default"].clone()
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        B.normal_(0, 0.3, generator=generator)
    prefix = "base_model.model.layer."
    tensors |= {"adapter." + k.removeprefix(prefix): v.clone() for k, v in peft.get_peft_model_state_dict(adapted).items()}
    for step in "01":
        x = torch.randn((4, 3, 12), generator=generator).add_(0.5).requires_grad_()
        output = layer(x)
        weight = torch.randn(output.shape, generator=generator)
        A.grad = B.grad = None
        (output * weight).sum().backward()
        values = {"input": x, "weight": weight, "output": output, "embed": layer.lora_velora_embed["default"],
                  "grad.A": A.grad, "grad.B": B.grad, "grad.x": x.grad}  # fmt: skip
        tensors |= {f"{step}.{k}": v.detach().clone() for k, v in values.items()}
    return tensors


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    cases = {f"{kind}_{groups}": case(kind, groups, generator)
             for kind in ("batch_average", "batch_average_once", "random") for groups in (4, 5)}  # fmt: skip
    save_file({f"{name}/{key}": value.contiguous() for name, values in cases.items() for key, value in values.items()},
              os.path.join(DATA, "velora.safetensors"))  # fmt: skip


if __name__ == "__main__":
    main()
