"""Pieces of the TRL reference runs: determinism, a tiny random Gemma 4 text model
with its tokenizer, the LoRA setup, and what a run writes down."""

import json
import os
import random
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("CI", "1")  # no telemetry from TRL
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
import torch

DATA = Path(__file__).resolve().parents[2] / "data"
PREFERENCES = DATA / "rasbt_pref_train.jsonl"

SPECIALS = [
    "<pad>", "<eos>", "<bos>", "<unk>", "<mask>",
    "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>",
    "<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>",
    "<|\"|>", "<|image|>", "<|audio|>", "<|video|>",
]  # fmt: skip


def determinism(seed, threads=1):
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def read_jsonl(path, limit=None):
    with open(path, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    return rows[:limit]


def write_jsonl(path, rows):
    with open(path, "w", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as out:
        json.dump(value, out, indent=1, ensure_ascii=False)
        out.write("\n")


def tokenizer_texts(max_chars=400_000):
    total = 0
    for name in ("rasbt_pref_train.jsonl", "rasbt_sft_train.jsonl"):
        for row in read_jsonl(DATA / name):
            for text in row.values():
                total += len(text)
                if total > max_chars:
                    return
                yield text


def chat_template():
    """Gemma 4's template, which TRL ships."""
    import trl

    return (Path(trl.__file__).parent / "chat_templates" / "gemma4_v5.jinja").read_text(encoding="utf-8")


def build_tokenizer(out, vocab_size):
    """BPE as Gemma's (spaces are U+2581, byte fallback), with <bos> first."""
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    trained = Tokenizer(BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "\u2581")
    # In training only: merges stay inside words.
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\u2581", "merged_with_next"),
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIALS + [f"<0x{i:02X}>" for i in range(256)],
        limit_alphabet=160,
        show_progress=False,
        min_frequency=2,
    )
    trained.train_from_iterator(tokenizer_texts(), trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = Tokenizer(
        BPE(vocab=model["vocab"], merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", model["vocab"]["<bos>"])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>",
        padding_side="left", model_max_length=131072, clean_up_tokenization_spaces=False,
    )  # fmt: skip
    fast.chat_template = chat_template()
    fast.save_pretrained(out)
    return fast


def fnv1a(text):
    value = 2166136261
    for byte in text.encode():
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return value


def build_model(out, vocab_size, seed=0, weight_std=0.08):
    """A random Gemma4ForCausalLM of the E2B kind: per-layer inputs, shared keys and
    values, double-wide MLP; norm weights and layer scalars away from 1, so that a
    missing one shows."""
    from transformers import Gemma4ForCausalLM, Gemma4TextConfig, GenerationConfig

    config = Gemma4TextConfig(
        vocab_size=vocab_size, hidden_size=64, intermediate_size=128, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, global_head_dim=32,
        max_position_embeddings=4096, sliding_window=32,
        layer_types=["sliding_attention", "full_attention"] * 2,
        final_logit_softcapping=30.0, tie_word_embeddings=True,
        hidden_size_per_layer_input=8, vocab_size_per_layer_input=vocab_size,
        num_kv_shared_layers=2, use_double_wide_mlp=True, attention_k_eq_v=False,
        pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Gemma4ForCausalLM(config)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for _, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1.0 + 0.1 * noise if parameter.ndim == 1 else weight_std * noise)
        for name, buffer in model.named_buffers():
            if name.endswith("layer_scalar"):
                buffer.copy_(torch.tensor([0.9 + 0.05 * (fnv1a(name) % 5)]))
        model.model.embed_tokens.weight[0].zero_()
    model.generation_config = GenerationConfig(
        bos_token_id=2, eos_token_id=[1, SPECIALS.index("<turn|>")], pad_token_id=0
    )
    model.save_pretrained(out)


def ensure_model(directory, vocab_size=1024):
    if not (directory / "config.json").exists():
        directory.mkdir(parents=True, exist_ok=True)
        build_tokenizer(directory, vocab_size)
        build_model(directory, vocab_size)
    return directory


def fill_lora_b(model, std, seed):
    """A trained-looking adapter: with B = 0 the first step says little."""
    generator = torch.Generator().manual_seed(seed + 1000)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_B" in name and ".default." in name:
                parameter.copy_(std * torch.randn(parameter.shape, generator=generator))


def adapter_key(name):
    """The name that an adapter file has for a parameter of a PeftModel."""
    return name.replace(".default.weight", ".weight").replace(".default.", ".")


def dumping_gradients(base, out, steps):
    """The trainer class `base`, writing the gradients before clipping of `steps`."""
    from safetensors.torch import save_file

    class Dumping(base):
        def _clip_grad_norm(self, model):
            step = self.state.global_step + 1
            if step in steps:
                gradients = {
                    adapter_key(name): parameter.grad.detach().clone().contiguous()
                    for name, parameter in model.named_parameters()
                    if parameter.grad is not None
                }
                save_file(gradients, out / f"grads_step{step}.safetensors")
            return super()._clip_grad_norm(model)

    return Dumping


TOKEN_METRICS = {"entropy": (0, 1), "logits/chosen": (0,), "logits/rejected": (1,), "mean_token_accuracy": (0,)}


def weighing_metrics(base):
    """The trainer class `base` with means of all pairs and tokens, as torchlora
    records them. TRL averages the means of micro-batches."""

    class Weighing(base):
        def __init__(self, *args, **kwargs):
            self.weights = {}
            super().__init__(*args, **kwargs)

        def _compute_loss(self, model, inputs, return_outputs):
            result = super()._compute_loss(model, inputs, return_outputs)
            tokens = [half.sum().item() for half in inputs["completion_mask"][..., 1:].chunk(2)]
            metrics = self._metrics["train" if self.model.training else "eval"]
            for name, values in metrics.items():
                if name != "num_tokens":
                    weight = sum(tokens[i] for i in TOKEN_METRICS[name]) if name in TOKEN_METRICS else len(inputs["input_ids"]) // 2
                    self.weights.setdefault(name, []).append(weight)
                    assert len(self.weights[name]) == len(values), name
            return result

        def log(self, logs, start_time=None):
            for name, values in self._metrics["train" if self.model.training else "eval"].items():
                if name != "num_tokens":
                    weights = self.weights.pop(name)
                    values[:] = [sum(w * v for w, v in zip(weights, values)) / sum(weights)]
            super().log(logs, start_time)

    return Weighing


def versions():
    import accelerate, datasets, peft, tokenizers, transformers, trl

    modules = (torch, transformers, peft, trl, accelerate, datasets, tokenizers)
    return {module.__name__: module.__version__ for module in modules} | {
        "python": sys.version.split()[0],
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
