#!/usr/bin/env python3
"""Writes tests/data/safetensors/all_dtypes.safetensors with the safetensors package: a tensor of shape [2, 3] of every dtype that the
package and torch share, named by it; byte i of its data is (37 i + 11) mod 256 (BOOL: i mod 2); beside them a scalar, an empty tensor
and a transposed one."""
import os

import torch
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
DTYPES = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "bfloat16", "float32", "float64",
          "complex64", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"]


def main():
    tensors = {}
    for name in DTYPES:
        dtype = getattr(torch, name)
        i = torch.arange(6 * dtype.itemsize)
        data = i % 2 if dtype == torch.bool else (37 * i + 11) % 256
        tensors[name] = data.to(torch.uint8).view(dtype).view(2, 3)
    tensors["scalar"] = torch.tensor(2.5)
    tensors["empty"] = torch.zeros(0, 3)
    tensors["transposed"] = torch.arange(6.0).view(2, 3).t().contiguous()
    path = os.path.join(HERE, "..", "data", "safetensors", "all_dtypes.safetensors")
    save_file(tensors, path, metadata={"format": "pt"})
    os.chmod(path, 0o644)


if __name__ == "__main__":
    main()
