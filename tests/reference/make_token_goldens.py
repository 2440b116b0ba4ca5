#!/usr/bin/env python3
"""Writes tests/data/lora/tokens: adapters by peft with trainable_token_indices.

  <case>/adapter_config.json, adapter_model.safetensors   as peft saves them, nothing in them zero
  reference.safetensors   base.<name> of the model, ids, and of each case <case>.base (its output without the adapter), <case>.output,
                          <case>.merged.<name> (the weights that a merge changes) and <case>.grad.<key of the file>; the loss is
                          output.square().sum()
"""
import os
import shutil

import peft
import torch
from safetensors.torch import save_file
from torch import nn

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "lora", "tokens")
SCALE = 1.7


class ScaledEmbedding(nn.Embedding):
    """As Gemma has it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_buffer("embed_scale", torch.tensor(SCALE), persistent=False)

    def forward(self, ids):
        return super().forward(ids) * self.embed_scale


class Net(nn.Module):
    def __init__(self, tied, table=nn.Embedding, **options):
        super().__init__()
        self.embed_tokens = table(12, 6, **options)
        self.up = nn.Linear(6, 6)
        self.lm_head = nn.Linear(6, 12, bias=False)
        if tied:
            self.lm_head.weight = self.embed_tokens.weight
        self.config = {"model_type": "custom", "tie_word_embeddings": tied}
        self._tied_weights_keys = {"lm_head.weight": "embed_tokens.weight"} if tied else None

    def get_input_embeddings(self):
        return self.embed_tokens

    def get_output_embeddings(self):
        return self.lm_head

    def prepare_inputs_for_generation(self):
        pass

    def forward(self, ids):
        return self.lm_head(torch.tanh(self.up(self.embed_tokens(ids))))


# model, trainable_token_indices
CASES = {
    "list": ({"tied": False}, [5, 1, 9]),
    "tied": ({"tied": True}, {"embed_tokens": [1, 5, 9]}),
    "both_names": ({"tied": True}, {"embed_tokens": [7, 2], "lm_head": [7, 2]}),
    "two": ({"tied": False}, {"embed_tokens": [1, 5, 9], "lm_head": [8, 5]}),
    "scaled": ({"tied": True, "table": ScaledEmbedding}, [1, 5, 9]),
    "options": ({"tied": False, "padding_idx": 5, "max_norm": 1.5, "scale_grad_by_freq": True}, [1, 5, 9]),
    "saved_table": ({"tied": False}, [1, 5, 9]),
}


def case(name, net, indices, base, ids, tensors):
    torch.manual_seed(0)
    inner = Net(**net)
    with torch.no_grad():
        for key, p in inner.named_parameters():
            p.copy_(base[key])
        tensors[f"{name}.base"] = inner(ids).clone()
        for key, p in inner.named_parameters():  # max_norm writes
            p.copy_(base[key])
    model = peft.get_peft_model(inner, peft.LoraConfig(r=2, lora_alpha=3, target_modules=["up"], trainable_token_indices=indices))
    generator = torch.Generator().manual_seed(len(name))
    with torch.no_grad():
        if name == "saved_table":  # as after a resize of the vocabulary
            inner.embed_tokens.token_adapter.base_layer.weight.mul_(1.5)
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=generator) * 0.3)
    folder = os.path.join(DATA, name)
    model.save_pretrained(folder, save_embedding_layers=name == "saved_table")
    os.remove(os.path.join(folder, "README.md"))
    output = inner(ids)
    output.square().sum().backward()
    by_id = {id(p): p.grad for p in model.parameters()}
    state = {k: v for k, v in model.state_dict(keep_vars=True).items() if by_id.get(id(v)) is not None}
    grads = {k: by_id[id(v)] for k, v in state.items()}
    for k, v in peft.get_peft_model_state_dict(model, state_dict=grads, save_embedding_layers=False).items():
        tensors[f"{name}.grad.{k}"] = v.clone()
    tensors[f"{name}.output"] = output.detach()
    merged = model.merge_and_unload()
    for key, p in merged.named_parameters():
        if key.endswith("weight"):
            tensors[f"{name}.merged.{key}"] = p.detach().clone()


def main():
    shutil.rmtree(DATA, ignore_errors=True)
    os.makedirs(DATA)
    torch.manual_seed(0)
    base = {k: p.detach().clone() for k, p in Net(False).named_parameters()}
    ids = torch.tensor([[1, 2, 5, 3, 1], [9, 0, 5, 5, 7], [8, 9, 4, 11, 1]])
    tensors = {"base." + k: v for k, v in base.items()} | {"ids": ids}
    for name, (net, indices) in CASES.items():
        case(name, net, indices, base, ids, tensors)
    save_file({k: v.contiguous() for k, v in tensors.items()}, os.path.join(DATA, "reference.safetensors"))


if __name__ == "__main__":
    main()
