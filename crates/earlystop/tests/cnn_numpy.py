"""Restores the tutorial's network from a checkpoint and classifies test images, with numpy alone.

Called by checkpoint_python.rs: cnn_numpy.py CHECKPOINT IMAGES_GZ LABELS_GZ COUNT; prints the number of correct ones.
"""

import gzip
import json
import sys

import numpy as np


def read(path):
    with open(path, "rb") as file:
        content = file.read()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__")
    arrays = {}
    for name, info in header.items():
        if info["dtype"] == "F32":
            begin, end = (start + offset for offset in info["data_offsets"])
            arrays[name] = np.frombuffer(content[begin:end], np.float32).reshape(info["shape"])
    return arrays


def conv_pool_relu(x, weight, bias):
    """x is [n, channels, height, width]."""
    padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(2, 3))
    x = np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True) + bias[:, None, None]
    n, channels, height, width = x.shape
    x = x.reshape(n, channels, height // 2, 2, width // 2, 2).max(axis=(3, 5))
    return np.maximum(x, 0)


checkpoint, images, labels, count = sys.argv[1:]
count = int(count)
variables = read(checkpoint)
x = np.frombuffer(gzip.open(images).read(), np.uint8, offset=16)[: count * 784]
y = np.frombuffer(gzip.open(labels).read(), np.uint8, offset=8)[:count]
x = x.reshape(count, 1, 28, 28).astype(np.float32) / 255
for layer in ["layer_conv1", "layer_conv2"]:
    x = conv_pool_relu(x, variables[layer + ".weight"], variables[layer + ".bias"])
x = x.reshape(count, -1)
x = np.maximum(x @ variables["layer_fc1.weight"].T + variables["layer_fc1.bias"], 0)
x = x @ variables["softmax_classifier.weight"].T + variables["softmax_classifier.bias"]
print((x.argmax(axis=1) == y).sum())
