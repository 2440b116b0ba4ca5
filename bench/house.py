#!/usr/bin/env python3
"""Measures the layout: how much code there is, how much of it users get in
headers, and what the headers cost a compiler.

    bench/house.py                      code lines and the shares in headers
    bench/house.py --unit CHECKOUT      CPU time of a user's unit, here and there
    bench/house.py --rebuild CHECKOUT   CPU time to build after a layer type's
                                        header (here) or source (there) changed

Code lines are those that hold more than blanks and comments. CHECKOUT is
another working tree of the project; --rebuild needs `make build` done in both.
A time is the least user and system time of --runs runs, here and there in turn,
without ccache."""
import argparse
import os
import pathlib
import re
import resource
import shlex
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent.parent
ROOTS = ("include/torchlora", "src")
HEADER_ROOMS = ("nn", "init", "lora")
USERS_UNIT = "examples/adapt_your_model.cpp"
NO_CODE = re.compile(r'("(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\')|//[^\n]*|/\*.*?\*/', re.S)


def code_lines(path):
    code = NO_CODE.sub(lambda match: match[1] or re.sub(r"[^\n]", "", match[0]), path.read_text())
    return sum(1 for line in code.splitlines() if line.strip())


def print_lines():
    counts = {}
    for root in ROOTS:
        for path in (HERE / root).rglob("*"):
            if path.suffix in (".h", ".cpp"):
                room = path.relative_to(HERE / root).parts[0]
                counts[root, room] = counts.get((root, room), 0) + code_lines(path)

    def total(wanted):
        public, compiled = (
            sum(count for (root, room), count in counts.items() if root == wanted_root and wanted(room))
            for wanted_root in ROOTS
        )
        return f"{public + compiled} code lines, {public} of them ({public / (public + compiled):.1%}) in public headers"

    print("include and src:", total(lambda room: True))
    print(f"{', '.join(HEADER_ROOMS)}:", total(lambda room: room in HEADER_ROOMS))
    for room in HEADER_ROOMS:
        print(f"  {room}:", total(lambda other: other == room))


def cpu_seconds(command, folder):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "CCACHE_DISABLE": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def toolchain():
    lines = (HERE / "build/toolchain.sh").read_text().splitlines()
    return dict(shlex.split(line)[0].split("=", 1) for line in lines)


def compile_unit(checkout):
    tools = toolchain()
    torch = pathlib.Path(tools["TORCHLORA_TORCH_DIR"]).parents[2]
    includes = [f"-isystem{torch / folder}" for folder in ("include", "include/torch/csrc/api/include")]
    return cpu_seconds(
        [tools["TORCHLORA_CXX"], "-O2", "-std=c++20", "-Iinclude", *includes, "-c", USERS_UNIT, "-o", os.devnull],
        checkout,
    )


def build(checkout):
    return cpu_seconds(["cmake", "--build", "--preset", "dev"], checkout)


def rebuild(checkout, file):
    (checkout / file).touch()
    return build(checkout)


def first_of(checkout, *files):
    for file in files:
        if (checkout / file).exists():
            return file
    sys.exit(f"house: {checkout} has none of {', '.join(files)}")


def compare(what, here, there, runs):
    best = [min(times) for times in zip(*[(here(), there()) for _ in range(runs)])]
    print(f"{what}: {best[0]:.1f} s of CPU here, {best[1]:.1f} s there: {best[0] / best[1] - 1:+.1%}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unit", metavar="CHECKOUT", type=pathlib.Path)
    parser.add_argument("--rebuild", metavar="CHECKOUT", type=pathlib.Path)
    parser.add_argument("--layer", default="conv", help="the layer type of --rebuild")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    print_lines()
    if arguments.unit:
        other = arguments.unit.resolve()
        compare(USERS_UNIT, lambda: compile_unit(HERE), lambda: compile_unit(other), arguments.runs)
    if arguments.rebuild:
        other, layer = arguments.rebuild.resolve(), arguments.layer
        header = f"include/torchlora/lora/layers/{layer}.h"
        source = first_of(other, f"src/lora/layers/{layer}.cpp", f"src/lora/{layer}.cpp")
        build(HERE), build(other)
        compare(
            f"{header} here, {source} there",
            lambda: rebuild(HERE, header),
            lambda: rebuild(other, source),
            arguments.runs,
        )


main()
