#!/usr/bin/env python3
"""Our tokenizer against the tokenizers package on random texts and random ids.

With the tiny Gemma tokenizer of tests/data and each of its variants: texts of vocabulary, special tokens whole and broken, runs of white space,
characters of every Unicode category; ids in any order, so that bytes make invalid UTF-8."""

import json
import random
import sys
import unicodedata

import common

TEXTS = 3000
SPACES = [chr(c) for c in range(0x3100) if chr(c).isspace()] + ["\u2581", "\u200b", "\ufeff"]
FIXED = ["", "\0", "\u0301", "e\u0301", "\u200d", "👩\u200d👩\u200d👧", "🇩🇪", "\U0010ffff", "\ud7ff", "\ue000", "\ufffd", "ﬀ", "ǅ", "İ", "ß", "\r\n", "<0x41>", "<0xE2>"]


def by_category():
    """Code points by Unicode category; no surrogates, which no UTF-8 has."""
    categories = {}
    for code in range(0x110000):
        categories.setdefault(unicodedata.category(chr(code)), []).append(code)
    del categories["Cs"]
    return list(categories.values())


def merged(value, patch):
    """RFC 7396, as the patches of variant_cases.json are meant."""
    if not isinstance(patch, dict):
        return patch
    value = dict(value) if isinstance(value, dict) else {}
    for key, item in patch.items():
        if item is None:
            value.pop(key, None)
        else:
            value[key] = merged(value.get(key), item)
    return value


def random_text(rng, pieces, special, categories):
    def broken():
        token = rng.choice(special)
        cut = rng.randrange(len(token) + 1)
        return rng.choice([token[:cut], token[cut:], token[:cut] + " " + token[cut:], token + token[:cut]])

    kinds = [
        lambda: rng.choice(pieces),
        lambda: rng.choice(special),
        broken,
        lambda: rng.choice(SPACES) * rng.choice([1, 1, 2, 3, 7, 40]),
        lambda: rng.choice([" ", "\n"]) * rng.randrange(1, 70),
        lambda: chr(rng.choice(rng.choice(categories))),
        lambda: rng.choice(FIXED),
        lambda: "".join(rng.choice("abcdefghijklmnopqrstuvwxyz  ,.'\n0123456789") for _ in range(rng.randrange(1, 20))),
    ]
    return "".join(rng.choice(kinds)() for _ in range(rng.randrange(12)))


def differences(build, folder, name, tokenizer_json, rng, categories):
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    path.write_text(json.dumps(tokenizer_json), encoding="utf-8")
    reference = Tokenizer.from_file(str(path))
    special = [token["content"] for token in tokenizer_json["added_tokens"]]
    pieces, count = list(tokenizer_json["model"]["vocab"]), reference.get_vocab_size()
    texts = [random_text(rng, pieces, special, categories) for _ in range(TEXTS)]
    lists = [[rng.randrange(238, 494) if rng.random() < 0.5 else rng.randrange(count) for _ in range(rng.randrange(12))] for _ in range(TEXTS // 3)]
    given, answers = folder / "given.jsonl", folder / "answers.jsonl"
    given.write_text("".join(json.dumps(value) + "\n" for value in texts + lists), encoding="utf-8")
    common.run_program(build / "tests" / "parity_texts", ["tokenizer", path, given, answers], folder / "run.log")
    ours = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    assert len(ours) == len(texts) + len(lists), len(ours)
    different = 0
    for value, answer in zip(texts + lists, ours):
        is_text = isinstance(value, str)
        ids = reference.encode(value).ids if is_text else value
        decoded = [reference.decode(ids, skip_special_tokens=skip) for skip in (False, True)]
        if answer != ([ids] if is_text else []) + decoded:
            different += 1
            if different <= 3:
                print(f"{name}: {value!r}\n  tokenizers {[ids, *decoded]!r}\n  torchlora  {answer!r}")
    return different


def main():
    build, runs = common.build_dir(__doc__)
    data = common.ROOT / "tests" / "data" / "tokenizer"
    plain = json.loads((data / "tokenizer.json").read_text(encoding="utf-8"))
    variants = json.loads((data / "variant_cases.json").read_text(encoding="utf-8"))
    rng, categories = random.Random(0), by_category()
    table = common.Table(f"{TEXTS} random texts and {TEXTS // 3} lists of ids: different from tokenizers", {"different": 0})
    for name, patch in [("as it is", {}), *((variant["name"], variant["patch"]) for variant in variants)]:
        folder = runs / name.replace(", ", "_").replace(" ", "_")
        folder.mkdir()
        table.add(name, different=differences(build, folder, name, merged(plain, patch), rng, categories))
    return 0 if table.finish() else 1


if __name__ == "__main__":
    sys.exit(main())
