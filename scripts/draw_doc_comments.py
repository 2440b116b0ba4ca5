#!/usr/bin/env python3
"""Draws doc comments of the public headers for a reading test.

    scripts/draw_doc_comments.py [--count 30] [--seed TEXT]

Prints each with its declaration and the class around it, but not with its file:
somebody who has not seen the code reads them and says what each means. The seed
is the hash of the commit, so that a commit gives one draw."""
import argparse
import pathlib
import random
import re
import subprocess

from check_sources import without_noise

COMMENT = re.compile(r"(?:^[ \t]*///[^\n]*\n)+", re.M)
GROUP = re.compile(r"^\s*/// ?@[{}]\s*$\n?", re.M)
TYPE = re.compile(r"\b(?:class|struct|union|enum(?: class)?)\s+(?:[A-Z_]+_API\s+)?(\w+)[^;()]*$")


def classes_around(code, position):
    """The classes and enumerations whose braces are open at `position`; None
    where one of them has begun its private part."""
    stack, start = [], 0
    for match in re.finditer(r"[;{}]|\b(private|protected|public):", code[:position]):
        if match[1]:
            stack[-1][1] = match[1]
        elif match[0] == "{":
            name = TYPE.search(code[start : match.start()])
            stack.append([name[1] if name else "", ""])
        elif match[0] == "}" and stack:
            stack.pop()
        start = match.end()
    if any(access == "private" for _, access in stack):
        return None
    return "::".join(name for name, _ in stack if name)


def declaration(text, code, start, group):
    """The one behind a comment; all those of a group between @{ and @}."""
    if group:
        end = text.find("@}", start)
        return GROUP.sub("", text[start : text.rfind("\n", start, end) + 1])
    if text.startswith("#", start):
        return text[start : text.find("\n", start)]
    depth = 0
    for match in re.finditer(r"[(){};,]", code[start:]):
        depth += {"(": 1, ")": -1}.get(match[0], 0)
        if depth < 0 or depth == 0 and match[0] in "{};,":
            # A comma ends an enumerator, and only that.
            if match[0] != "," or re.fullmatch(r"\s*\w+( = [^,]*)?", code[start : start + match.start()]):
                return text[start : start + match.start()]
    return text[start:]


def comments():
    for path in sorted(pathlib.Path("include").rglob("*.h")):
        if "detail" in path.parts:
            continue
        text = path.read_text()
        code = without_noise(text)
        for match in COMMENT.finditer(text):
            comment, scope = GROUP.sub("", match[0]), classes_around(code, match.start())
            if comment and scope is not None:
                yield comment, declaration(text, code, match.end(), "@{" in match[0]), scope


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seed")
    arguments = parser.parse_args()
    seed = arguments.seed or subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    found = list(comments())
    drawn = random.Random(seed).sample(found, arguments.count)
    print(f"{len(drawn)} of {len(found)} doc comments, seed {seed}")
    for number, (comment, declared, scope) in enumerate(drawn, 1):
        print(f"\n{number}. {'in ' + scope if scope else ''}\n{comment.rstrip()}\n{declared.rstrip()}")


main()
