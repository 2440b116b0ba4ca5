#!/usr/bin/env python3
"""Writes tests/data/lora/data_initializers.safetensors: what peft makes of the initializers that need data or a quantizer.

  <case>/{weight, A, B, residual}: r 4, lora_alpha 6 (loftq: 4, as peft forgets the scaling), seed 5 before the adapter is made
  corda_<method>/inputs: the inputs [forward, row, feature] of preprocess_corda
  lora_ga/inputs, targets: the batches of preprocess_loraga; the loss of a step is the mean squared error
  eva_batches/<i>: the batches, over and over; eva/<layer>.{weight, bias, A, lora_alpha} of a model whose layers a and b have the same input;
    those with whitening are of layers that share none, as peft whitens shared components again for each layer

loftq needs bitsandbytes, of which peft's loftq_init takes the GPU path only: its loop is repeated here with bitsandbytes 0.50.2's CPU path
(`pip install bitsandbytes==0.50.2`) and peft's own decomposition. The 8-bit weight is one of fp16, as bitsandbytes rounds to that first.
"""

import os

import bitsandbytes.functional as bnb
import peft
import torch
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.loraga import preprocess_loraga
from peft.utils.loftq_utils import _low_rank_decomposition
from safetensors.torch import save_file
from torch import nn

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "lora")


def linear_model():
    model = nn.Module()
    model.layer = nn.Linear(24, 18, bias=False)
    model.forward = lambda x: model.layer(x)
    return model


def adapted_case(model, config):
    weight = model.layer.weight.detach().clone()
    torch.manual_seed(5)
    adapted = peft.get_peft_model(model, config)
    layer = adapted.base_model.model.layer
    return {"weight": weight, "A": layer.lora_A["default"].weight, "B": layer.lora_B["default"].weight, "residual": layer.base_layer.weight}


def config_of(name, **values):
    return peft.LoraConfig(r=4, lora_alpha=6, target_modules=["layer"], init_lora_weights=name, **values)


def corda_case(method, generator):
    model = linear_model()
    inputs = torch.randn(3, 50, 24, generator=generator) * torch.linspace(0.3, 2, 24)
    config = config_of("corda", corda_config=peft.tuners.lora.config.CordaConfig(corda_method=method))
    preprocess_corda(model, config, run_model=lambda: [model.layer(x) for x in inputs])
    return {"inputs": inputs, **adapted_case(model, config)}


def lora_ga_case(direction, scale, generator):
    model = linear_model()
    inputs, targets = torch.randn(3, 40, 24, generator=generator), torch.randn(3, 40, 18, generator=generator)
    config = config_of("lora_ga", lora_ga_config=peft.LoraGAConfig(direction=direction, scale=scale, stable_gamma=9))

    def train_step():
        for x, target in zip(inputs, targets):
            (model.layer(x) - target).square().mean().backward()

    preprocess_loraga(model, config, train_step)
    return {"inputs": inputs, "targets": targets, **adapted_case(model, config)}


def quantize(weight, bits):
    if bits == 4:
        return bnb.dequantize_4bit(*bnb.quantize_4bit(weight, compress_statistics=False, quant_type="nf4"))
    values, scale, _ = bnb.int8_vectorwise_quant(weight.half())
    return bnb.int8_vectorwise_dequant(values, scale)


def loftq_case(bits, iterations, generator):
    weight = torch.randn(18, 24, generator=generator).half().float()
    rest = weight
    for _ in range(iterations):
        Q = quantize(rest, bits).float()
        found = _low_rank_decomposition(weight - Q, reduced_rank=4)
        rest = weight - found["L"] @ found["R"]
    return {"weight": weight, "A": found["R"], "B": found["L"], "residual": Q}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(16, 12), nn.Linear(16, 8), nn.Linear(12, 10), nn.Linear(20, 6)

    def forward(self, x):
        left, right = x[:, :16].contiguous(), x[:, 16:].contiguous()
        return self.c(torch.tanh(self.a(left))), self.b(left), self.d(right)


def eva_batches(generator):
    mixing = torch.randn(16, 16, generator=generator) * (torch.arange(16) < 5).unsqueeze(1)
    return [torch.cat([torch.randn(32, 16, generator=generator) @ mixing, torch.randn(32, 20, generator=generator)], 1) for _ in range(6)]


def eva_case(targets, whiten, batches):
    torch.manual_seed(8)
    model = Net()
    case = {f"{name}": p.detach().clone() for name, p in model.named_parameters()}
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=targets, init_lora_weights="eva",
                             eva_config=peft.EvaConfig(rho=2.0, tau=0.9, whiten=whiten))  # fmt: skip
    adapted = peft.get_peft_model(model, config)
    peft.initialize_lora_eva_weights(adapted, dataloader=batches, forward_fn=lambda model, x: model(x), prepare_model_inputs_fn=None,
                                     prepare_layer_inputs_fn=None, show_progress_bar=False)  # fmt: skip
    for name in targets:
        layer = getattr(adapted.base_model.model, name)
        if hasattr(layer, "lora_A"):
            case[name + ".A"] = layer.lora_A["default"].weight
            case[name + ".lora_alpha"] = torch.tensor(float(adapted.peft_config["default"].alpha_pattern.get(name, 6)))
    return case


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    cases = {f"corda_{method}": corda_case(method, generator) for method in ("ipm", "kpm")}
    for direction, scale in (("ArB2r", "stable"), ("A2rBr", "weight_svd"), ("ArBr", "gd_scale"), ("random", "unit")):
        cases[f"lora_ga_{direction}_{scale}"] = lora_ga_case(direction, scale, generator)
    for bits, iterations in ((4, 1), (4, 3), (8, 1)):
        cases[f"loftq_{bits}_{iterations}"] = loftq_case(bits, iterations, generator)
    batches = eva_batches(generator)
    cases["eva_batches"] = {str(i): batch for i, batch in enumerate(batches)}
    cases["eva"] = eva_case(["a", "b", "c", "d"], False, batches)
    cases["eva_whiten"] = eva_case(["a", "c"], True, batches)
    tensors = {f"{case}/{key}": value.detach().clone().contiguous() for case, values in cases.items() for key, value in values.items()}
    save_file(tensors, os.path.join(DATA, "data_initializers.safetensors"))


if __name__ == "__main__":
    main()
