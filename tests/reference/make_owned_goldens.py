#!/usr/bin/env python3
"""Writes tests/data/lora/owned: adapters by peft that have tensors of the base model of their own (modules_to_save, bias, a saved table).

  <case>/adapter_config.json, adapter_model.safetensors   as peft saves them, nothing in them zero
  reference.safetensors   base.<name> of the model, ids, base.output, and of each case <case>.output and <case>.grad.<key of the file>; the
                          loss is output.square().sum()
"""
import os
import shutil

import peft
import small_net
import torch
from safetensors.torch import save_file

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "lora", "owned")
CASES = {
    "modules_to_save": {"target_modules": ["up"], "modules_to_save": ["head", "norm"]},
    "bias_all": {"target_modules": ["up"], "bias": "all"},
    "bias_lora_only": {"target_modules": ["up"], "bias": "lora_only"},
    "bias_and_modules": {"target_modules": ["up"], "bias": "all", "modules_to_save": ["head"]},
    "token_classification": {"target_modules": ["up"], "task_type": "TOKEN_CLS"},
    "saved_table": {"target_modules": ["embed_tokens"]},
}


class Net(small_net.Net):
    """One whose embedding table peft saves when it is targeted."""

    def __init__(self):
        super().__init__()
        self.config = {"model_type": "custom", "tie_word_embeddings": False}

    def get_input_embeddings(self):
        return self.embed_tokens

    def get_output_embeddings(self):
        return None

    def prepare_inputs_for_generation(self):
        pass


def case(name, values, ids, tensors):
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, lora_alpha=3, **values)
    inner = Net()
    model = peft.PeftModel(inner, config) if "task_type" not in values else peft.get_peft_model(inner, config)
    generator = torch.Generator().manual_seed(len(name))
    with torch.no_grad():
        if name == "saved_table":  # as after a resize of the vocabulary
            inner.embed_tokens.base_layer.weight.mul_(1.5)
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=generator) * 0.3)
    output = model.base_model.model(ids)
    output.square().sum().backward()
    folder = os.path.join(DATA, name)
    model.save_pretrained(folder)
    os.remove(os.path.join(folder, "README.md"))
    by_id = {id(p): p.grad for p in model.parameters()}
    state = {k: v for k, v in model.state_dict(keep_vars=True).items() if by_id.get(id(v)) is not None}
    for k, v in peft.get_peft_model_state_dict(model, state_dict=state).items():
        tensors[f"{name}.grad.{k}"] = by_id[id(v)].clone()
    tensors[f"{name}.output"] = output.detach()


def main():
    shutil.rmtree(DATA, ignore_errors=True)
    os.makedirs(DATA)
    torch.manual_seed(0)
    net = Net()
    ids = torch.randint(0, 12, (3, 5), generator=torch.Generator().manual_seed(1))
    tensors = {"base." + k: v.detach().clone() for k, v in net.named_parameters()}
    tensors |= {"ids": ids, "base.output": net(ids).detach()}
    for name, values in CASES.items():
        case(name, values, ids, tensors)
    save_file({k: v.contiguous() for k, v in tensors.items()}, os.path.join(DATA, "reference.safetensors"))


if __name__ == "__main__":
    main()
