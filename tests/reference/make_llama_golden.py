#!/usr/bin/env python3
"""Writes tests/data/llama: a tiny Llama in the layout of SmolLM2, an adapter of peft for it, token ids, and in losses.txt the losses of peft's
20 training steps with them."""

import shutil
from pathlib import Path

import tiny_llama

FOLDER = Path(__file__).resolve().parents[1] / "data" / "llama"


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    tiny_llama.write_hub_folder(FOLDER)
    tiny_llama.write_adapter(FOLDER, FOLDER / "adapter", target_modules=tiny_llama.TARGETS)
    sequences = tiny_llama.write_ids(FOLDER / "ids.txt")
    losses = tiny_llama.train(tiny_llama.load_adapted(FOLDER, FOLDER / "adapter", is_trainable=True), sequences, 20)
    (FOLDER / "losses.txt").write_text("".join(f"{loss:.7f}\n" for loss in losses))


if __name__ == "__main__":
    main()
