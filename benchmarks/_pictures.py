"""Images, small nets for them, and how both are told in results."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from skorch import NeuralNetClassifier
from torch import nn

from benchmarks._harness import load_cifar10, load_mnist


@functools.cache
def pictures(name: str, folder: Path | None, n_train: int, n_test: int) -> Any:
    """Return X, y to train on and X, y to test on, in an order of no meaning.

    Images of "mnist" and of "digits" (scikit-learn's, made larger, for quick runs that
    have no data) are 28 x 28, those of "cifar10" 28 x 28 x 3; float32 in [0, 1].
    """
    if name == "digits":
        X, y = load_digits(return_X_y=True)
        large = np.kron(X.reshape(-1, 8, 8) / 16, np.ones((3, 3)))
        X = np.pad(large, ((0, 0), (2, 2), (2, 2))).astype(np.float32)
        return _drawn(X[:1000], y[:1000], n_train) + _drawn(X[1000:], y[1000:], n_test)
    if name == "cifar10":
        return load_cifar10(folder, n_train, n_test)
    X, y, X_test, y_test = load_mnist(folder)
    return _drawn(X[:, 0], y, n_train) + _drawn(X_test[:, 0], y_test, n_test)


def _drawn(X: np.ndarray, y: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(0).permutation(len(X))[:n]
    return X[order], y[order]


class Images(nn.Module):
    """A net of layers for images whose channel, if any, is the last axis."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)
        return self.layers(x)


class CarliniNet(Images):
    """Carlini's MNIST net, of this part of its width, without dropout unless asked.

    3 x 3 convolutions without padding, two of 32 and two of 64 channels, 2 x 2 pooling
    after each two, two hidden layers of 200, dropout between these.
    """

    def __init__(self, part: float = 1.0, dropout: float = 0.0) -> None:
        a, b, h = (int(width * part) for width in (32, 64, 200))
        between = [nn.Dropout(dropout)] if dropout else []
        super().__init__(
            *(nn.Conv2d(1, a, 3), nn.ReLU(), nn.Conv2d(a, a, 3), nn.ReLU()),
            nn.MaxPool2d(2),
            *(nn.Conv2d(a, b, 3), nn.ReLU(), nn.Conv2d(b, b, 3), nn.ReLU()),
            *(nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(16 * b, h), nn.ReLU(), *between, nn.Linear(h, h), nn.ReLU()),
            nn.Linear(h, 10),
        )


class StrideNet(Images):
    """Two 4 x 4 convolutions of stride 2 and a hidden layer; fast."""

    def __init__(self, channels: int = 1, width: int = 16, hidden: int = 100) -> None:
        super().__init__(
            *(nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(98 * width, hidden), nn.ReLU()),
            nn.Linear(hidden, 10),
        )


def trained(module: type[nn.Module], X: Any, y: Any, epochs: int, **params: Any) -> Any:
    """Train a net by Adam; the same arguments give the same net."""
    net = NeuralNetClassifier(
        module,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=1e-3,
        batch_size=128,
        max_epochs=epochs,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
        **params,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return net.fit(X, y)


def lengths(X: np.ndarray, X_adv: np.ndarray) -> dict[str, float]:
    """Return mean lengths of changes: L2, Linf, and how many values changed."""
    width = int(np.prod(X.shape[1:]))
    delta = (X_adv.astype(np.float64) - X).reshape(len(X), width)
    found = {
        "l2": np.linalg.norm(delta, axis=1),
        "linf": np.abs(delta).max(axis=1, initial=0),
        "l0": (delta != 0).sum(axis=1),
    }
    return {name: short(v.mean()) if len(v) else None for name, v in found.items()}


def short(value: Any) -> Any:
    """Round to four digits, NaN and infinity to None, which JSON knows."""
    return float(f"{value:.4g}") if np.isfinite(value) else None
