"""Nets of the benchmark of certified training."""

import copy
from typing import Any

import torch
from torch import nn

from benchmarks._pictures import Images

#: What black and white pixels may move by, which the ramp takes back at the start.
EPS = 0.3


class Ramp(nn.Module):
    """``clip(a * x + b, 0, 1)`` at each pixel."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(1 / (high - low)))
        self.b = nn.Parameter(torch.tensor(-low / (high - low)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return pixels in [0, 1]."""
        return (x * self.a + self.b).clamp(0, 1)


class BoundedNet(Images):
    """Two convolutions and a hidden layer, each normalized; made for tight bounds."""

    def __init__(self, width: list[int], ramp: bool, narrow: bool = False) -> None:
        first, second, hidden = width
        super().__init__(
            *([Ramp(EPS, 1 - EPS)] if ramp else []),
            nn.Conv2d(1, first, 4, stride=2, padding=1, bias=False),
            *(nn.BatchNorm2d(first), nn.ReLU()),
            nn.Conv2d(first, second, 4, stride=2, padding=1, bias=False),
            *(nn.BatchNorm2d(second), nn.ReLU(), nn.Flatten()),
            nn.Linear(49 * second, hidden, bias=False),
            *(nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, 10)),
        )
        self.narrow = narrow

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits; in training by products of bfloat16 if the net is narrow."""
        narrowed = self.narrow and self.training
        with torch.autocast("cpu", torch.bfloat16, enabled=narrowed):
            return super().forward(x)


def steps_down(epoch: int, epochs: int) -> float:
    """Factor of the learning rate: a fifth from 70 % on, a 25th from 90 % on."""
    return 0.2 ** ((epoch >= 0.7 * epochs) + (epoch >= 0.9 * epochs))


class StraightRamp(Ramp):
    """The same, but with the gradient of ``a * x + b`` where that leaves [0, 1]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return pixels in [0, 1]."""
        line = x * self.a + self.b
        return line + (line.clamp(0, 1) - line).detach()


def straightened(model: Any) -> Any:
    """Copy a fitted model for who attacks through what its ramp takes back."""
    model = copy.deepcopy(model)
    for part in model.estimator_.net_.module_.modules():
        if type(part) is Ramp:
            part.__class__ = StraightRamp
    return model
