"""Writes optimizers.json: what PyTorch's optimizers and schedules compute, for the tests in src/optimizer.

Run with PyTorch 2.13: python optimizers.py > optimizers.json
"""

import json
import math

import torch
from torch.optim import SGD, Adam, AdamW, RMSprop, lr_scheduler

STEPS = [1, 2, 3, 10, 100, 300]


def gradient(step, begin, count, shape):
    values = [math.sin(1.7 * step + 0.9 * index) * (1 + index) * 0.3 for index in range(begin, begin + count)]
    return torch.tensor(values, dtype=torch.float64).to(torch.float32).reshape(shape)


def run(make, clip=None, schedule=None):
    weight = torch.nn.Parameter(torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.25, -0.125]]))
    bias = torch.nn.Parameter(torch.tensor([0.1, -0.2]))
    optimizer = make(weight, bias)
    schedule = schedule and schedule(optimizer)
    found = []
    for step in range(1, max(STEPS) + 1):
        weight.grad, bias.grad = gradient(step, 0, 6, [2, 3]), gradient(step, 6, 2, [2])
        if clip:
            clip([weight, bias])
        optimizer.step()
        if schedule:
            schedule.step()
        if step in STEPS:
            found.append(weight.detach().flatten().tolist() + bias.detach().tolist())
    return found


def groups(weight, bias):
    return [{"params": [weight]}, {"params": [bias], "lr": 0.001, "weight_decay": 0.0}]


utils = torch.nn.utils
runs = {
    "sgd": run(lambda w, b: SGD([w, b], lr=0.01)),
    "sgd momentum": run(lambda w, b: SGD([w, b], lr=0.01, momentum=0.9)),
    "sgd nesterov decay": run(lambda w, b: SGD([w, b], lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1)),
    "rms_prop": run(lambda w, b: RMSprop([w, b], lr=0.01)),
    "rms_prop momentum decay": run(lambda w, b: RMSprop([w, b], lr=0.01, momentum=0.5, weight_decay=0.1)),
    "adam": run(lambda w, b: Adam([w, b], lr=0.01)),
    "adam betas epsilon decay": run(lambda w, b: Adam([w, b], lr=0.01, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1)),
    "adam_w": run(lambda w, b: AdamW([w, b], lr=0.01)),
    "adam_w groups": run(lambda w, b: AdamW(groups(w, b), lr=0.01, weight_decay=0.5)),
    "sgd clip norm": run(lambda w, b: SGD([w, b], lr=0.01), lambda p: utils.clip_grad_norm_(p, 1.0)),
    "adam clip value": run(lambda w, b: Adam([w, b], lr=0.01), lambda p: utils.clip_grad_value_(p, 0.5)),
    "sgd one cycle": run(
        lambda w, b: SGD([w, b], lr=0.01),
        schedule=lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=301, cycle_momentum=False),
    ),
}


def rates(schedule):
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = schedule(optimizer)
    found = []
    for _ in range(100):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


schedules = {
    "step": rates(lambda o: lr_scheduler.StepLR(o, 7, 0.5)),
    "exponential": rates(lambda o: lr_scheduler.ExponentialLR(o, 0.97)),
    "cosine": rates(lambda o: lr_scheduler.CosineAnnealingLR(o, 100)),
    "one_cycle": rates(lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=101))[:100],
}

print(json.dumps({"steps": STEPS, "runs": runs, "schedules": schedules}, indent=1))
