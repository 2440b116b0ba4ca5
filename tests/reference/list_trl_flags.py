#!/usr/bin/env python3
"""Writes tests/data/cli/trl_flags.txt: the names of all flags of `trl dpo`, one per line."""
import dataclasses
import pathlib

from trl import DPOConfig, ModelConfig, ScriptArguments
from trl.scripts.utils import DatasetMixtureConfig

FILE = pathlib.Path(__file__).parent.parent / "data" / "cli" / "trl_flags.txt"

if __name__ == "__main__":
    names = {
        field.name
        for config in (ScriptArguments, DPOConfig, ModelConfig, DatasetMixtureConfig)
        for field in dataclasses.fields(config)
        if field.init
    }
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text("\n".join(sorted(names)) + "\n")
