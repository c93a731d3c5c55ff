"""The inner steps of adversarial training, a function a method, in torch.

Sizes are in radii of the room. Nothing here changes a model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from sk_advdef.attacks._row_tensors import direction
from sk_advdef.training._reach import Room

View = Callable[[torch.Tensor], torch.Tensor]
#: (scores, y) -> what to climb, a value a row
Climbed = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

#: Standard deviation, in units of the input, of the start of TRADES.
TRADES_START = 0.001

#: Momentum and divisor of the step of confidence-calibrated training.
CCAT_MOMENTUM, CCAT_BACKTRACK = 0.9, 1.5


def cross_entropy(scores: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each row."""
    return F.cross_entropy(scores, y, reduction="none")


def other_confidence(scores: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Log of the largest probability of a class that is not the label."""
    return scores.log_softmax(dim=1).scatter(1, y[:, None], -torch.inf).amax(dim=1)


def input_gradient(
    view: View, x: torch.Tensor, y: torch.Tensor, climbed: Climbed
) -> torch.Tensor:
    """Gradient of what is climbed, in the input."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(climbed(view(x), y).sum(), x)[0]


def fgsm_rs(
    view: View,
    room: Room,
    y: torch.Tensor,
    climbed: Climbed,
    *,
    alpha: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """FGSM from a random start in the ball, put back into ball and box [1]_.

    References
    ----------
    .. [1] E. Wong, L. Rice, J. Z. Kolter, "Fast is better than free: Revisiting
       adversarial training", ICLR 2020, arXiv:2001.03994.
    """
    x = room.point(room.inside(room.uniform(1.0, generator).add_(room.center)))
    grad = input_gradient(view, x, y, climbed)
    return room.point(room.inside(room.up(x, grad, alpha)))


def n_fgsm(
    view: View,
    room: Room,
    y: torch.Tensor,
    climbed: Climbed,
    *,
    k: float,
    alpha: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """FGSM from a row with noise of ``k`` radii, not put back into the ball [1]_.

    References
    ----------
    .. [1] P. de Jorge, A. Bibi, R. Volpi, A. Sanyal, P. H. S. Torr, G. Rogez,
       P. K. Dokania, "Make Some Noise: Reliable and Efficient Single-Step Adversarial
       Training", NeurIPS 2022, arXiv:2202.01181.
    """
    x = room.point(room.boxed(room.uniform(k, generator).add_(room.center)))
    grad = input_gradient(view, x, y, climbed)
    return room.point(room.boxed(room.up(x, grad, alpha)))


def pgd(
    view: View,
    room: Room,
    y: torch.Tensor,
    climbed: Climbed,
    *,
    steps: int,
    alpha: float,
    generator: torch.Generator | None,
) -> torch.Tensor:
    """Projected gradient ascent, to its last iterate [1]_; without generator, from x.

    References
    ----------
    .. [1] A. Madry, A. Makelov, L. Schmidt, D. Tsipras, A. Vladu, "Towards Deep
       Learning Models Resistant to Adversarial Attacks", ICLR 2018, arXiv:1706.06083.
    """
    x = room.center
    if generator is not None:
        x = room.inside(room.uniform(1.0, generator).add_(x))
    for _ in range(steps):
        x = room.inside(room.up(x, input_gradient(view, x, y, climbed), alpha))
    return x


def kl_divergence(scores: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """KL divergence of the answers under ``other`` from those under ``scores``."""
    p = scores.softmax(dim=1)
    return (p * (scores.log_softmax(dim=1) - other.log_softmax(dim=1))).sum(dim=1)


def trades(
    view: View,
    room: Room,
    *,
    steps: int,
    alpha: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Rows whose answers are far from those on the clean rows [1]_.

    References
    ----------
    .. [1] H. Zhang, Y. Yu, J. Jiao, E. P. Xing, L. El Ghaoui, M. I. Jordan,
       "Theoretically Principled Trade-off between Robustness and Accuracy", ICML 2019,
       arXiv:1901.08573.
    """
    with torch.no_grad():
        clean = view(room.center)
    start = torch.empty_like(room.center).normal_(generator=generator)
    move = room.center + TRADES_START * start
    for _ in range(steps):
        x = room.point(move).detach().requires_grad_()
        (grad,) = torch.autograd.grad(kl_divergence(clean, view(x)).sum(), x)
        move = room.inside(room.up(move, grad, alpha))
    return room.point(move)


def ccat(
    view: View,
    room: Room,
    y: torch.Tensor,
    *,
    steps: int,
    alpha: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Rows of high confidence in a class that is not the label [1]_.

    Half start at the row and half at a random length in a random direction; momentum,
    and a shorter step for a row whose confidence would fall.

    References
    ----------
    .. [1] D. Stutz, M. Hein, B. Schiele, "Confidence-Calibrated Adversarial Training:
       Generalizing to Unseen Attacks", ICML 2020, arXiv:1910.06259.
    """
    n, shape = len(y), (-1, *(1,) * (room.center.ndim - 1))
    drawn = torch.empty_like(room.center).normal_(generator=generator)
    far = drawn.new_empty(n).uniform_(generator=generator)
    away = torch.arange(n) % 2 == 0
    drawn = drawn * room.eps
    far = torch.where(away, far / room.lengths(room.center + drawn).clamp_min(1e-12), 0)
    x = room.inside(room.center + drawn * far.reshape(shape))
    size = torch.full((n,), alpha, dtype=x.dtype)
    velocity = torch.zeros_like(x)
    kept, kept_grad = x, velocity
    best = torch.full((n,), -torch.inf, dtype=x.dtype)
    for step in range(steps + 1):
        seen = room.point(x).detach().requires_grad_()
        value = other_confidence(view(seen), y)
        (grad,) = torch.autograd.grad(value.sum(), seen)
        rises = (value >= best).detach()
        size = torch.where(rises, size, size / CCAT_BACKTRACK)
        best = torch.where(rises, value.detach(), best)
        wide = rises.reshape(shape)
        kept, kept_grad = torch.where(wide, x, kept), torch.where(wide, grad, kept_grad)
        if step == steps:
            break
        way = room.up(torch.zeros_like(x), kept_grad.clone(), 1.0)
        velocity = CCAT_MOMENTUM * velocity + (1 - CCAT_MOMENTUM) * way
        mean = velocity / (1 - CCAT_MOMENTUM ** (step + 1))
        x = room.inside(kept + size.reshape(shape) * mean)
    return room.point(kept)


def ccat_targets(
    y: torch.Tensor, lengths: torch.Tensor, n_classes: int, rho: float
) -> torch.Tensor:
    """Labels that go toward uniform ones with the length of the change, in radii."""
    share = (1 - lengths.clamp_max(1))[:, None] ** rho
    hot = F.one_hot(y, n_classes).to(lengths.dtype)
    return share * hot + (1 - share) / n_classes


def awp_direction(
    weights: list[torch.Tensor], gradients: Any, gamma: float
) -> list[torch.Tensor]:
    """Change of each weight matrix that raises the loss, ``gamma`` of its length [1]_.

    References
    ----------
    .. [1] D. Wu, S.-T. Xia, Y. Wang, "Adversarial Weight Perturbation Helps Robust
       Generalization", NeurIPS 2020, arXiv:2004.05884.
    """
    found = []
    for weight, gradient in zip(weights, gradients, strict=True):
        (way,) = direction(gradient[None])
        found.append(gamma * weight.detach().norm() * way)
    return found
