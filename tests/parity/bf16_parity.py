#!/usr/bin/env python3
"""How far a bf16 checkpoint learns in eight DPO steps by the same pairs: the fall of the loss from ln 2, on each of torchlora's compute
routes against its run in fp32, and beside it TRL's runs of the same checkpoint and adapter."""

import json
import math
import os
import shutil
import sys

import common

DATA = common.ROOT / "tests" / "data" / "dpo"
RUN = {"steps": 8, "rows": 8, "batch_size": 8, "lr": 1e-4, "lr_scheduler_type": "constant"}
TRL = {
    "trl, fp32": {},
    "trl, bf16=True": {"bf16": True},
    "trl, bf16=True over bf16 weights": {"bf16": True, "dtype": "bfloat16"},
}
OURS = {
    "torchlora, fp32": {"dtype": "float32"},
    "torchlora, native": {"dtype": "auto", "route": "native"},
    "torchlora, upcast": {"dtype": "auto", "route": "upcast"},
}
LIMITS = {"loss, step 2": math.inf, "loss, step 8": math.inf, "fall": math.inf, "TRL's off its fp32, rel": math.inf, "off fp32, rel": 0.05}


def bf16_checkpoint(folder):
    from safetensors.torch import load_file, save_file

    shutil.copytree(DATA / "model", folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    return folder


def trl_losses(runs, checkpoint, name, options):
    import trl_dpo

    out = runs / name.replace(" ", "_")
    args = trl_dpo.arguments(["--out", str(out), *common.flags({**RUN, **options, "model": checkpoint})])
    with common.quiet(runs / f"{out.name}.log"):
        trl_dpo.run(args)
    return out, [record["loss"] for record in json.loads((out / "reference.json").read_text())["steps"]]


def torchlora_losses(build, runs, checkpoint, reference, name, dtype, route=""):
    out = runs / name.replace(" ", "_")
    os.environ["TORCHLORA_COMPUTE_ROUTE"] = route
    common.torchlora_dpo(
        build, runs / f"{out.name}.log", model_name_or_path=checkpoint, dtype=dtype, dataset_name=reference / "train.jsonl",
        adapter_name_or_path=reference / "init_adapter", reference="base", max_steps=RUN["steps"], learning_rate=RUN["lr"],
        lr_scheduler_type=RUN["lr_scheduler_type"], max_length=256, per_device_train_batch_size=RUN["batch_size"],
        gradient_accumulation_steps=1, train_sampling_strategy="sequential", logging_steps=1, output_dir=out,
    )  # fmt: skip
    return [record["loss"] for record in common.log_history(out) if "loss" in record]


def main():
    build, runs = common.build_dir(__doc__)
    checkpoint = bf16_checkpoint(runs / "checkpoint")
    table = common.Table("DPO of a bf16 checkpoint: eight steps by the same pairs", LIMITS)

    def add(name, losses, exact, column):
        fall = math.log(2) - losses[-1]
        off = {} if exact is None else {column: abs(fall / exact - 1)}
        table.add(name, **{"loss, step 2": losses[1], "loss, step 8": losses[-1], "fall": fall, **off})
        return fall if exact is None else exact

    exact = reference = None
    for name, options in TRL.items():
        out, losses = trl_losses(runs, checkpoint, name, options)
        exact = add(name, losses, exact, "TRL's off its fp32, rel")
        reference = reference or out
    exact = None
    for name, options in OURS.items():
        exact = add(name, torchlora_losses(build, runs, checkpoint, reference, name, **options), exact, "off fp32, rel")
    return 0 if table.finish() else 1


if __name__ == "__main__":
    sys.exit(main())
