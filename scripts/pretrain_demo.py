#!/usr/bin/env python3
"""Pre-trains the demo checkpoint: a small Gemma 4 text model (per-layer inputs,
shared keys and values, double-wide MLP, both attention kinds) and its tokenizer,
on the instruction texts of data/. Prints the loss on all held-out texts.

The preference pairs are left to DPO: a model that knows them by heart learns
their wording there and not what tells them apart.

Needs torch, transformers and tokenizers (the environment that `make parity`
makes). With the defaults it takes two minutes on one core:

    build/venv/bin/python scripts/pretrain_demo.py --out data/demo_checkpoint
"""

import argparse
import json
import math
import os
import random
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    Gemma4ForCausalLM,
    Gemma4TextConfig,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<|turn>", "<turn|>"]
SPACE = "\u2581"


def read_texts(*paths):
    """Every prompt with each of its answers, once."""
    texts = {}
    for path in paths:
        with open(path, encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                for name, answer in row.items():
                    if name != "prompt":
                        texts[row["prompt"] + answer] = None
    return list(texts)


def train_tokenizer(texts, vocab_size):
    """BPE with byte fallback and Gemma 4's normalizer; <bos> comes first."""
    trainer_tokenizer = Tokenizer(BPE(unk_token="<unk>"))
    trainer_tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    # In training only: no merge crosses a word, a line or a digit.
    trainer_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(SPACE, "merged_with_next"),
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIALS + [f"<0x{byte:02X}>" for byte in range(256)],
        limit_alphabet=120,
        show_progress=False,
    )
    trainer_tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(trainer_tokenizer.to_str())["model"]
    tokenizer = Tokenizer(
        BPE(
            vocab=model["vocab"],
            merges=[tuple(merge) for merge in model["merges"]],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", model["vocab"]["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def make_model(args):
    kinds = ["sliding_attention", "sliding_attention", "full_attention"]
    config = Gemma4TextConfig(
        vocab_size=args.vocab,
        hidden_size=args.hidden,
        intermediate_size=2 * args.hidden,
        num_hidden_layers=6,
        layer_types=kinds * 2,
        num_kv_shared_layers=3,
        use_double_wide_mlp=True,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=32,
        global_head_dim=64,
        sliding_window=32,
        hidden_size_per_layer_input=16,
        vocab_size_per_layer_input=args.vocab,
        max_position_embeddings=2048,
        attention_k_eq_v=False,
        final_logit_softcapping=30.0,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    torch.manual_seed(args.seed)
    model = Gemma4ForCausalLM(config)
    model.generation_config = GenerationConfig(
        bos_token_id=2, eos_token_id=[1, SPECIALS.index("<turn|>")], pad_token_id=0
    )
    return model


def batches(rows, batch_size, rng=None):
    """Rows of similar length together, padded at the right with label -100."""
    order = list(range(len(rows)))
    if rng:
        rng.shuffle(order)
    order.sort(key=lambda i: len(rows[i]) // 8)
    groups = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    if rng:
        rng.shuffle(groups)
    for group in groups:
        width = max(len(rows[i]) for i in group)
        ids = torch.zeros(len(group), width, dtype=torch.long)
        labels = torch.full_like(ids, -100)
        for line, i in enumerate(group):
            ids[line, : len(rows[i])] = labels[line, : len(rows[i])] = torch.tensor(rows[i])
        yield ids, labels


def token_loss(model, ids, labels):
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )


@torch.no_grad()
def heldout_loss(model, rows, batch_size):
    """Mean nats over all tokens of the rows."""
    model.eval()
    total = sum(token_loss(model, *batch).item() for batch in batches(rows, batch_size))
    model.train()
    return total / sum(len(row) - 1 for row in rows)


def train(model, rows, heldout, args):
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": args.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=args.lr,
        betas=(0.9, 0.98),
    )
    total = args.epochs * math.ceil(len(rows) / args.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda k: min(1.0, (k + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * k / total))),
    )
    rng = random.Random(args.seed)
    start = time.time()
    for epoch in range(args.epochs):
        for ids, labels in batches(rows, args.batch_size, rng):
            if args.token_dropout:
                drop = torch.rand(ids.shape) < args.token_dropout
                ids = torch.where(drop & (labels != -100), SPECIALS.index("<mask>"), ids)
            loss = token_loss(model, ids, labels) / (labels[:, 1:] != -100).sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        print(
            f"epoch {epoch + 1}: last batch {loss.item():.3f}, "
            f"held-out {heldout_loss(model, heldout, args.batch_size):.3f} nats a token, "
            f"{time.time() - start:.0f} s",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parent.parent / "data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocab", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--weight_decay", type=float, default=0.1)
    parser.add_argument("--token_dropout", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    texts = read_texts(args.data / "rasbt_sft_train.jsonl")
    heldout_texts = read_texts(args.data / "rasbt_sft_test.jsonl", args.data / "rasbt_pref_test.jsonl")
    tokenizer = train_tokenizer(texts, args.vocab)
    rows, heldout = (
        [tokenizer(text + tokenizer.eos_token)["input_ids"] for text in part]
        for part in (texts, heldout_texts)
    )
    model = make_model(args)
    print(
        f"{sum(p.numel() for p in model.parameters())} parameters, "
        f"{sum(map(len, rows))} tokens to train, {sum(map(len, heldout))} held out; "
        f"untrained {heldout_loss(model, heldout, args.batch_size):.3f} nats a token",
        flush=True,
    )
    train(model, rows, heldout, args)
    model = model.to(torch.bfloat16)
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    saved = Gemma4ForCausalLM.from_pretrained(args.out, dtype=torch.float32)
    print(f"saved in bfloat16: held-out {heldout_loss(saved, heldout, args.batch_size):.3f} nats a token")


if __name__ == "__main__":
    main()
