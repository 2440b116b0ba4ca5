#!/usr/bin/env python3
"""Adapters of `torchlora dpo` in peft: loaded onto the whole multimodal checkpoint, with every way to name targets.

peft must take the folder without an error, a missing or an unexpected key, and give the logits that torchlora's merged model has. Also: with
the same seed the A factors are bit-equal to those that peft draws. And an adapter by peft with trainable_token_indices, whose rows the tied
head sees too, in torchlora.
"""

import json
import sys
import warnings

import common

CHECKPOINT = common.ROOT / "tests" / "data" / "tiny" / "E2B"
TARGETS = {
    "default": None,
    "list": ["q_proj", "v_proj"],
    "list with k_proj": ["q_proj", "k_proj", "o_proj", "gate_proj"],
    "all-linear": ["all-linear"],
    "regex": [r".*language_model\..*\.(up_proj|down_proj|per_layer_input_gate)"],
    "excluding": {"target": ["q_proj", "v_proj"], "exclude": ["vision_tower", "audio_tower"]},
}


def train(build, out, targets, **values):
    exclude = None
    if isinstance(targets, dict):
        targets, exclude = targets["target"], targets["exclude"]
    common.torchlora_dpo(
        build, out.with_suffix(".log"), model_name_or_path=CHECKPOINT, dtype="float32",
        dataset_name=common.ROOT / "data" / "rasbt_pref_train.jsonl", max_length=64, per_device_train_batch_size=2,
        lora_target_modules=targets, exclude_modules=exclude, lora_r=4, lora_alpha=8, output_dir=out, **values,
    )  # fmt: skip


def load(folder):
    import torch
    from transformers import Gemma4ForConditionalGeneration

    return Gemma4ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def initial_factors_differ(adapter):
    """How many A factors differ from those of peft under the same seed."""
    import peft
    import torch
    from safetensors.torch import load_file

    base = load(CHECKPOINT)
    config = peft.LoraConfig.from_pretrained(adapter)
    config.inference_mode = False
    torch.manual_seed(42)
    model = peft.get_peft_model(base, config)
    theirs = peft.get_peft_model_state_dict(model)
    ours = load_file(adapter / "adapter_model.safetensors")
    return sum(not torch.equal(ours[key], value) for key, value in theirs.items() if "lora_A" in key)


def compare(build, out, targets):
    import peft
    import torch
    from safetensors.torch import load_file

    train(build, out, targets, max_steps=3, learning_rate=1e-2, merged_output_dir=out.with_name(out.name + "-merged"))
    train(build, out.with_name(out.name + "-untrained"), targets, max_steps=1, learning_rate=0)
    torch.manual_seed(0)
    ids = torch.randint(10, 490, (2, 24))
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(load(CHECKPOINT), out).eval()
        keys = set(peft.get_peft_model_state_dict(model))
        logits = model(input_ids=ids).logits
        merged = load(out.with_name(out.name + "-merged"))(input_ids=ids).logits
        base = load(CHECKPOINT)(input_ids=ids).logits
    ours = set(load_file(out / "adapter_model.safetensors"))
    assert (logits - base).abs().max() > 1e-3, "the adapter changes nothing"
    scale = max(1.0, logits.abs().max().item())
    # The merged folder keeps the checkpoint's bf16, so its logits are compared loosely here; the program itself checked the merge.
    config = json.loads((out / "adapter_config.json").read_text())
    print(f"  {out.name}: {len(ours) // 2} layers, target_modules {str(config['target_modules'])[:80]}")
    return {
        "missing": len(keys - ours),
        "unexpected": len(ours - keys),
        "warnings": sum("adapter" in str(w.message) for w in caught),
        "logits": common.program_logits_difference(build, CHECKPOINT, out, ids, logits),
        "merged (bf16), rel": (logits - merged).abs().max().item() / scale,
        "A differs": initial_factors_differ(out.with_name(out.name + "-untrained")),
    }


def compare_token_rows(build, folder):
    import peft
    import torch

    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, target_modules=TARGETS["regex"][0], trainable_token_indices=[300, 17, 2, 450])
    model = peft.get_peft_model(load(CHECKPOINT), config)
    ids = torch.randint(10, 490, (2, 24))
    ids[0, 3] = ids[1, 7] = 300
    ids[:, 0] = 2
    with torch.no_grad():
        base = model(input_ids=ids).logits
        for name, parameter in model.named_parameters():
            if "trainable_tokens_delta" in name:
                parameter.add_(torch.randn(parameter.shape) * parameter.std())
        logits = model(input_ids=ids).logits
    assert ((logits - base).abs().amax((0, 1)) > 1e-3)[[300, 450]].all(), "the head does not see the rows"
    model.save_pretrained(folder)
    return {"logits": common.program_logits_difference(build, CHECKPOINT, folder, ids, logits)}


def main():
    build, runs = common.build_dir(__doc__)
    limits = {"missing": 0, "unexpected": 0, "warnings": 0, "logits": 1e-4, "merged (bf16), rel": 0.1, "A differs": 0}
    table = common.Table("Adapters in peft, on the multimodal tiny E2B", limits)
    for name, targets in TARGETS.items():
        table.add(name, **compare(build, runs / name.replace(" ", "_"), targets))
    table.add("rows of the tied table", **compare_token_rows(build, runs / "rows"))
    return 0 if table.finish() else 1


if __name__ == "__main__":
    sys.exit(main())
