"""What the parity scripts share: arguments, running the program, the table."""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "reference"))

import trl_common  # first of all: it sets the environment of transformers  # noqa: F401


def build_dir(description):
    """Parses --build-dir; returns it with an empty folder for the script's runs."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--build-dir", type=Path, default=ROOT / "build" / "dev")
    build = parser.parse_args().build_dir.resolve()
    runs = build / "parity" / Path(sys.argv[0]).stem
    shutil.rmtree(runs, ignore_errors=True)
    runs.mkdir(parents=True)
    return build, runs


def flags(values):
    """Command line of a dictionary: lists are several values, True stands alone."""
    words = []
    for name, value in values.items():
        if value is None or value is False:
            continue
        words.append(f"--{name}")
        if value is not True:
            words += [str(item) for item in (value if isinstance(value, (list, tuple)) else [value])]
    return words


def run_program(program, arguments, log):
    """Runs a program of the build tree; its output goes to the file `log`."""
    command = [str(word) for word in [program, *arguments]]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with open(log, "w", encoding="utf-8") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment)
    if done.returncode != 0:
        tail = Path(log).read_text(encoding="utf-8", errors="replace")[-2000:]
        raise SystemExit(f"{' '.join(command)}\nended with exit code {done.returncode}:\n{tail}")


def torchlora_dpo(build, log, **values):
    run_program(build / "src" / "torchlora", ["dpo", *flags(values)], log)


@contextlib.contextmanager
def quiet(log):
    """Sends what the block prints, from C++ too, to the file `log`."""
    sys.stdout.flush()
    saved = os.dup(1), os.dup(2)
    with open(log, "w", encoding="utf-8") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            os.close(saved[0])
            os.close(saved[1])


def largest_relative_difference(ours, theirs):
    """Over the tensors of two safetensors files, which must have the same names: largest difference by the tensor's largest value."""
    from safetensors.torch import load_file

    ours, theirs = load_file(ours), load_file(theirs)
    assert ours.keys() == theirs.keys(), f"other tensors: {ours.keys() ^ theirs.keys()}"
    return max(((ours[k] - v).abs().max() / v.abs().max().clamp(min=1e-12)).item() for k, v in theirs.items())


def program_logits_difference(build, checkpoint, adapter, ids, logits):
    """Largest difference between `logits` and those that torchlora's model with the adapter gives for `ids`."""
    from safetensors.torch import load_file, save_file

    given, result = adapter.with_suffix(".ids"), adapter.with_suffix(".logits")
    save_file({"input_ids": ids}, given)
    run_program(build / "tests" / "parity_logits", [checkpoint, adapter, given, result], adapter.with_suffix(".logits.log"))
    return (load_file(result)["logits"] - logits).abs().max().item()


def log_history(output_dir):
    with open(Path(output_dir) / "trainer_state.json", encoding="utf-8") as file:
        return json.load(file)["log_history"]


class Table:
    """Rows of (name, {column: value}) against one limit a column."""

    def __init__(self, title, limits):
        self.title, self.limits, self.rows = title, limits, []

    def add(self, name, **values):
        self.rows.append((name, values))

    def finish(self):
        """Prints the table; returns whether every value is within its limit."""
        ok = bool(self.rows)
        width = max([len("largest allowed"), *(len(name) for name, _ in self.rows)])
        columns = [max(len(column), 10) for column in self.limits]
        line = lambda name, cells: name.ljust(width) + "".join(f"  {c:>{w}}" for c, w in zip(cells, columns))
        print(f"\n{self.title}")
        print(line("", self.limits))
        for name, values in self.rows:
            cells = []
            for column, limit in self.limits.items():
                value = values.get(column)
                # Not `value > limit`: a NaN must fail.
                bad = value is not None and not value <= limit
                cells.append("-" if value is None else f"{value:.2e}" + ("!" if bad else ""))
                ok = ok and not bad
            print(line(name, cells))
        print(line("largest allowed", [f"{limit:.2e}" for limit in self.limits.values()]))
        print("passed" if ok else "FAILED (values marked !)", flush=True)
        return ok
