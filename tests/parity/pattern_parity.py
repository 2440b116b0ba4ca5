#!/usr/bin/env python3
"""Our patterns against Python's re: which are refused, and what they match.

Random patterns of three kinds, each on four random texts: built from re's grammar; real ones of adapters, edited; characters that mean something,
in any order. re's answers are those of Python 3.11 and later, of which the syntax has possessive quantifiers and atomic groups. A few
patterns are refused by name that re takes: PCRE2 has no part within a look-behind that is repeated at most zero times, or an assertion that is repeated."""

import json
import random
import re
import sys
import warnings

import common

PATTERNS = 10000
LITERALS = ["a", "b", "q_proj", "layers", "0", "1", "11", ".", "_", "-", "é", "É", "日", "{", "}", "]", " ", "#", "/", ",", "\n", "&&", "~"]
ESCAPES = [*(f"\\{letter}" for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"), "\\.", "\\-", "\\]", "\\(", "\\é", "\\ ",
           "\\x41", "\\x4", "\\xe9", "\\u0061", "\\u006", "\\U00000062", "\\U00110000", "\\07", "\\101", "\\400", "\\10", "\\99", "\\\\"]  # fmt: skip
USUAL = ["\\d", "\\w", "\\s", "\\D", "\\W", "\\S", "\\b", "\\B", "\\A", "\\Z", "^", "$", ".", "\\.", "\\n", "\\t"]
CLASSES = ["[ab]", "[^a]", "[a-c]", "[]a]", "[^]a]", "[a\\d_]", "[\\w.-]", "[a-\\d]", "[\\b]", "[b-a]", "[a", "[]", "[^]", "[a-]", "[-a]", "[[:alpha:]]", "[a[b]",
           "[a--b]", "[a&&b]", "[\\s\\S]", "[^\\W\\d]", "[\\x41-\\x43]", "[\\Z]", "[é-ü]", "[^日]", "[.]", "[\\n]", "[\\1]", "[(?:]"]  # fmt: skip
OPENINGS = ["(", "(", "(?:", "(?:", "(?P<n>", "(?P<idx>", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:", "(?s:", "(?m:", "(?x:", "(?a:", "(?u:", "(?i-s:", "(?ai:"]
ODD_OPENINGS = ["(?i)", "(?x)", "(?m)(", "(?P=n)(", "(?#", "(?(1)", "(?(n)", "(?(9)", "(?L:", "(?au:", "(?i-i:", "(?-a:", "(?-:", "(?^:", "(?|", "(?<n>", "(?'n'",
                "(?P<1>", "(?P<a b>", "(?P<é>", "(?P>n)", "(?R)", "(?1)", "(?&n)", "(?C1)", "(*UTF)", "(*ACCEPT)", "(?", "(?P", "(?P<", "(?<", "(?aiLmsux)"]  # fmt: skip
QUANTIFIERS = ["*", "+", "?", "*?", "+?", "??", "*+", "++", "?+", "{2}", "{1,2}", "{,2}", "{1,}", "{2}?", "{2}+", "{0}", "{0,0}", "{3,1}", "{,}", "{}", "{a}", "{1", "{ 1}", "**"]
REAL = [
    r".*language_model\..*\.(q_proj|v_proj)",
    r"^(?!.*vision).*(?:q|k|v|o)_proj$",
    r"model\.layers\.(\d|1\d)\.self_attn\.[qv]_proj",
    r"(?:^|.*?\.)layers\.(?P<idx>\d+)\.",
    r"(.*\.)?(mlp\.(gate|up|down)_proj)$",
    r"(?i:ENCODER)\.block\.(?P<idx>[0-9]{1,2})\.(?!adapter)\w+",
    r"(?P<n>a|b)(?P=n)+\1{2,3}?(?<=ab)\b",
]
NAMES = ["model.layers.11.self_attn.q_proj", "model.language_model.layers.0.mlp.up_proj", "encoder.block.3.attn", "lm_head", "layers.7.x"]
ALPHABET = "ab.01_-éÉ日 \n#]{},qA"


def built(rng, depth=0):
    """A pattern of re's grammar, now and then with a part that is not."""
    parts = []
    for _ in range(rng.choice([1, 1, 2, 2, 3, 4])):
        kind = rng.random()
        if depth < 3 and kind < 0.3:
            opening = rng.choice(OPENINGS if rng.random() < 0.85 else ODD_OPENINGS)
            part = opening + built(rng, depth + 1) + (")" if rng.random() < 0.97 else "")
        else:
            part = rng.choice(LITERALS if kind < 0.55 else USUAL if kind < 0.75 else CLASSES if kind < 0.9 else ESCAPES)
        parts.append(part + (rng.choice(QUANTIFIERS) if rng.random() < 0.3 else ""))
        if rng.random() < 0.1:
            parts.append("|")
    return "".join(parts)


def edited(rng):
    pattern = rng.choice(REAL)
    for _ in range(rng.randrange(1, 5)):
        at, other = rng.randrange(len(pattern) + 1), rng.randrange(len(pattern) + 1)
        insert = rng.choice([rng.choice(QUANTIFIERS + ESCAPES + CLASSES), rng.choice("()[]{}|?*+.\\^$-:=!<>P"), pattern[min(at, other) : max(at, other)][:8]])
        pattern = pattern[:at] + insert + pattern[at + rng.randrange(3) :]
    return pattern


def scrambled(rng):
    return "".join(rng.choice("()[]{}|?*+.\\^$-:=!<>Pab01,é") for _ in range(rng.randrange(1, 9)))


def texts(rng, pattern):
    """Texts that the pattern may match: of its own characters, of names."""
    own = "".join(character for character in pattern if character not in "()[]{}|?*+\\^$") or "a"
    for _ in range(2):
        yield "".join(rng.choice(own if rng.random() < 0.7 else ALPHABET) for _ in range(rng.randrange(8)))
    yield own[: rng.randrange(len(own) + 1)]
    yield rng.choice(NAMES)


def python_answer(pattern, text):
    try:
        regex = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return str(error)
    found = regex.match(text)
    return [regex.fullmatch(text) is not None, found is not None, found.group("idx") if found and "idx" in regex.groupindex else None]


def main():
    build, runs = common.build_dir(__doc__)
    if sys.version_info < (3, 11):
        print(f"skipped: this is Python {sys.version.split()[0]}, and the patterns are those of 3.11")
        return 0
    warnings.simplefilter("ignore")
    rng = random.Random(0)
    table = common.Table("Random patterns: different from Python's re", {"accepted only here": 0, "refused only here": 5, "matched otherwise": 0})
    for name, make in (("built", built), ("edited", edited), ("scrambled", scrambled)):
        patterns = [make(rng) for _ in range(PATTERNS)]
        cases = [[pattern, text] for pattern in patterns for text in texts(rng, pattern)]
        given, answers = runs / f"{name}.jsonl", runs / f"{name}_answers.jsonl"
        given.write_text("".join(json.dumps(case) + "\n" for case in cases), encoding="utf-8")
        common.run_program(build / "tests" / "parity_texts", ["patterns", given, answers], runs / f"{name}.log")
        ours = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
        assert len(ours) == len(cases), (len(ours), len(cases))
        wrong = {column: {} for column in table.limits}
        accepted = set()
        for (pattern, text), answer in zip(cases, ours):
            expected = python_answer(pattern, text)
            if isinstance(expected, list):
                accepted.add(pattern)
            if isinstance(expected, str) != isinstance(answer, str):
                wrong["accepted only here" if isinstance(expected, str) else "refused only here"].setdefault(pattern, (expected, answer))
            elif isinstance(expected, list) and answer != expected:
                wrong["matched otherwise"].setdefault(pattern, (text, expected, answer))
        for column, found in wrong.items():
            for pattern in sorted(found, key=len)[:10]:
                print(f"{name}, {column}: {pattern!r} {found[pattern]!r}")
        table.add(f"{name}, of which {len(accepted)} are patterns", **{column: len(found) for column, found in wrong.items()})
    return 0 if table.finish() else 1


if __name__ == "__main__":
    sys.exit(main())
