"""Saves and loads a state by safetensors: `with_safetensors.py TENSORS VALUES`, VALUES for each tensor.

A request is a line on standard input: `save PATH` or `load PATH`. The answer is a line with the seconds that it took.
"""

import os
import sys
import time

import numpy as np
from safetensors.numpy import load_file, save_file

TENSORS, VALUES = int(sys.argv[1]), int(sys.argv[2])


def save(state, path):
    start = time.perf_counter()
    save_file(state, path)
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    return time.perf_counter() - start


def load(path):
    start = time.perf_counter()
    load_file(path)
    return time.perf_counter() - start


state = None
for line in sys.stdin:
    action, path = line.rstrip("\n").split(" ", 1)
    if action == "save":
        if state is None:
            state = {f"t{i}": np.random.default_rng(i).random(VALUES, np.float32) for i in range(TENSORS)}
        print(save(state, path), flush=True)
    else:
        state = None
        print(load(path), flush=True)
