"""The tutorial's job in PyTorch, as its Quickstart and its classifier tutorial write it.

`eager` is that and no more. `channels-last` adds what PyTorch's tuning guide advises for a CPU: memory in that order, and the
fused form of Adam. Compiling the model, which it advises too, made it slower here.
"""

import platform

import torch
import torch.nn.functional as F
from torch import nn

from protocol import Batches, Data, serve, settings

SETTINGS = settings()
TUNED = {"eager": False, "channels-last": True}[SETTINGS.variant]
LAYOUT = torch.channels_last if TUNED else torch.contiguous_format
# Of 256 and 1,000 the faster one.
VALIDATION_BATCH = 256


class Net(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels(16), 5, padding="same")
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(channels(16), channels(36), 5, padding="same")
        self.fc1 = nn.Linear(channels(36) * 7 * 7, channels(128))
        self.fc2 = nn.Linear(channels(128), 10)
        for layer in (self.conv1, self.conv2, self.fc1):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.xavier_uniform_(self.fc2.weight)
        for layer in (self.conv1, self.conv2, self.fc1, self.fc2):
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        return self.fc2(x)


class Worker:
    def __init__(self):
        data = Data(SETTINGS)
        self.train_images = torch.from_numpy(data.train_images).unsqueeze(1)
        self.train_labels = torch.from_numpy(data.train_labels)
        self.validation_images = torch.from_numpy(data.validation_images).unsqueeze(1)
        self.validation_labels = torch.from_numpy(data.validation_labels)
        self.batches = Batches(torch.from_numpy(data.order), SETTINGS.batch)
        self.model = Net(SETTINGS.channels).to(memory_format=LAYOUT)
        self.loss_fn = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4, fused=True if TUNED else None)

    def train(self, iterations):
        self.model.train()
        for _ in range(iterations):
            batch = self.batches.take()
            X, y = self.train_images[batch].to(memory_format=LAYOUT), self.train_labels[batch]
            loss = self.loss_fn(self.model(X), y)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def validate(self):
        self.model.eval()
        correct = 0.0
        images, labels = self.validation_images, self.validation_labels
        with torch.no_grad():
            for X, y in zip(images.split(VALIDATION_BATCH), labels.split(VALIDATION_BATCH)):
                pred = self.model(X.to(memory_format=LAYOUT))
                correct += (pred.argmax(1) == y).type(torch.float).sum().item()
        return correct / len(labels)

    def save(self):
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state, SETTINGS.saves / "state.pt")


if SETTINGS.threads is not None:
    torch.set_num_threads(SETTINGS.threads)
serve(
    Worker(),
    threads=torch.get_num_threads(),
    validation_batch=VALIDATION_BATCH,
    versions={"PyTorch": torch.__version__, "Python": platform.python_version()},
)
