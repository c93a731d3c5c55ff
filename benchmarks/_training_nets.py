"""Nets of the training benchmark, and their training."""

import time
from functools import partial
from typing import Any

import numpy as np
import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import LRScheduler
from torch import nn
from torch.utils.data import default_collate

from benchmarks import _training_loops as by_hand
from benchmarks._pictures import StrideNet, short
from sk_advdef import PGD, AdversariallyAugmentedClassifier


class WithClass(StrideNet):
    """A StrideNet with an output for a class of its own."""

    def __init__(self, width: int = 16, hidden: int = 100) -> None:
        super().__init__(width=width, hidden=hidden)
        self.layers[-1] = nn.Linear(hidden, 11)


def shifted(items: list[Any], reach: int) -> list[torch.Tensor]:
    """Make a batch of images, each moved by up to ``reach`` pixels each way."""
    x, y = default_collate(items)
    n, height, width = x.shape
    down, right = torch.randint(-reach, reach + 1, (2, n, 1))
    at_row, at_column = torch.arange(height) + down, torch.arange(width) + right
    inside = (at_row >= 0) & (at_row < height)
    across = (at_column >= 0) & (at_column < width)
    moved = x[
        torch.arange(n)[:, None, None],
        at_row.clamp(0, height - 1)[:, :, None],
        at_column.clamp(0, width - 1)[:, None],
    ]
    return [moved * (inside[:, :, None] & across[:, None]), y]


def moving(shift: int) -> dict[str, Any]:
    """Return parameters of a net that is trained on images moved by some pixels."""
    if not shift:
        return {}
    return {"iterator_train__collate_fn": partial(shifted, reach=shift)}


def make_net(
    n_rows: int,
    *,
    epochs: int,
    lr: float,
    batch: int = 128,
    module: type[nn.Module] = StrideNet,
    cycle: bool = True,
    shift: int = 0,
    **params: Any,
) -> NeuralNetClassifier:
    """Return a skorch net on Adam, with a rate that rises and falls once.

    With ``shift`` images are moved by up to so many pixels in training.
    """
    total = -(-n_rows // batch) * epochs
    once = LRScheduler(
        torch.optim.lr_scheduler.OneCycleLR,
        max_lr=lr,
        total_steps=total + 1,
        pct_start=0.3,
        step_every="batch",
    )
    return NeuralNetClassifier(
        module,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=lr,
        batch_size=batch,
        max_epochs=epochs,
        iterator_train__shuffle=True,
        train_split=None,
        **moving(shift),
        callbacks=[once] if cycle else [],
        verbose=0,
        **{f"module__{name}": value for name, value in params.items()},
    )


def fitted(
    X: np.ndarray, y: np.ndarray, seed: int, schedule: dict[str, Any], **more: Any
) -> Any:
    """Train by a schedule: ``net``, ``attack`` (of PGD) and ``training``."""
    net = make_net(len(X), **schedule["net"] | more)
    return AdversariallyAugmentedClassifier(
        net,
        attack=PGD(**schedule["attack"]),
        random_state=seed,
        **schedule["training"],
    ).fit(X, y)


def plain_epoch(X: np.ndarray, y: np.ndarray, net: dict[str, Any]) -> float:
    """Seconds of a plain epoch by hand, on the same net; the best of 2."""
    kept = {k: v for k, v in net.items() if k in ("width", "hidden")}
    module = StrideNet(**kept)
    rows, labels = torch.tensor(X), torch.tensor(y)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        by_hand.epoch("plain", module, rows, labels, 0.0, net.get("batch", 128), 1e-3)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def watched(model: Any) -> dict[str, Any]:
    """What was seen of training at its end."""
    last = model.history_[-1]
    return {k: short(last[k]) for k in ("clean_accuracy", "attacked_accuracy")}
