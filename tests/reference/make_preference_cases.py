#!/usr/bin/env python3
"""Writes tests/data/train/preference_cases.json: rows of preference data and
the token ids that TRL's DPOTrainer makes of them (trl 1.16.0).

    make_preference_cases.py TOKENIZER_DIR OUT.json
"""
import json
import sys
from types import SimpleNamespace

from datasets import Dataset
from transformers import AutoTokenizer
from trl import DPOTrainer


def message(role, content):
    return {"role": role, "content": content}


def conversation(*contents):
    return [message(("user", "assistant")[i % 2], c) for i, c in enumerate(contents)]


CASES = {
    "explicit": [{"prompt": "The sky is", "chosen": " blue.", "rejected": " green, I think."}],
    "prompt_ends_with_space": [{"prompt": "Assistant: ", "chosen": "hello there", "rejected": "no"}],
    "eos_is_there": [{"prompt": "Human: hi", "chosen": " hello<eos>", "rejected": " go away"}],
    "implicit": [
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        {"chosen": "Wörter über alles", "rejected": "Wörter üben"},
        {"chosen": "café", "rejected": "cafè"},
    ],
    "implicit_one_continues_the_other": [
        {"chosen": "ab", "rejected": "abc"},
        {"chosen": "abc", "rejected": "abc"},
        {"chosen": "a b ", "rejected": "a b c"},
    ],
    "prompt_fills_max_length": [
        {"prompt": "one two three four five six seven eight nine ten", "chosen": " a", "rejected": " b"},
        {"prompt": "one", "chosen": " a", "rejected": " b"},
    ],
    "conversation": [
        {
            "prompt": [message("system", "Be short."), message("user", "What is 2 + 2?")],
            "chosen": [message("assistant", "4")],
            "rejected": [message("assistant", "Four, of course: 2 + 2 = 4.")],
        },
        {
            "prompt": conversation("Hi", "Hello", "Spell friend."),
            "chosen": [message("assistant", "friend")],
            "rejected": [message("assistant", "freind")],
        },
    ],
    "implicit_conversation": [
        {
            "chosen": conversation("What color is the sky?", "Blue."),
            "rejected": conversation("What color is the sky?", "Green."),
        },
        {
            "chosen": conversation("Hi", "Hello", "Bye", "See you"),
            "rejected": conversation("Hi", "Hello", "Bye", "Go"),
        },
    ],
}


def main(tokenizer_dir, out):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    trainer = SimpleNamespace(_tokenizer=tokenizer)
    cases = []
    for name, rows in CASES.items():
        max_length = 8 if name == "prompt_fills_max_length" else 1024
        args = SimpleNamespace(dataset_num_proc=None, max_length=max_length, truncation_mode="keep_start")
        dataset = DPOTrainer._prepare_dataset(trainer, Dataset.from_list(rows), tokenizer, args, "train")
        tokens = [{key: row[key] for key in ("prompt_ids", "chosen_ids", "rejected_ids")} for row in dataset]
        cases.append({"name": name, "rows": rows, "max_length": max_length, "tokens": tokens})
    with open(out, "w", encoding="utf-8") as file:
        json.dump(cases, file, ensure_ascii=False, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
