#!/usr/bin/env python3
"""examples/llama.cpp, plain torch::nn, against transformers' Llama with peft's adapter, both ways.

"base" and "logits" are the largest differences without and with the adapter that peft saved, "losses" those over 20 steps of training from it,
"trained" that of the logits after them, "saved" that of peft's logits with the adapter that the example saved.
"""

import re
import sys

import common
import tiny_llama

STEPS = 20
ALL = tiny_llama.TARGETS
CASES = {
    "tied, bf16": (tiny_llama.write_hub_folder, {"target_modules": ALL}),
    "tied, with the table": (tiny_llama.write_hub_folder, {"target_modules": [*ALL, "embed_tokens"]}),
    "shards": (tiny_llama.write_sharded_folder, {"target_modules": ALL, "rank_pattern": {"q_proj": 2}}),
    "shards, table and head": (tiny_llama.write_sharded_folder, {"target_modules": [*ALL, "embed_tokens", "lm_head"]}),
    "shards, dora": (tiny_llama.write_sharded_folder, {"target_modules": ["q_proj", "v_proj", "down_proj"], "use_dora": True}),
    "modules_to_save": (tiny_llama.write_sharded_folder, {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["lm_head", "model.norm"]}),
}


def run_example(build, folder, name, *options):
    """The example's logits of the first sequence after it has trained, and its losses."""
    from safetensors.torch import load_file

    log, logits = folder / f"{name}.log", folder / f"{name}.safetensors"
    words = [folder / "model", folder / "ids.txt", folder / name, f"lr={tiny_llama.LEARNING_RATE}", f"logits={logits}", *options]
    common.run_program(build / "examples" / "llama", words, log)
    losses = [float(loss) for loss in re.findall(r"^step \d+ loss (\S+)$", log.read_text(), re.MULTILINE)]
    return load_file(logits)["logits"], losses


def compare(build, folder, write_folder, values):
    import torch

    model_dir, given = folder / "model", folder / "adapter"
    write_folder(model_dir)
    tiny_llama.write_adapter(model_dir, given, **values)
    sequences = tiny_llama.write_ids(folder / "ids.txt")

    def difference(ours, model):
        with torch.no_grad():
            return (ours - model(input_ids=torch.tensor(sequences[:1])).logits).abs().max().item()

    base = tiny_llama.load_model(model_dir).eval()
    fresh, _ = run_example(build, folder, "fresh", "steps=0")
    model = tiny_llama.load_adapted(model_dir, given, is_trainable=True).eval()
    loaded, _ = run_example(build, folder, "loaded", f"adapter={given}", "steps=0")
    assert difference(loaded, base) > 1e-2, "the adapter changes nothing"
    result = {"base": difference(fresh, base), "logits": difference(loaded, model)}

    theirs = tiny_llama.train(model, sequences, STEPS)
    trained, ours = run_example(build, folder, "trained", f"adapter={given}", f"steps={STEPS}")
    assert len(ours) == STEPS
    result["losses"] = max(abs(a - b) for a, b in zip(ours, theirs))
    result["trained"] = difference(trained, model)
    result["saved"] = difference(trained, tiny_llama.load_adapted(model_dir, folder / "trained").eval())
    return result


def main():
    build, runs = common.build_dir(__doc__)
    columns = ["base", "logits", "losses", "trained", "saved"]
    table = common.Table("A Llama in plain torch::nn against transformers and peft", dict.fromkeys(columns, 1e-5) | {"trained": 5e-5})
    for name, (write_folder, values) in CASES.items():
        folder = runs / name.replace(", ", "_").replace(" ", "_")
        folder.mkdir()
        with common.quiet(folder / "peft.log"):
            result = compare(build, folder, write_folder, values)
        table.add(name, **result)
    return 0 if table.finish() else 1


if __name__ == "__main__":
    sys.exit(main())
