#!/usr/bin/env python3
"""Writes tests/data/lora/versions: adapters by older versions of peft.
    make_version_goldens.py VERSION FOLDER …
with peft VERSION installed by `pip install --no-deps --target FOLDER peft==VERSION`.

  <version>/adapter_config.json, adapter_model.safetensors (0.10.0: adapter_model.bin, as if saved on a GPU)
  <version>/reference.safetensors   base.<name>, ids, output
"""
import os
import shutil
import subprocess
import sys
import zipfile

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "lora", "versions")


def say_it_was_on_a_gpu(path):
    with zipfile.ZipFile(path) as old:
        entries = [(item, old.read(item)) for item in old.infolist()]
    with zipfile.ZipFile(path, "w") as new:
        for item, data in entries:
            name = b"X\x03\x00\x00\x00cpu"
            new.writestr(item, data.replace(name, b"X\x06\x00\x00\x00cuda:0") if item.filename.endswith("data.pkl") else data)


def make(version):
    import peft
    import torch
    from safetensors.torch import save_file
    from small_net import Net

    assert peft.__version__ == version, peft.__version__

    torch.manual_seed(0)
    net = Net()
    tensors = {"base." + k: v.detach().clone() for k, v in net.named_parameters()}
    dora = version < "0.14"  # which has no DoRA of embeddings either
    values = {"use_dora": dora, "target_modules": ["up", "head"] + ([] if dora else ["embed_tokens"])}
    model = peft.get_peft_model(net, peft.LoraConfig(r=4, lora_alpha=6, use_rslora=True, rank_pattern={"head": 2}, modules_to_save=["score"], **values))
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape) * 0.2)
    ids = torch.randint(0, 12, (3, 5))
    tensors |= {"ids": ids, "output": net(ids).detach()}
    folder = os.path.join(DATA, version)
    model.save_pretrained(folder, safe_serialization=version != "0.10.0")
    os.remove(os.path.join(folder, "README.md"))
    if version == "0.10.0":
        say_it_was_on_a_gpu(os.path.join(folder, "adapter_model.bin"))
    save_file(tensors, os.path.join(folder, "reference.safetensors"))


def main():
    if len(sys.argv) == 2:
        return make(sys.argv[1])
    shutil.rmtree(DATA, ignore_errors=True)
    for version, folder in zip(sys.argv[1::2], sys.argv[2::2]):
        subprocess.run([sys.executable, __file__, version], check=True, env={**os.environ, "PYTHONPATH": folder})


if __name__ == "__main__":
    main()
