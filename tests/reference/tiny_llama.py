"""Tiny Llamas of transformers with random weights, adapters of peft for them, and peft's training steps."""

import json
from pathlib import Path

import trl_common  # first of all: it sets the environment of transformers  # noqa: F401

LEARNING_RATE = 5e-3
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# config.json as SmolLM2-135M's is on the hub, in small.
HUB_CONFIG = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 0, "eos_token_id": 0,
    "hidden_act": "silu", "hidden_size": 24, "initializer_range": 0.3, "intermediate_size": 32, "is_llama_config": True,
    "max_position_embeddings": 8192, "model_type": "llama", "num_attention_heads": 3, "num_hidden_layers": 2, "num_key_value_heads": 1,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": False, "rope_scaling": None, "rope_theta": 100000,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 64,
}  # fmt: skip


def load_model(folder):
    import torch
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def randomized(config):
    """A model whose norms are not all ones."""
    import torch
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.add_(torch.randn(p.shape) * 0.2)
    return model


def write_hub_folder(folder):
    """bf16, a tied head and config.json of the hub's form."""
    import torch
    from transformers import LlamaConfig

    randomized(LlamaConfig(**HUB_CONFIG)).to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    (folder / "config.json").write_text(json.dumps(HUB_CONFIG, indent=2) + "\n")


def write_sharded_folder(folder):
    """fp32, a head of its own, heads wider than the hidden size tells, in shards, and config.json of transformers 5."""
    from transformers import LlamaConfig

    values = HUB_CONFIG | {"tie_word_embeddings": False, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "torch_dtype": "float32"}
    randomized(LlamaConfig(**values)).save_pretrained(folder, max_shard_size="20KB")
    assert (folder / "model.safetensors.index.json").exists()


def write_adapter(model_dir, folder, **values):
    """An adapter whose B is not zero, of rank 4."""
    import peft
    import torch

    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", init_lora_weights=False, **values)
    model = peft.get_peft_model(load_model(model_dir), config)
    model.peft_config["default"].base_model_name_or_path = Path(model_dir).name
    model.save_pretrained(folder)
    (Path(folder) / "README.md").unlink()


def write_ids(path):
    """Six sequences of 6 to 16 tokens, each a run of numbers that a model can learn."""
    lines = [[(start + i * stride) % 64 for i in range(length)] for start, stride, length in
             [(1, 1, 12), (40, 3, 9), (7, 2, 16), (63, 5, 6), (20, 1, 10), (3, 7, 14)]]  # fmt: skip
    Path(path).write_text("".join(" ".join(map(str, line)) + "\n" for line in lines))
    return lines


def load_adapted(model_dir, adapter, is_trainable=False):
    import peft

    return peft.PeftModel.from_pretrained(load_model(model_dir), adapter, is_trainable=is_trainable)


def train(model, sequences, steps):
    """Losses of AdamW's steps, a sequence each."""
    import torch

    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE)
    model.train()
    losses = []
    for step in range(steps):
        ids = torch.tensor([sequences[step % len(sequences)]])
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses
