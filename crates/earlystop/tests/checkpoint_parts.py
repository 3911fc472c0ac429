"""Reads a state in several files as Hugging Face's programs do, and writes another one.

Called by checkpoint_python.rs: checkpoint_parts.py OURS.safetensors.index.json THEIRS.safetensors
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

ours, theirs = Path(sys.argv[1]), Path(sys.argv[2])
index = json.loads(ours.read_text())
tensors = {}
for name in sorted(set(index["weight_map"].values())):
    with safe_open(ours.parent / name, "np") as file:
        assert file.metadata()["format"] == "pt"
        for tensor in file.keys():
            assert index["weight_map"][tensor] == name, tensor
            tensors[tensor] = file.get_tensor(tensor)
assert tensors.keys() == index["weight_map"].keys()
assert sum(tensor.nbytes for tensor in tensors.values()) == index["metadata"]["total_size"]
for name, tensor in tensors.items():
    assert (tensor == np.arange(tensor.size, dtype=tensor.dtype).reshape(tensor.shape)).all(), name

# As `save_pretrained` splits and names a state, and writes its index.
tensors = {name: np.asarray(tensor * 2) for name, tensor in tensors.items()}
weight_map = {}
for number, (name, tensor) in enumerate(tensors.items(), 1):
    part = f"{theirs.stem}-{number:05d}-of-{len(tensors):05d}.safetensors"
    save_file({name: tensor}, theirs.with_name(part), metadata={"format": "pt"})
    weight_map[name] = part
total_size = sum(tensor.nbytes for tensor in tensors.values())
content = json.dumps({"metadata": {"total_size": total_size}, "weight_map": weight_map}, indent=2, sort_keys=True)
Path(f"{theirs}.index.json").write_text(content + "\n", encoding="utf-8")
