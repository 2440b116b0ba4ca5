"""Random patterns with the answers of Python 3.11's re.

  python make_regex_cases.py > tests/data/config/regex_cases.json

A case is [pattern, text, answer]: 1 and 0 for fullmatch, null for a pattern that
does not compile. The answers of later versions of Python differ.
"""

import json
import random
import re
import sys
import warnings

assert sys.version_info[:2] == (3, 11)
warnings.simplefilter("ignore")

ATOMS = [
    *["a", "b", "q_proj", "layers", ".", "\\.", "\\d", "\\w", "\\s", "\\D", "\\W", "\\S"],
    *["[a-c]", "[^a]", "[]a]", "[^]a]", "[a\\d_]", "[[:alpha:]]", "[a[b]", "[\\w.-]", "[\\W\\d]"],
    *["[a-\\d]", "[c-a]", "[a-]", "[]-a]", "[\\b]", "[\\B]", "[\\x41-\\x43]", "[^\\s]", "[", "[]"],
    *["\\Z", "\\A", "\\b", "\\B", "$", "^", "\\n", "\\t", "\\v", "\\x41", "\\x4", "\\u0041"],
    *["\\u004", "\\U00000041", "\\U00110000", "\\101", "\\777", "\\0", "\\07", "\\1", "\\2", "\\8"],
    *["{", "}", "{2}", "{,3}", "{1,}", "{a}", "{}", "]", ")", "|", "é", "日", "\\é", "\\_", "\\-"],
    *["\\ ", "\\/", "#", " ", "(?#c)", "(?#c\\)d)", "\\h", "\\R", "\\K", "\\G", "\\Q", "\\E", "\\X"],
    *["\\p{L}", "\\z", "\\e", "\\c", "\\o{101}", "\\g<1>", "\\k<n>", "&&", "--", "~~", "||", "\\a"],
    *["\\f", "\\r", "K", "\u212a", "ß", "\ud7ff", "\\ud800", "\x1c", "\\", "\x85"],
]
GROUPS = [
    *["(%s)", "(?:%s)", "(?P<n>%s)", "(?P<é>%s)", "(?P<1>%s)", "(?P=n)", "(?=%s)", "(?!%s)"],
    *["(?<=%s)", "(?<!%s)", "(?>%s)", "(?i:%s)", "(?i)%s", "(?s:%s)", "(?m:%s)", "(?x:%s)"],
    *["(?-i:%s)", "(?a:%s)", "(?u:%s)", "(?L:%s)", "(?ai:%s)", "(?(1)%s|b)", "(?(n)a|b)"],
    *["(?(1)a|b|c)", "(?(2)%s)", "(?(0)a)", "(?<n>%s)", "(?'n'%s)", "(?|%s)", "(?R)", "(?1)"],
    *["(?&n)", "(?P>n)", "(?+1)", "(?i-s:%s)", "(?i-i:%s)", "(?-:%s)", "(?^:%s)", "(*ACCEPT)"],
    *["(*UTF)%s", "(?C1)", "(?aimsux)%s", "(?ai)%s", "(?x)%s", "(?m)%s", "(?au)%s", "(?is-m:%s)"],
]
QUANTIFIERS = [
    *["*", "+", "?", "*?", "+?", "??", "*+", "++", "?+", "{2}", "{1,2}", "{,2}", "{2,}", "{2}?"],
    *["{2}+", "{,2}+", "{,}", "{3,1}"],
]
TEXTS = [
    *["a", "b", "ab", "aab", "model.layers.0.self_attn.q_proj", "A", "é", "É", "日", "a\n", "\n", "1"],
    *["_", "", "abc]", "{2}", "layers.11", " ", "#", "\\", "a.b", "q_proj", "[", "-", "\t", "aaaa"],
    *["ba", "1a", "k", "\u212a", "\x1c", "a{2}", "bb", "B", "\x85", "{}"],
]


def pattern(random, depth=0):
    out = ""
    for _ in range(random.randint(1, 4)):
        if depth < 3 and random.random() < 0.3:
            group = random.choice(GROUPS)
            part = group.replace("%s", pattern(random, depth + 1))
        else:
            part = random.choice(ATOMS)
        out += part + (random.choice(QUANTIFIERS) if random.random() < 0.3 else "")
    return out + ("|" + random.choice(ATOMS) if random.random() < 0.2 else "")


def answer(pattern, text):
    try:
        return int(re.compile(pattern).fullmatch(text) is not None)
    except (re.error, OverflowError, ValueError):
        return None


def cases(seed, count):
    """`count` cases of each answer, as far as there are that many tries."""
    rng = random.Random(seed)
    found = {None: [], 0: [], 1: []}
    for _ in range(200 * count):
        case = pattern(rng), rng.choice(TEXTS)
        kind = found[answer(*case)]
        if len(kind) < count:
            kind.append([*case, answer(*case)])
    return [case for kind in found.values() for case in kind]


if __name__ == "__main__":
    print("[\n" + ",\n".join(json.dumps(c) for c in cases(seed=1, count=700)) + "\n]")
