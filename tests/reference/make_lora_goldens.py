#!/usr/bin/env python3
"""Writes tests/data/lora: what peft makes of Gemma 4's own clipped layers and of plain linear layers. lora_B is never zero.

  vision_attention/  the vision tower's attention of layer 0 of tests/data/tiny/E2B, adapted at the inner `.linear`s of q, k, v and o
  mlp/               two linear layers with rsLoRA, rank_pattern and alpha_pattern
each: golden.safetensors (inputs, outputs, gradients, merged weights) and adapter/ (the files that peft saves)
"""
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import peft
import torch
from safetensors.torch import save_file
from transformers import Gemma4ForConditionalGeneration

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(HERE, "..", "data")


def fill_b(model, generator):
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if "lora_B" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.1)


def gradients(model):
    return {"grad." + n.replace(".default.weight", ".weight"): p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def merged_weights(model):
    model.merge_adapter()
    return {"merged." + n: p.detach().clone() for n, p in model.named_parameters() if "base_layer" in n and n.endswith("weight")}


def vision_attention(generator):
    out = os.path.join(DATA, "lora", "vision_attention")
    model = Gemma4ForConditionalGeneration.from_pretrained(os.path.join(DATA, "tiny", "E2B"), dtype=torch.float32, attn_implementation="eager")
    tower = model.model.vision_tower
    attention = tower.encoder.layers[0].self_attn
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=[f"{p}_proj.linear" for p in "qkvo"])
    adapted = peft.get_peft_model(attention, config)
    fill_b(adapted, generator)
    adapted.save_pretrained(os.path.join(out, "adapter"))
    side = 6
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    position_ids = torch.stack([x.flatten(), y.flatten()], -1)[None]
    hidden = torch.randn(1, side * side, attention.config.hidden_size, generator=generator)
    cos, sin = tower.encoder.rotary_emb(hidden, position_ids)
    weight = torch.randn(hidden.shape, generator=generator)
    output = attention(hidden, position_embeddings=(cos, sin), position_ids=position_ids)[0]
    (output * weight).sum().backward()
    save_file({"hidden": hidden, "cos": cos.contiguous(), "sin": sin.contiguous(), "weight": weight, "output": output.detach().contiguous(), **gradients(adapted), **merged_weights(adapted)},
              os.path.join(out, "golden.safetensors"))


def mlp(generator):
    out = os.path.join(DATA, "lora", "mlp")
    model = torch.nn.Sequential()
    model.add_module("up", torch.nn.Linear(12, 20))
    model.add_module("act", torch.nn.Tanh())
    model.add_module("down", torch.nn.Linear(20, 6, bias=False))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    base = {k: v.clone() for k, v in model.state_dict().items()}
    config = peft.LoraConfig(r=4, lora_alpha=8, use_rslora=True, target_modules=["up", "down"], rank_pattern={"down": 2}, alpha_pattern={"^up": 5})
    adapted = peft.get_peft_model(model, config)
    fill_b(adapted, generator)
    adapted.save_pretrained(os.path.join(out, "adapter"))
    x = torch.randn(5, 12, generator=generator)
    output = adapted(x)
    output.square().sum().backward()
    save_file({"x": x, "output": output.detach(), **{"base." + k: v for k, v in base.items()}, **gradients(adapted), **merged_weights(adapted)},
              os.path.join(out, "golden.safetensors"))


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    vision_attention(torch.Generator().manual_seed(1))
    mlp(torch.Generator().manual_seed(2))
    for root, _, files in os.walk(os.path.join(DATA, "lora")):
        for name in files:
            if name == "README.md":
                os.remove(os.path.join(root, name))


if __name__ == "__main__":
    main()
