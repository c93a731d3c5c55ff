"""Adversarial training written by hand, in plain torch and with ART, to compare with.

Each function trains a module for one epoch on tensors, in the order that a generator
gives. They are as short as a careful user would write them.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

Batch = tuple[torch.Tensor, torch.Tensor]


def batches(X: torch.Tensor, y: torch.Tensor, size: int) -> Iterator[Batch]:
    for rows in torch.randperm(len(X)).split(size):
        yield X[rows], y[rows]


def gradient(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Gradient in the input; none is computed for the weights."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(module(x), y), x)[0]


def step(module: nn.Module, optimizer: Any, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def plain(module: nn.Module, optimizer: Any, x: Any, y: Any, eps: float) -> None:
    step(module, optimizer, F.cross_entropy(module(x), y))


def fast(module: nn.Module, optimizer: Any, x: Any, y: Any, eps: float) -> None:
    noisy = (x + torch.empty_like(x).uniform_(-2 * eps, 2 * eps)).clamp_(0, 1)
    rows = (noisy + eps * gradient(module, noisy, y).sign()).clamp_(0, 1)
    step(module, optimizer, F.cross_entropy(module(rows), y))


def fgsm_rs(module: nn.Module, optimizer: Any, x: Any, y: Any, eps: float) -> None:
    delta = torch.empty_like(x).uniform_(-eps, eps)
    delta = (x + delta).clamp_(0, 1) - x
    delta = delta + 1.25 * eps * gradient(module, x + delta, y).sign()
    rows = (x + delta.clamp_(-eps, eps)).clamp_(0, 1)
    step(module, optimizer, F.cross_entropy(module(rows), y))


def pgd(module: nn.Module, optimizer: Any, x: Any, y: Any, eps: float) -> None:
    lower, upper = (x - eps).clamp_(0, 1), (x + eps).clamp_(0, 1)
    rows = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp_(0, 1)
    for _ in range(4):
        rows = rows + 2.5 / 4 * eps * gradient(module, rows, y).sign()
        rows = torch.clamp(rows, lower, upper)
    step(module, optimizer, F.cross_entropy(module(rows), y))


def trades(module: nn.Module, optimizer: Any, x: Any, y: Any, eps: float) -> None:
    lower, upper = (x - eps).clamp_(0, 1), (x + eps).clamp_(0, 1)
    with torch.no_grad():
        answers = F.softmax(module(x), dim=1)
    rows = x + 0.001 * torch.randn_like(x)
    for _ in range(4):
        rows = rows.requires_grad_()
        apart = F.kl_div(F.log_softmax(module(rows), dim=1), answers, reduction="sum")
        grad = torch.autograd.grad(apart, rows)[0]
        rows = torch.clamp(rows.detach() + 2.5 / 4 * eps * grad.sign(), lower, upper)
    scores = module(x)
    apart = F.kl_div(
        F.log_softmax(module(rows), dim=1),
        F.softmax(scores, dim=1),
        reduction="batchmean",
    )
    step(module, optimizer, F.cross_entropy(scores, y) + 6.0 * apart)


class Free:
    """Replays each batch; the pass that trains also says where rows go."""

    def __init__(self) -> None:
        self.delta: Any = None

    def __call__(
        self, module: nn.Module, optimizer: Any, x: Any, y: Any, eps: float
    ) -> None:
        if self.delta is None:
            self.delta = torch.zeros_like(x)
        for _ in range(4):
            rows = (x + self.delta[: len(x)]).clamp_(0, 1).requires_grad_()
            step(module, optimizer, F.cross_entropy(module(rows), y))
            delta = self.delta[: len(x)] + eps * rows.grad.sign()
            self.delta[: len(x)] = delta.clamp_(-eps, eps)


STEPS: dict[str, Callable[..., None]] = {
    "plain": plain,
    "fast": fast,
    "fgsm-rs": fgsm_rs,
    "pgd": pgd,
    "trades": trades,
    "free": Free(),
}


def epoch(
    method: str, module: nn.Module, X: Any, y: Any, eps: float, size: int, lr: float
) -> None:
    """Train for an epoch."""
    optimizer = torch.optim.Adam(module.parameters(), lr=lr)
    module.train()
    take = STEPS[method]
    for x, labels in batches(X, y, size):
        take(module, optimizer, x, labels, eps)


def epoch_of_art(
    module: nn.Module, X: np.ndarray, y: np.ndarray, eps: float, size: int, lr: float
) -> None:
    """ART's trainer by PGD of four steps."""
    from art.attacks.evasion import ProjectedGradientDescent
    from art.defences.trainer import AdversarialTrainer
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        module,
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.Adam(module.parameters(), lr=lr),
        input_shape=X.shape[1:],
        nb_classes=10,
        clip_values=(0, 1),
        device_type="cpu",
    )
    attack = ProjectedGradientDescent(
        classifier,
        eps=eps,
        eps_step=2.5 / 4 * eps,
        max_iter=4,
        num_random_init=1,
        batch_size=size,
        verbose=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = AdversarialTrainer(classifier, attack, ratio=1.0)
        trainer.fit(X, y, batch_size=size, nb_epochs=1)
