#!/usr/bin/env python3
"""Writes tests/data/lora/{layers,initializers,combinations}.safetensors: what peft makes of every layer type in every variant, of every
initializer that needs no data, and of every weighted combination. lora_B is never zero.

  layers:        <type>/<variant>/{base.weight, base.bias, input, weight, output, merged.weight, merged.bias, adapter.<key of peft's file>,
                 grad.<the same>}; the loss is (output * weight).sum()
  initializers:  <name>/{weight, A, B, residual}; r 4, lora_alpha 6
  combinations:  adapters/<a or b>.<key of peft's file>, and <type>/<layer>: the update of the combination 0.7 a - 0.4 b of density 0.6 under
                 seed 9
"""
import os

import peft
import torch
from safetensors.torch import save_file
from torch import nn

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "lora")
TYPES = {
    "linear": (lambda: nn.Linear(12, 10), (4, 3, 12)),
    "embedding": (lambda: nn.Embedding(20, 8, padding_idx=3), None),
    "conv1d": (lambda: nn.Conv1d(3, 6, 3, stride=2, padding=1), (2, 3, 11)),
    "conv2d": (lambda: nn.Conv2d(3, 6, (3, 2), stride=(1, 2), padding=(1, 0)), (2, 3, 6, 7)),
    "conv3d": (lambda: nn.Conv3d(2, 4, (2, 3, 2), padding=(0, 1, 0)), (2, 2, 4, 5, 4)),
}
VARIANTS = {"plain": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True}, "lora_bias": {"lora_bias": True}}


def short(name):
    return name.removeprefix("base_model.model.layer.")


def layer_case(make, shape, variant, generator):
    model = nn.Module()
    model.layer = make()
    tensors = {"base." + k: v.detach().clone() for k, v in model.layer.named_parameters()}
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, target_modules=["layer"], **VARIANTS[variant]))
    layer = adapted.base_model.model.layer
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if p.requires_grad:
                p.copy_(p + torch.randn(p.shape, generator=generator) * (0.2 if "magnitude" in name else 0.3))
    tensors |= {"adapter." + short(k): v for k, v in peft.get_peft_model_state_dict(adapted).items()}
    x = torch.randint(0, 20, (4, 5), generator=generator) if shape is None else torch.randn(shape, generator=generator)
    output = layer(x)
    weight = torch.randn(output.shape, generator=generator)
    (output * weight).sum().backward()
    by_id = {id(p): p.grad for p in adapted.parameters()}
    state = {k: v for k, v in adapted.state_dict(keep_vars=True).items() if by_id.get(id(v)) is not None}
    for k, v in peft.get_peft_model_state_dict(adapted, state_dict=state).items():
        tensors["grad." + short(k)] = by_id[id(v)]
    tensors |= {"input": x, "weight": weight, "output": output}
    adapted.merge_adapter()
    tensors |= {"merged." + k: v for k, v in layer.get_base_layer().named_parameters()}
    return tensors


def initializer_case(name, generator):
    model = nn.Module()
    model.layer = nn.Linear(24, 18, bias=False)
    weight = model.layer.weight.detach().clone()
    torch.manual_seed(5)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, target_modules=["layer"], init_lora_weights=name))
    layer = adapted.base_model.model.layer
    return {"weight": weight, "A": layer.lora_A["default"].weight, "B": layer.lora_B["default"].weight, "residual": layer.base_layer.weight}


COMBINATIONS = ["cat", "svd", "linear", "magnitude_prune", "ties", "dare_linear", "dare_ties", "magnitude_prune_svd", "ties_svd",
                "dare_linear_svd", "dare_ties_svd"]  # fmt: skip


def combination_cases(generator):
    model = nn.Module()
    model.table, model.up = nn.Embedding(20, 8), nn.Linear(12, 10)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, target_modules=["table", "up"]), "a")
    adapted.add_adapter("b", peft.LoraConfig(r=4, lora_alpha=3, target_modules=["table", "up"]))
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn(p.shape, generator=generator))
    cases = {"adapters": {f"{name}.{k.removeprefix('base_model.model.')}": v for name in "ab"
                          for k, v in peft.get_peft_model_state_dict(adapted, adapter_name=name).items()}}  # fmt: skip
    for kind in COMBINATIONS:
        torch.manual_seed(9)
        adapted.add_weighted_adapter(["a", "b"], [0.7, -0.4], kind, combination_type=kind, density=0.6)
        cases[kind] = {layer: getattr(adapted.base_model.model, layer).get_delta_weight(kind) for layer in ("table", "up")}
    return cases


def write(name, cases):
    tensors = {f"{case}/{key}": value.detach().clone().contiguous() for case, values in cases.items() for key, value in values.items()}
    save_file(tensors, os.path.join(DATA, name))


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    write("layers.safetensors", {
        f"{kind}/{variant}": layer_case(make, shape, variant, generator)
        for kind, (make, shape) in TYPES.items() for variant in VARIANTS if (kind, variant) != ("embedding", "lora_bias")
    })  # fmt: skip
    write("initializers.safetensors", {name: initializer_case(name, generator) for name in ("olora", "pissa", "pissa_niter_4", "orthogonal", "mica")})
    write("combinations.safetensors", combination_cases(generator))


if __name__ == "__main__":
    main()
