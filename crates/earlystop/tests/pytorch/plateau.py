"""Writes plateau.json: the learning rates of PyTorch's ReduceLROnPlateau, for the test in src/early_stopping/plateau.rs.

Run with PyTorch 2.13: python plateau.py > plateau.json
"""

import json
import random

import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau


def run(scores, settings):
    # With a rate of 1, the learning rate is the product of the reductions.
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = ReduceLROnPlateau(optimizer, eps=0.0, **settings)
    rates = []
    for score in scores:
        schedule.step(score)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


random.seed(4)
cases = []
for _ in range(40):
    scores = [random.choice([round(random.random(), 3), random.randint(1, 8) / 8]) for _ in range(30)]
    settings = {
        "mode": random.choice(["min", "max"]),
        "factor": random.choice([0.1, 0.3, 0.5, 0.9]),
        "patience": random.randint(0, 4),
        "threshold": random.choice([0.0, 1e-4, 0.125, 0.25]),
        "threshold_mode": random.choice(["rel", "abs"]),
        "cooldown": random.choice([0, 0, 1, 3]),
        "min_lr": random.choice([0.0, 0.0, 0.01, 0.2]),
    }
    cases.append({**settings, "scores": scores, "rates": run(scores, settings)})

print(json.dumps(cases))
