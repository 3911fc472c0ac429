"""Reads a checkpoint with numpy alone, and writes one as PyTorch users do.

Called by checkpoint_python.rs: checkpoint_numpy.py OURS THEIRS
"""

import hashlib
import json
import sys

import numpy as np

DTYPES = {"F32": np.float32, "F64": np.float64, "I64": np.int64, "U8": np.uint8, "BOOL": np.bool_}


def read(path):
    with open(path, "rb") as file:
        content = file.read()
    length = int.from_bytes(content[:8], "little")
    raw, data = content[8 : 8 + length], content[8 + length :]
    header = json.loads(raw)
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, info in header.items():
        start, end = info["data_offsets"]
        tensors[name] = np.frombuffer(data[start:end], DTYPES[info["dtype"]]).reshape(info["shape"])
        if hashlib.sha256(data[start:end]).hexdigest() != metadata["checkpoint.sha256/" + name]:
            sys.exit(f"the checksum of {name} is wrong")
    own = metadata["checkpoint.sha256"]
    if hashlib.sha256(raw.replace(own.encode(), b"0" * 64)).hexdigest() != own:
        sys.exit("the checksum of the header is wrong")
    return tensors, metadata


def write(path, tensors):
    header, data = {}, b""
    for name, array in tensors.items():
        content = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    raw = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw + data)


ours, theirs = sys.argv[1:]
tensors, metadata = read(ours)
conv, dense, steps = tensors["conv.weight"], tensors["fc.weight"], tensors["steps"]
np.testing.assert_array_equal(conv, np.arange(2 * 3 * 5 * 4, dtype=np.float32).reshape(2, 3, 5, 4))
np.testing.assert_array_equal(dense, np.arange(6, dtype=np.float32).reshape(2, 3))
assert steps.dtype == np.int64 and steps.shape == () and steps == 5800
assert metadata["history"] == '[{"iteration": 100, "accuracy": 0.852}]'
write(theirs, {"fc.weight": dense * 2, "conv.weight": conv * 2})

try:
    import safetensors.numpy
except ImportError:
    print("numpy")
else:
    for name, array in safetensors.numpy.load_file(ours).items():
        np.testing.assert_array_equal(array, tensors[name])
    print("numpy and safetensors")
