#!/usr/bin/env python3
"""Writes tests/data/lora/{attention,transposed,experts}.safetensors: what peft makes of nn.MultiheadAttention, of transformers' Conv1D, whose
weight is [in, out], and of stacked parameters. lora_B is never zero.

  attention:   <variant>/{base.<parameter>, query, key, key_padding_mask, attn_mask, weight, output, attention, adapter.<key of peft's file>,
               grad.<the same>, merged.<parameter>}; key is the value too, the loss is (output * weight).sum(). peft adds the update of out_proj twice,
               the second time without a gradient: it gets half of that lora_B, and the gradient of its lora_A is doubled. What results is
               compared with the dense formula here
  transposed:  <variant>/{base.weight, base.bias, input, weight, output, adapter.*, grad.*, merged.weight, merged.bias}, pissa/{weight, A, B,
               residual}; cat/{<a or b>.<key of peft's file>, update}: 0.7 a - 0.4 b
  experts:     <stacked, transposed or single>_<variant>/{base.*, input, ids, weight, output, adapter.*, grad.*, merged.*}; expert 1 of 4 has no row
"""

import peft
import torch
from make_layer_goldens import VARIANTS, short, write
from torch import nn
from transformers.pytorch_utils import Conv1D


def holder(layer):
    model = nn.Module()
    model.layer = layer
    return model


def adapt(layer, generator, **values):
    adapted = peft.get_peft_model(holder(layer), peft.LoraConfig(r=4, lora_alpha=6, target_modules=["layer"], **values))
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if p.requires_grad:
                p.copy_(p + torch.randn(p.shape, generator=generator) * (0.2 if "magnitude" in name else 0.3))
    return adapted


def adapter(adapted):
    return {short(k): v.detach().clone() for k, v in peft.get_peft_model_state_dict(adapted).items()}


def gradients(adapted):
    in_file = lambda name: short(name).replace("vector.default.weight", "vector").replace(".default", "")
    return {in_file(name): p.grad for name, p in adapted.named_parameters() if p.grad is not None}


def attention_case(variant, generator):
    layer = nn.MultiheadAttention(12, 3)
    tensors = {"base." + k: v.detach().clone() for k, v in layer.named_parameters()}
    with torch.no_grad():
        for name in ("in_proj_bias", "out_proj.bias"):
            layer.get_parameter(name).copy_(torch.randn(layer.get_parameter(name).shape, generator=generator))
            tensors["base." + name] = layer.get_parameter(name).detach().clone()
    adapted = adapt(layer, generator, **VARIANTS[variant])
    once = adapter(adapted)
    with torch.no_grad():
        adapted.base_model.model.layer.base_layer.out_proj.lora_B["default"].weight.mul_(0.5)
    query, key = torch.randn(5, 2, 12, generator=generator), torch.randn(7, 2, 12, generator=generator)
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[1, 5:] = True
    mask = torch.randn(5, 7, generator=generator)
    output, attention = adapted.base_model.model.layer(query, key, key, key_padding_mask=padding.float().masked_fill(padding, float("-inf")), attn_mask=mask)
    weight = torch.randn(output.shape, generator=generator)
    (output * weight).sum().backward()
    grads = gradients(adapted)
    grads["base_layer.out_proj.lora_A.weight"] = grads["base_layer.out_proj.lora_A.weight"] * 2

    # The dense formula.
    scaling = 6 / (2 if variant == "rslora" else 4)
    leaves = {k: v.clone().requires_grad_() for k, v in once.items()}
    W = tensors["base.in_proj_weight"] + scaling * leaves["lora_B.weight"] @ leaves["lora_A.weight"]
    V = tensors["base.out_proj.weight"] + scaling * leaves["base_layer.out_proj.lora_B.weight"] @ leaves["base_layer.out_proj.lora_A.weight"]
    dense, _ = nn.functional.multi_head_attention_forward(
        query, key, key, 12, 3, W, tensors["base.in_proj_bias"], None, None, False, 0.0, V, tensors["base.out_proj.bias"],
        key_padding_mask=padding.float().masked_fill(padding, float("-inf")), attn_mask=mask,
    )  # fmt: skip
    (dense * weight).sum().backward()
    torch.testing.assert_close(output, dense, rtol=1e-5, atol=1e-5)
    for k, v in leaves.items():
        torch.testing.assert_close(grads[k], v.grad, rtol=1e-5, atol=1e-4)

    tensors |= {"query": query, "key": key, "key_padding_mask": padding.to(torch.uint8), "attn_mask": mask, "weight": weight}
    tensors |= {"output": output, "attention": attention}
    tensors |= {"adapter." + k: v for k, v in once.items()} | {"grad." + k: v for k, v in grads.items()}
    tensors |= {"merged." + k: v for k, v in adapted.merge_and_unload().layer.named_parameters()}
    return tensors


def transposed_layer(nx, nf, generator):
    layer = Conv1D(nf, nx)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return layer


def transposed_case(variant, generator):
    layer = transposed_layer(12, 10, generator)
    tensors = {"base." + k: v.detach().clone() for k, v in layer.named_parameters()}
    adapted = adapt(layer, generator, fan_in_fan_out=True, **VARIANTS[variant])
    tensors |= {"adapter." + k: v for k, v in adapter(adapted).items()}
    x = torch.randn(4, 3, 12, generator=generator)
    output = adapted.base_model.model.layer(x)
    weight = torch.randn(output.shape, generator=generator)
    (output * weight).sum().backward()
    tensors |= {"grad." + k: v for k, v in gradients(adapted).items()}
    tensors |= {"input": x, "weight": weight, "output": output}
    tensors |= {"merged." + k: v for k, v in adapted.merge_and_unload().layer.named_parameters()}
    return tensors


def transposed_pissa(generator):
    layer = transposed_layer(24, 18, generator)
    weight = layer.weight.detach().clone()
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["layer"], fan_in_fan_out=True, init_lora_weights="pissa")
    adapted = peft.get_peft_model(holder(layer), config).base_model.model.layer
    return {"weight": weight, "A": adapted.lora_A["default"].weight, "B": adapted.lora_B["default"].weight, "residual": adapted.base_layer.weight}


def transposed_combination(generator):
    layer = transposed_layer(12, 10, generator)
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["layer"], fan_in_fan_out=True)
    adapted = peft.get_peft_model(holder(layer), config, "a")
    adapted.add_adapter("b", config)
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn(p.shape, generator=generator))
    tensors = {f"{name}.{short(k)}": v for name in "ab" for k, v in peft.get_peft_model_state_dict(adapted, adapter_name=name).items()}
    adapted.add_weighted_adapter(["a", "b"], [0.7, -0.4], "cat", combination_type="cat")
    return tensors | {"update": adapted.base_model.model.layer.get_delta_weight("cat")}


class Experts(nn.Module):
    def __init__(self, experts, transposed):
        super().__init__()
        sizes = lambda *s: (s[0], s[2], s[1]) if transposed else s if experts > 1 else s[1:]
        self.is_transposed = transposed
        self.up_proj = nn.Parameter(torch.randn(sizes(experts, 10, 6)) * 0.4)
        self.scale = nn.Parameter(torch.ones(10))
        self.down_proj = nn.Parameter(torch.randn(sizes(experts, 7, 10)) * 0.4)

    def forward(self, x, ids):
        stack = lambda w: w.unsqueeze(0) if w.dim() == 2 else w.transpose(1, 2) if self.is_transposed else w
        up, down = stack(self.up_proj)[ids], stack(self.down_proj)[ids]
        h = torch.tanh(torch.einsum("toi,ti->to", up, x)) * self.scale
        return torch.einsum("toi,ti->to", down, h)


def experts_case(experts, transposed, variant, generator):
    layer = Experts(experts, transposed)
    tensors = {"base." + k: v.detach().clone() for k, v in layer.named_parameters()}
    config = peft.LoraConfig(r=2, lora_alpha=3, target_parameters=["layer.down_proj", "up_proj"], target_modules=[], **VARIANTS[variant])
    adapted = peft.get_peft_model(holder(layer), config)
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if p.requires_grad:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.4)
    tensors |= {"adapter." + k: v for k, v in adapter(adapted).items()}
    x, ids = torch.randn(9, 6, generator=generator), torch.tensor([3, 0, 2, 2, 0, 3, 3, 0, 2]) % experts
    output = adapted.base_model.model.layer(x, ids)
    weight = torch.randn(output.shape, generator=generator)
    (output * weight).sum().backward()
    tensors |= {"grad." + k: v for k, v in gradients(adapted).items()}
    tensors |= {"input": x, "ids": ids, "weight": weight, "output": output}
    return tensors | {"merged." + k: v for k, v in adapted.merge_and_unload().layer.named_parameters()}


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    write("attention.safetensors", {variant: attention_case(variant, generator) for variant in ("plain", "rslora")})
    cases = {variant: transposed_case(variant, generator) for variant in VARIANTS}
    write("transposed.safetensors", cases | {"pissa": transposed_pissa(generator), "cat": transposed_combination(generator)})
    experts = {"stacked": (4, False), "transposed": (4, True), "single": (1, False)}
    write("experts.safetensors", {
        f"{kind}_{variant}": experts_case(*arguments, variant, generator) for kind, arguments in experts.items() for variant in ("plain", "rslora")
    })  # fmt: skip


if __name__ == "__main__":
    main()
