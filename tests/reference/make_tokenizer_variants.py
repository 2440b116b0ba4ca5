#!/usr/bin/env python3
"""Writes tests/data/tokenizer/variant_cases.json: what the tokenizers package makes of texts with tokenizer.json changed by a JSON
merge patch (RFC 7386: null removes a key)."""
import json
import os

from tokenizers import Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = os.path.join(HERE, "..", "data", "tokenizer")
TEXTS = ["", "Hi there", "a  b \n c", "né 漢字漢 x 漢 🚀", "\u2581x<bos>y <eos>", "<a><b><a>b<a", "the <0xE6> end"]


def template(before, behind):
    def special(token):
        return {"SpecialToken": {"id": token, "type_id": 0}}

    ids = {"<bos>": 2, "<eos>": 1}
    single = [special(t) for t in before] + [{"Sequence": {"id": "A", "type_id": 0}}] + [special(t) for t in behind]
    pair = single + [{"Sequence": {"id": "B", "type_id": 1}}]
    tokens = {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in before + behind}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}


def added(token, id, special):
    return {"id": id, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}


def replace(a, b):
    return {"type": "Replace", "pattern": {"String": a}, "content": b}


PATCHES = {
    "unk, fused": {"model": {"byte_fallback": False, "fuse_unk": True}},
    "unk, each": {"model": {"byte_fallback": False, "fuse_unk": False}},
    "no unk": {"model": {"byte_fallback": False, "unk_token": None}},
    "the split fires": {"normalizer": None},
    "no split": {"pre_tokenizer": None},
    "two replacements": {"normalizer": {"type": "Sequence", "pattern": None, "content": None, "normalizers": [replace("the", "a  b"), replace(" ", "\u2581")]}},
    "begin and end": {"post_processor": template(["<bos>"], ["<eos>"])},
    "end": {"post_processor": template([], ["<eos>", "<eos>"])},
    "no post-processor": {"post_processor": None},
    "decoder without bytes": {"decoder": {"type": "Sequence", "decoders": [replace("\u2581", " "), {"type": "Fuse"}]}},
    "bytes before the replacement": {"decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}, replace("\u2581", "__")]}},
    "overlapping added tokens": {"added_tokens": [added("<bos>", 2, True), added("<a>", 1024, True), added("<a><b>", 1025, False), added("b", 559, False), added("<b><a>b<a", 1026, True)]},
}


def patch(value, change):
    if not isinstance(change, dict):
        return change
    value = dict(value) if isinstance(value, dict) else {}
    for key, item in change.items():
        if item is None:
            value.pop(key, None)
        else:
            value[key] = patch(value.get(key), item)
    return value


def main():
    with open(os.path.join(FOLDER, "tokenizer.json"), encoding="utf-8") as f:
        original = json.load(f)
    variants = []
    for name, change in PATCHES.items():
        changed = patch(original, change)
        changed["model"].setdefault("unk_token")
        tokenizer = Tokenizer.from_str(json.dumps(changed))
        cases = []
        for text in TEXTS:
            ids = tokenizer.encode(text).ids
            cases.append({"text": text, "ids": ids, "plain_ids": tokenizer.encode(text, add_special_tokens=False).ids,
                          "decoded": tokenizer.decode(ids, skip_special_tokens=False), "decoded_skip_special": tokenizer.decode(ids, skip_special_tokens=True)})
        variants.append({"name": name, "patch": change, "cases": cases})
    with open(os.path.join(FOLDER, "variant_cases.json"), "w", encoding="utf-8") as f:
        json.dump(variants, f, ensure_ascii=False, indent=0)
        f.write("\n")


if __name__ == "__main__":
    main()
