#!/usr/bin/env python3
"""Fails for an #include that points in a direction that the layout forbids.

include/torchlora/ROOM and src/ROOM are one room, with all folders below them.
A room may include itself, the rooms that EDGES gives it, and whatever these may
include in turn. A room that is in EXACT may include the given ones only.
include/torchlora/detail is no room: a header there counts as the rooms that it
includes itself."""
import pathlib
import re
import sys

EDGES = {
    "text": [],
    "config": ["text"],
    "io": ["text"],
    "nn": [],
    "init": ["config", "nn"],
    "lora": ["config", "nn", "init"],
    "optim": ["lora", "nn"],
    "model": ["lora", "config", "nn", "init"],
    "adapter_files": ["model", "io"],
    "tools": ["model"],
    "tokenizer": ["io"],
    # A model does not know that it can be adapted.
    "models": ["nn", "io", "tokenizer"],
    "train": ["model", "optim", "adapter_files", "tokenizer", "nn"],
    "cli": ["tools", "train", "models"],
    # The umbrella header of each component.
    "torchlora.h": ["tools", "adapter_files", "optim"],
    "tokenizer.h": ["tokenizer"],
    "gemma4.h": ["models"],
    "train.h": ["train"],
}
EXACT = ["models"]
# Every room may include these, and they include none.
FREE = ["error.h", "export.h", "types.h"]
# Files beside the rooms that belong to one.
MEMBERS = {"model.h": "model"}

INCLUDE = re.compile(r'\s*#\s*include\s+(?:<torchlora/([^>]+)>|"([^"]+)")')


def rooms_of(name):
    """The rooms that one includes with the header of this name."""
    first = name.split("/")[0]
    if first != "detail":
        return {MEMBERS.get(first, first)}
    header = pathlib.Path("include/torchlora", name)
    return set().union(*(rooms for _, rooms in includes(header)))


def includes(path):
    """The lines that include something of ours, with the rooms that it is of."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = INCLUDE.match(line)
        if match:
            yield number, rooms_of(match[1] or match[2])


def allowed(room):
    reached, todo = {room, *FREE}, list(EDGES.get(room, []))
    while todo:
        other = todo.pop()
        if other not in reached:
            reached.add(other)
            todo += [] if room in EXACT else EDGES[other]
    return reached


def check(path, room):
    if room not in EDGES and room not in FREE:
        yield f"{path}: {room} is no room: give it a line in EDGES of scripts/check_includes.py"
        return
    may = allowed(room)
    names = ", ".join(sorted(may - {room, *FREE})) or "no other room"
    for number, rooms in includes(path):
        for other in sorted(rooms - may):
            yield f"{path}:{number}: {room} → {other}; {room} may include: {names}"


def main():
    errors, count = [], 0
    for root in ("include/torchlora", "src"):
        for path in sorted(pathlib.Path(root).rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.suffix in (".h", ".cpp") and not name.startswith("detail/"):
                [room] = rooms_of(name)
                errors += check(path, room)
                count += 1
    if errors:
        sys.exit("\n".join(errors))
    print(f"{count} files include only what their room may")


main()
