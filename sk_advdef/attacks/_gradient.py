"""Projected gradient ascent on a batch, in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from sk_advdef._torch._bpda import anneal
from sk_advdef.attacks._ahead import among, margin
from sk_advdef.attacks._row_tensors import direction, length, rows_like

#: (x, scores, columns) -> what to climb (or a pair: the first, not along the second),
#: and a rank to keep the best by, above 0 for success; a row each
Goal = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[Any, torch.Tensor]]


class Ball:
    """Rows that an attacker may reach: a ball around each row, cut by limits.

    Steps and radii are in units of ``eps``, which may differ from feature to feature.
    ``costless`` marks features whose change has no length: an L2 ball does not hold
    them, so that each goes its own way, as in Linf.
    """

    def __init__(
        self,
        center: torch.Tensor,
        lower: torch.Tensor,
        upper: torch.Tensor,
        eps: torch.Tensor,
        norm: str,
        costless: torch.Tensor | None = None,
    ) -> None:
        self.center, self.lower, self.upper = center, lower, upper
        self.eps, self.norm, self.costless = eps, norm, costless

    @classmethod
    def of(cls, problem: Any, rows: np.ndarray) -> Ball:
        """Return the balls of some rows of a problem."""
        arrays = problem.X, problem.lower, problem.upper
        center, lower, upper = (torch.tensor(array[rows]) for array in arrays)
        eps = torch.tensor(problem.eps, dtype=center.dtype)
        rules = problem.rules
        costless = None if rules is None else torch.tensor(rules.costless)
        return cls(center, lower, upper, eps, problem.norm, costless)

    def __getitem__(self, rows: torch.Tensor) -> Ball:
        limits = self.center[rows], self.lower[rows], self.upper[rows]
        return Ball(*limits, self.eps, self.norm, self.costless)

    def _charged(self, change: torch.Tensor) -> torch.Tensor:
        return change if self.costless is None else change.masked_fill(self.costless, 0)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Move each row to the ball and into the limits."""
        if self.norm == "l2":
            delta = x - self.center
            unit = torch.where(self.eps > 0, delta / self.eps, torch.zeros_like(delta))
            over = length(self._charged(unit)).clamp_min(1)
            inside = self.center + unit / rows_like(over, x) * self.eps
            if self.costless is not None:
                inside = torch.where(self.costless, x, inside)
            x = inside
        return torch.minimum(torch.maximum(x, self.lower), self.upper)

    def step(self, x: torch.Tensor, grad: torch.Tensor, size: float) -> torch.Tensor:
        """Go up the gradient by ``size`` radii, as steep as the norm allows."""
        grad = torch.nan_to_num(grad) * self.eps
        if self.norm == "linf":
            way = grad.sign()
        else:
            way = direction(self._charged(grad))
            if self.costless is not None:
                way = torch.where(self.costless, grad.sign(), way)
        return self.project(x + size * self.eps * way)


def class_goal(
    loss: str, genuine: torch.Tensor, *, targeted: bool, reject: bool = False
) -> Goal:
    """Make the goal of an attack on class scores.

    ``genuine`` marks the columns whose answer serves the attacker, or, with ``reject``,
    those whose answer does not. Success is judged by the margin: how far the best wrong
    genuine class is above everything else.
    """

    def goal(
        x: torch.Tensor, scores: torch.Tensor, columns: torch.Tensor
    ) -> tuple[Any, torch.Tensor]:
        label = torch.zeros_like(scores, dtype=torch.bool)
        label.scatter_(1, columns[:, None], True)
        wanted = label if targeted else genuine & ~label
        if reject:
            wanted = ~genuine & ~label
        ahead = margin(scores, wanted)
        if loss == "margin":
            value = ahead
        elif targeted or (bool(genuine.all()) and not reject):
            log_proba = scores.log_softmax(dim=1).gather(1, columns[:, None])[:, 0]
            value = log_proba if targeted else -log_proba
        else:
            hit = among(scores, wanted).logsumexp(dim=1)
            value = hit - scores.logsumexp(dim=1)
        return value, ahead

    return goal


def climb_direction(value: Any, x: torch.Tensor) -> torch.Tensor:
    """Return the gradient of what is climbed.

    Of a pair, that of the first without what would change the second.
    """
    if not isinstance(value, tuple):
        return torch.autograd.grad(value.sum(), x)[0]
    first, second = value
    grad = torch.autograd.grad(first.sum(), x, retain_graph=True)[0]
    other = torch.autograd.grad(second.sum(), x)[0]
    unit = direction(other)
    return grad - unit * rows_like((grad * unit).flatten(1).sum(1), x)


class Snap:
    """Rows of a space, for points that climb freely; gradients go straight through."""

    def __init__(self, problem: Any, part: np.ndarray) -> None:
        self.problem, self.part = problem, part

    def __call__(
        self, x: torch.Tensor, rows: torch.Tensor, gain: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the rows of the space that ``x`` stands for."""
        worth = None if gain is None else gain.numpy()
        found = self.problem.settle(x.numpy(), self.part[rows.numpy()], worth)
        return torch.from_numpy(found)

    def pull(self, grad: torch.Tensor) -> torch.Tensor:
        """Give gradients of dependent features to what they depend on."""
        return self.problem.rules.pull(grad)

    @staticmethod
    def worth(grad: torch.Tensor, gain: torch.Tensor | None) -> torch.Tensor:
        """Return what a rise of each feature is worth, by all steps so far."""
        fresh = torch.nan_to_num(grad / grad.abs().amax(dim=1, keepdim=True))
        return fresh if gain is None else fresh + gain / 2


def ascend(
    view: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    ball: Ball,
    columns: torch.Tensor,
    goal: Goal,
    *,
    steps: int,
    step_size: float,
    early_stop: bool,
    snap: Snap | None = None,
    soft: nn.Module | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Climb from ``x``; return the best iterate, its rank, and passes, a row each.

    A rank above zero is a success. With ``early_stop`` a row leaves the batch at once
    when it succeeds. With ``snap`` what is evaluated and returned is what it makes of
    the point that climbs. ``soft`` holds the modules whose steps are soft at first and
    sharper with every step of the climb.
    """
    gain: torch.Tensor | None = None
    best = x.clone()
    best_rank = torch.full((len(x),), -torch.inf, dtype=torch.float64)
    passes = torch.zeros(len(x), dtype=torch.int64)
    rows = torch.arange(len(x))
    for step in range(steps + 1):
        last = step == steps
        if soft is not None:
            anneal(soft, step / steps)
        x = x.detach()
        point = x if snap is None else snap(x, rows, gain)
        point.requires_grad_(not last)
        with torch.set_grad_enabled(not last):
            value, rank = goal(point, view(point), columns[rows])
        passes[rows] += 1
        rank = rank.detach().double()
        better = rank > best_rank[rows]
        best[rows[better]] = point.detach()[better]
        best_rank[rows] = torch.maximum(best_rank[rows], rank)
        if last:
            break
        grad = climb_direction(value, point)
        if snap is not None:
            grad = snap.pull(grad)
            gain = snap.worth(grad, gain)
        x = x.detach()
        if early_stop:
            left = rank <= 0
            if not bool(left.all()):
                rows, x, grad, ball = rows[left], x[left], grad[left], ball[left]
                gain = None if gain is None else gain[left]
            if not len(rows):
                break
        x = ball.step(x, grad, step_size)
    return best, best_rank, passes
