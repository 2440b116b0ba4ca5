#!/usr/bin/env python3
"""Adapters of every layer type, variant and initializer, both ways: peft's in torchlora and torchlora's in peft.

"initial" is the largest difference of an update B A (of A, where B is zero), relative, when both make an adapter under the same seed. Initializers that peft cannot
make for a convolution or an embedding are compared on the linear layers. pissa_niter_N, corda and lora_ga are exchanged as plain LoRAs of the
original base, the others as they are. Their data are one sample a forward, as preprocess_corda takes no more; its inverse of an input's
covariance costs digits (of "down", which is ill-conditioned, three more in peft's ipm than here): hence the wider limit. peft adds the update of
an attention's out_proj twice: files are written for it and read as its by the options peft_multihead_attention.
"""

import sys
import warnings

import common

ALL, LINEAR = ["table", "conv1", "conv2", "up", "down"], ["up", "down"]
CASES = {
    "plain": (ALL, {}),
    "gaussian": (ALL, {"init_lora_weights": "gaussian"}),
    "rslora, patterns": (ALL, {"use_rslora": True, "rank_pattern": {"conv1": 2}, "alpha_pattern": {"up": 5}}),
    "dora": (ALL, {"use_dora": True}),
    "lora_bias": (ALL[1:], {"lora_bias": True}),
    "modules_to_save": (["up", "conv1"], {"modules_to_save": ["down", "conv2"]}),
    "trainable_token_indices": (["up", "conv1"], {"trainable_token_indices": {"table": [7, 3, 1, 12]}}),
    "bias": (["up", "conv1"], {"bias": "all"}),
    "bias of adapted layers": (["up", "conv1"], {"bias": "lora_only"}),
    "velora": (LINEAR, {"velora_config": {"num_groups": 3, "init_type": "random"}}),
    "kasa": (LINEAR, {"kasa_config": {"beta": 0.01}}),
    "olora": (LINEAR, {"init_lora_weights": "olora"}),
    "pissa": (LINEAR, {"init_lora_weights": "pissa"}),
    "pissa, dora": (LINEAR, {"init_lora_weights": "pissa", "use_dora": True}),
    "pissa_niter_4": (LINEAR, {"init_lora_weights": "pissa_niter_4"}),
    "orthogonal": (LINEAR, {"init_lora_weights": "orthogonal"}),
    "mica": (LINEAR, {"init_lora_weights": "mica"}),
    "corda, ipm": (["up"], {"init_lora_weights": "corda", "corda_config": {"corda_method": "ipm"}}),
    "corda, kpm": (LINEAR, {"init_lora_weights": "corda", "corda_config": {"corda_method": "kpm"}}),
    "lora_ga": (["up"], {"init_lora_weights": "lora_ga", "lora_ga_config": {"direction": "ArB2r", "scale": "stable"}}),
    "eva": (LINEAR, {"init_lora_weights": "eva", "eva_config": {"rho": 1.5, "tau": 0.9}}),
    "attention": (["mha", "up"], {"rank_pattern": {"mha": 3}}),
    "attention, bias": (["mha"], {"bias": "all"}),
    "attention, its biases": (["mha", "up"], {"bias": "lora_only"}),
    "attention, rslora": (["mha"], {"use_rslora": True}),
    "transposed": (["c_attn", "table"], {"fan_in_fan_out": True}),
    "transposed, bias": (["c_attn"], {"fan_in_fan_out": True, "lora_bias": True}),
    "transposed, pissa, dora": (["c_attn"], {"fan_in_fan_out": True, "init_lora_weights": "pissa", "use_dora": True}),
    "transposed and not": (["c_attn", "up"], {}),
    "parameters": (None, {"target_parameters": ["experts.up_proj", "experts.down_proj"], "rank_pattern": {"down_proj": 2}}),
    "parameters, gaussian": (["up"], {"target_parameters": ["down_proj", "transposed.up_proj"], "init_lora_weights": "gaussian"}),
    "parameters, random": ([], {"target_parameters": ["experts.up_proj", "experts.down_proj"], "init_lora_weights": False, "use_rslora": True}),
    "layer_replication": (["mix", "up"], {"layer_replication": [[0, 2], [1, 3], [0, 1]], "rank_pattern": {"layers.3.mix": 2}}),
}


def make_net():
    import replicated_net
    import torch
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    class Experts(nn.Module):
        def __init__(self, is_transposed):
            super().__init__()
            self.is_transposed = is_transposed
            self.up_proj = nn.Parameter(torch.randn(3, 12, 10) if is_transposed else torch.randn(3, 10, 12))
            self.down_proj = nn.Parameter(torch.randn(3, 10, 12) if is_transposed else torch.randn(3, 12, 10))

        def forward(self, x, ids):
            up, down = self.up_proj, self.down_proj
            if self.is_transposed:
                up, down = up.transpose(1, 2), down.transpose(1, 2)
            return torch.einsum("btoi,bti->bto", down[ids], torch.tanh(torch.einsum("btoi,bti->bto", up[ids], x) * 0.3)) * 0.3

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(12, 12)

        def forward(self, x):
            return x + torch.tanh(self.mix(x)) * 0.3

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(20, 8, padding_idx=3)
            self.conv1 = nn.Conv1d(8, 8, 3, padding=1)
            self.conv2 = nn.Conv2d(1, 4, 3, padding=1)
            self.mha = nn.MultiheadAttention(8, 2)
            self.c_attn = Conv1D(12, 8)
            self.experts = Experts(False)
            self.transposed = Experts(True)
            self.up = nn.Linear(12, 16)
            self.down = nn.Linear(16, 6)
            self.model = replicated_net.Stack(Block() for _ in range(3))

        def forward(self, ids):
            x = self.table(ids)
            y = x.transpose(0, 1)
            x = x + self.mha(y, y, y, need_weights=False)[0].transpose(0, 1)
            x = torch.tanh(self.conv1(x.transpose(1, 2)).transpose(1, 2))
            x = torch.tanh(self.conv2(x.unsqueeze(1))).mean(1)
            x = torch.tanh(self.c_attn(x))
            x = x + self.experts(x, ids % 3) + self.transposed(x, (ids + 1) % 3)
            return self.down(torch.tanh(self.up(self.model(x))))

    torch.manual_seed(0)
    net = Net()
    nn.init.normal_(net.c_attn.weight, std=0.3)
    return net


def updates(folder, like=None):
    """B A of each layer of an adapter. lora_ga leaves the signs of A and of B open: with `like`, another adapter's folder, they are made its."""
    from safetensors.torch import load_file

    tensors, other = (load_file(f / "adapter_model.safetensors") if f else None for f in (folder, like))
    result = {}
    for key, A in tensors.items():
        if "lora_A" not in key and "lora_embedding_A" not in key:
            continue
        partner = key.replace("lora_A", "lora_B").replace("embedding_A", "embedding_B")
        B = tensors[partner]
        if other:
            A, B = A * (A * other[key]).sum(1, keepdim=True).sign(), B * (B * other[partner]).sum(0).sign()
        result[key] = B.flatten(1) @ A.flatten(1) if B.any() else A
    return result


def relative(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-3)).item()


def adapt(net, config, ids):
    """peft's adapter, from the data where it takes them."""
    import peft
    from peft.tuners.lora.corda import preprocess_corda
    from peft.tuners.lora.loraga import preprocess_loraga

    samples = [sample.unsqueeze(0) for sample in ids]
    if config.init_lora_weights == "corda":
        preprocess_corda(net, config, run_model=lambda: [net(sample) for sample in samples])
    elif config.init_lora_weights == "lora_ga":
        preprocess_loraga(net, config, lambda: [net(sample).square().mean().backward() for sample in samples])
    model = peft.get_peft_model(net, config)
    if config.init_lora_weights == "eva":
        peft.initialize_lora_eva_weights(model, dataloader=samples, forward_fn=lambda model, sample: model(sample), prepare_model_inputs_fn=None,
                                         prepare_layer_inputs_fn=None, show_progress_bar=False)  # fmt: skip
    return model


def compare(build, folder, ids, targets, values):
    import peft
    import torch
    from safetensors.torch import load_file

    base, given = folder.parent / "base.safetensors", folder.parent / "ids.safetensors"
    program = build / "tests" / "parity_layers"
    converts = values.get("init_lora_weights") in ("pissa_niter_4", "corda", "lora_ga")
    torch.manual_seed(42)
    net = make_net()
    torch.manual_seed(42)
    config = peft.LoraConfig(r=2 if values.get("init_lora_weights") == "lora_ga" else 4, lora_alpha=6, target_modules=targets, **values)
    config.save_pretrained(folder / "peft" / "config")
    model = adapt(net, config, ids)
    if converts:
        model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(folder / "peft" / "initial")
    model.peft_config["default"].init_lora_weights = values.get("init_lora_weights", True)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape) * 0.2)
        theirs = model(ids)
    convert = {"path_initial_model_for_weight_conversion": str(folder / "peft" / "initial")} if converts else {}
    model.save_pretrained(folder / "peft" / "trained", **convert)
    common.run_program(program, ["load", base, folder / "peft" / "trained", given, folder / "theirs.safetensors"], folder / "load.log")
    ours = load_file(folder / "theirs.safetensors")

    common.run_program(program, ["make", base, folder / "peft" / "config", given, folder / "ours"], folder / "make.log")
    made = load_file(folder / "ours" / "output.safetensors")["output"]
    like = folder / "peft" / "initial" if values.get("init_lora_weights") == "lora_ga" else None
    first, expected = updates(folder / "ours" / "initial", like), updates(folder / "peft" / "initial")
    assert first.keys() == expected.keys(), first.keys() ^ expected.keys()
    result = {
        "peft's in torchlora": relative(ours["output"], theirs),
        "merged": relative(ours["merged"], theirs),
        "initial": max(relative(first[key], value) for key, value in expected.items()),
    }
    if targets and "mha" in targets:
        del result["initial"]  # peft draws an attention's factors again and again
    for kind in ("raw", "plain"):
        if kind == "raw" and converts:
            continue
        with torch.no_grad():
            loaded = peft.PeftModel.from_pretrained(make_net(), folder / "ours" / kind).eval()
            keys = set(peft.get_peft_model_state_dict(loaded))
            result[f"torchlora's in peft, {kind}"] = relative(loaded(ids), made)
        assert keys == set(load_file(folder / "ours" / kind / "adapter_model.safetensors")), "missing or unexpected keys"
        if "init_lora_weights" not in values or values["init_lora_weights"] in (False, "gaussian", "orthogonal", "mica", "eva"):
            break  # nothing to convert
    return result


def compare_intruders(build, folder, ids):
    import peft
    import torch
    from peft.tuners.lora.intruders import reduce_intruder_dimension
    from safetensors.torch import load_file

    model = peft.get_peft_model(make_net(), peft.LoraConfig(r=4, lora_alpha=6, target_modules=LINEAR))
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.normal_(0, 0.3)
        model.save_pretrained(folder / "adapter")
        lines = []
        reduce_intruder_dimension(model, "default", "reduced", 5, 0.9, 0.3, logging_sink=lines.append)
        count = sum(int(line.split()[-1]) for line in lines if "Intruders:" in line)
        theirs = model(ids)
    output = folder / "reduced.safetensors"
    base, given = folder.parent / "base.safetensors", folder.parent / "ids.safetensors"
    common.run_program(build / "tests" / "parity_layers", ["reduce", base, folder / "adapter", given, output], folder / "reduce.log")
    ours = load_file(output)
    assert 0 < count == ours["count"].item(), (count, ours["count"])
    return {"peft's in torchlora": relative(ours["output"], theirs)}


def main():
    build, runs = common.build_dir(__doc__)
    import torch
    from safetensors.torch import save_file

    columns = ["peft's in torchlora", "merged", "initial", "torchlora's in peft, raw", "torchlora's in peft, plain"]
    table = common.Table("Every layer type, variant and initializer against peft, relative", dict.fromkeys(columns, 2e-5) | {"initial": 1e-4})
    save_file({name: p.detach().clone() for name, p in make_net().named_parameters()}, runs / "base.safetensors")
    ids = torch.randint(0, 20, (3, 7), generator=torch.Generator().manual_seed(1))
    save_file({"ids": ids}, runs / "ids.safetensors")
    for name, (targets, values) in CASES.items():
        folder = runs / name.replace(", ", "_")
        (folder / "ours").mkdir(parents=True)
        with common.quiet(folder / "peft.log"), warnings.catch_warnings():
            result = compare(build, folder, ids, targets, values)
        table.add(name, **result)
    folder = runs / "intruders"
    folder.mkdir()
    with common.quiet(folder / "peft.log"), warnings.catch_warnings():
        result = compare_intruders(build, folder, ids)
    table.add("intruders reduced", **result)
    return 0 if table.finish() else 1


if __name__ == "__main__":
    sys.exit(main())
