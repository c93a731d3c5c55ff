"""Nets to sample dropout of, with random weights."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from skorch import NeuralNetClassifier
from torch import nn

from sk_advdef._torch._net import NetClassifier


class FeinmanNet(nn.Sequential):
    """The MNIST net of Feinman et al., to logits."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(1, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU()),
            *(nn.MaxPool2d(2), nn.Dropout(0.5), nn.Flatten()),
            *(nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)),
        )


class FeinmanCifarNet(nn.Sequential):
    """The CIFAR-10 net of Feinman et al., to logits."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for a, b in ((3, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()]
            layers += [nn.Conv2d(b, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        super().__init__(
            *(*layers, nn.Flatten(), nn.Dropout(0.5)),
            *(nn.Linear(2048, 1024), nn.ReLU(), nn.Dropout(0.5)),
            *(nn.Linear(1024, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, 10)),
        )


class Block(nn.Module):
    """Two convolutions around a dropout, and a way past them."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *(nn.BatchNorm2d(a), nn.ReLU(), nn.Conv2d(a, b, 3, stride, 1, bias=False)),
            *(nn.BatchNorm2d(b), nn.ReLU(), nn.Dropout(0.3)),
            nn.Conv2d(b, b, 3, padding=1, bias=False),
        )
        self.past = nn.Identity() if a == b else nn.Conv2d(a, b, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.branch(x) + self.past(x)


class ResidualNet(nn.Sequential):
    """Three blocks with a dropout in each, as in wide residual nets."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            *(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)),
            *(nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            nn.Linear(64, 10),
        )


class Layer(nn.Module):
    """An encoder layer whose dropouts are modules, that on the attention too."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.of_input, self.of_heads = (
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )
        self.on_attention, self.after = nn.Dropout(0.1), nn.Dropout(0.1)
        self.forth = nn.Sequential(
            *(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1)),
            *(nn.Linear(2 * width, width), nn.Dropout(0.1)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        split = self.of_input(self.before(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = split.permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        seen = (self.on_attention(weights) @ v).transpose(1, 2).flatten(2)
        x = x + self.after(self.of_heads(seen))
        return x + self.forth(self.between(x))


class TransformerNet(nn.Module):
    """Two encoder layers on the rows of an image, and the mean over them."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(28, 32)
        self.place = nn.Parameter(torch.randn(28, 32) / 10)
        self.layers = nn.Sequential(Layer(32, 4), Layer(32, 4))
        self.out = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.layers(self.inside(x[:, 0]) + self.place).mean(dim=1))


#: Standard deviation of the logits of all nets but the first.
SPREAD = 3.0


class Case(NamedTuple):
    """A net, the shape of a row, and how both are told in results."""

    build: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    net: str
    rows: str

    @property
    def setting(self) -> dict[str, str]:
        """Return what a unit states."""
        weights = "random, of the last layer times 30"
        if self.build is not FeinmanNet:
            weights = f"random, logits scaled to a standard deviation of {SPREAD:g}"
        told = {"net": self.net, "weights": weights, "rows": self.rows}
        return {**told, "dtype": "float32"}


CASES = {
    "MNIST net": Case(
        FeinmanNet,
        (1, 28, 28),
        "C64-3x3 ReLU C64-3x3 ReLU MaxPool2 Dropout.5 FC128 ReLU Dropout.5 FC10",
        "uniform in [0, 1], 28x28",
    ),
    "CIFAR-10 net": Case(
        FeinmanCifarNet,
        (3, 32, 32),
        "2 C32-3x3 MaxPool2 2 C64-3x3 MaxPool2 2 C128-3x3 MaxPool2, then Dropout.5 "
        "before each of FC1024, FC512, FC10; ReLU",
        "uniform in [0, 1], 3x32x32",
    ),
    "residual net": Case(
        ResidualNet,
        (1, 28, 28),
        "C16-3x3/2, 3 residual blocks of 16, 32/2, 64/2 channels with Dropout.3 "
        "between their two convolutions, mean, FC10; BatchNorm ReLU",
        "uniform in [0, 1], 28x28",
    ),
    "transformer": Case(
        TransformerNet,
        (1, 28, 28),
        "28 tokens of 28, 2 encoder layers of width 32 with 4 heads and FC64, "
        "Dropout.1 on the attention, after it, in the FC part and after it, mean, FC10",
        "uniform in [0, 1], 28x28",
    ),
}
BY_NET = {case.net: name for name, case in CASES.items()}


def classifier(case: Case, seed: int) -> NetClassifier:
    """Return a fitted classifier around a net, with random weights."""
    net = NeuralNetClassifier(
        case.build,
        criterion=nn.CrossEntropyLoss,
        max_epochs=0,
        train_split=None,
        verbose=0,
    )
    rows = np.zeros((10, *case.shape), dtype=np.float32)
    model = NetClassifier(net, random_state=seed).fit(rows, np.arange(10))
    *_, last = (m for m in model.net_.module_.modules() if isinstance(m, nn.Linear))
    rows = np.random.default_rng(seed).random((64, *case.shape), np.float32)
    with torch.no_grad():
        if case.build is FeinmanNet:
            last.weight.mul_(30)
        else:
            last.bias.zero_()
            logits = model.net_.module_.eval()(torch.tensor(rows))
            last.weight.mul_(SPREAD / logits.std())
    return model
