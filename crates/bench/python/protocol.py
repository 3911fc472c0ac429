"""What the Python workers share: their settings, MNIST, and the line protocol with the driver.

A request is a line on standard input: `train 50`, `validate`, `save`, `quit`. The answer is a line with a JSON object on
standard output. The worker speaks first, and says what it is.
"""

import argparse
import gzip
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

# Before any library starts: TensorFlow otherwise logs what it finds on this machine.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

VALIDATION_SIZE = 5_000


@dataclass
class Settings:
    variant: str
    data: Path  # the folder of MNIST's files
    order: Path  # the examples of all batches one after the other, as 32-bit integers
    saves: Path  # a folder of the worker's own
    batch: int
    width: float  # of the network, 1.0 for the tutorial's
    threads: int | None

    def channels(self, tutorials: int) -> int:
        return max(1, round(tutorials * self.width))


def settings() -> Settings:
    parser = argparse.ArgumentParser()
    parser.add_argument("variant")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--order", type=Path, required=True)
    parser.add_argument("--saves", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--threads", type=int)
    return Settings(**vars(parser.parse_args()))


class Data:
    """The training and the validation set: images `[examples, 28, 28]`, 0.0 to 1.0, and labels `[examples]`."""

    def __init__(self, settings: Settings):
        images = read_idx(settings.data, "train-images-idx3-ubyte").astype(np.float32) / np.float32(255)
        labels = read_idx(settings.data, "train-labels-idx1-ubyte").astype(np.int64)
        self.train_images, self.validation_images = images[VALIDATION_SIZE:], images[:VALIDATION_SIZE]
        self.train_labels, self.validation_labels = labels[VALIDATION_SIZE:], labels[:VALIDATION_SIZE]
        self.order = np.fromfile(settings.order, dtype="<u4").astype(np.int64)


def read_idx(folder: Path, name: str) -> np.ndarray:
    """Reads a file in MNIST's format, compressed by gzip or not."""
    packed = folder / f"{name}.gz"
    content = gzip.decompress(packed.read_bytes()) if packed.exists() else (folder / name).read_bytes()
    dimensions = content[3]
    shape = np.frombuffer(content, ">i4", dimensions, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


class Batches:
    """The examples of each iteration's batch, the same for all workers; from the start again after the last."""

    def __init__(self, order, size: int):
        self.order, self.size, self.next = order, size, 0

    def take(self):
        if self.next + self.size > len(self.order):
            self.next = 0
        begin, self.next = self.next, self.next + self.size
        return self.order[begin : self.next]


def serve(worker, **what_it_is):
    """Does what the driver asks until it asks to quit, and takes the time of it."""
    answer(what_it_is)
    for request in sys.stdin:
        start = time.perf_counter()
        match request.split():
            case ["train", iterations]:
                worker.train(int(iterations))
                answer({"seconds": time.perf_counter() - start})
            case ["validate"]:
                accuracy = worker.validate()
                answer({"seconds": time.perf_counter() - start, "accuracy": accuracy})
            case ["save"]:
                worker.save()
                answer({"seconds": time.perf_counter() - start})
            case ["quit"]:
                return
            case _:
                sys.exit(f"there is no such request: {request!r}")


def answer(content: dict):
    print(json.dumps(content), flush=True)
