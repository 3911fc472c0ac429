"""Rewrites a checkpoint by the package safetensors, and writes element types of its own.

Called by checkpoint_python.rs: checkpoint_safetensors.py OURS FOLDER
"""

import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

ours, folder = Path(sys.argv[1]), Path(sys.argv[2])
with safe_open(ours, "np") as file:
    metadata = file.metadata()
tensors = load_file(ours)
save_file(tensors, folder / "same.safetensors", metadata)
save_file(tensors | {"fc.weight": tensors["fc.weight"] + 1}, folder / "changed.safetensors", metadata)
save_file({"fc.weight": tensors["fc.weight"]}, folder / "fewer.safetensors", metadata)

weight = np.array([[0.5, -3.0], [1e-3, 1e4]])
for name in ["float16", "float32", "float64"]:
    save_file({"w": weight.astype(name)}, folder / f"{name}.safetensors")
odd = {"u16": np.array([1, 2], np.uint16), "u32": np.array([3], np.uint32), "u64": np.array([4], np.uint64)}
save_file(odd | {"w": weight.astype(np.float16)}, folder / "odd.safetensors")
