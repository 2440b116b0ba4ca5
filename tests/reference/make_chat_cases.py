#!/usr/bin/env python3
"""Writes tests/data/tokenizer/chat_text_cases.json: text conversations as Gemma 4's chat template (the one trl ships) prints them."""
import itertools
import json
import os
import sys

import trl
from transformers import AutoTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = os.path.join(HERE, "..", "data", "tokenizer")
CONTENTS = ["Hi", " \u00a0 spaced\u3000\n", "", "a<|channel>thought\nx<channel|>b", "open <|channel>never closed", "closed only<channel|> tail", "\x1cfs\x85"]
ROLES = ["system", "developer", "user", "assistant"]


def main():
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    with open(os.path.join(os.path.dirname(trl.__file__), "chat_templates", "gemma4_v5.jinja"), encoding="utf-8") as f:
        template = f.read()
    cases = []
    contents = itertools.cycle(CONTENTS)
    for length in (1, 2, 3):
        for roles in itertools.product(ROLES, repeat=length):
            messages = [{"role": role, "content": next(contents)} for role in roles]
            kwargs = {"add_generation_prompt": len(cases) % 2 == 0}
            text = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **kwargs)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            cases.append({"messages": messages, "kwargs": kwargs, "text": text, "ids": ids})
    with open(os.path.join(FOLDER, "chat_text_cases.json"), "w", encoding="utf-8") as f:
        json.dump(cases, f, indent=0)
        f.write("\n")


if __name__ == "__main__":
    sys.exit(main())
