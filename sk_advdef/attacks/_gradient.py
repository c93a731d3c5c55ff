"""Projected gradient ascent on a batch, in torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

#: (x, scores, columns) -> a loss to raise, and a rank to keep the best by, above 0 for
#: success; a row each
Goal = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]


def _rows(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def l2_length(delta: torch.Tensor) -> torch.Tensor:
    """L2 norm of each row."""
    return delta.flatten(1).norm(dim=1)


class Ball:
    """Rows that an attacker may reach: a ball around each row, cut by limits.

    Steps and radii are in units of ``eps``, which may differ from feature to feature.
    """

    def __init__(
        self,
        center: torch.Tensor,
        lower: torch.Tensor,
        upper: torch.Tensor,
        eps: torch.Tensor,
        norm: str,
    ) -> None:
        self.center, self.lower, self.upper = center, lower, upper
        self.eps, self.norm = eps, norm

    def __getitem__(self, rows: torch.Tensor) -> Ball:
        return Ball(
            self.center[rows], self.lower[rows], self.upper[rows], self.eps, self.norm
        )

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Move each row to the ball and into the limits."""
        if self.norm == "l2":
            delta = x - self.center
            unit = torch.where(self.eps > 0, delta / self.eps, torch.zeros_like(delta))
            over = l2_length(unit).clamp_min(1)
            x = self.center + unit / _rows(over, x) * self.eps
        return torch.minimum(torch.maximum(x, self.lower), self.upper)

    def step(self, x: torch.Tensor, grad: torch.Tensor, size: float) -> torch.Tensor:
        """Go up the gradient by ``size`` radii, as steep as the norm allows."""
        grad = torch.nan_to_num(grad) * self.eps
        if self.norm == "linf":
            direction = grad.sign()
        else:
            # the largest entry first, so that tiny gradients do not square to zero
            peak = grad.abs().flatten(1).amax(dim=1)
            grad = grad / _rows(peak.clamp_min(torch.finfo(x.dtype).tiny), x)
            direction = grad / _rows(l2_length(grad).clamp_min(1e-12), x)
        return self.project(x + size * self.eps * direction)


def _largest(scores: torch.Tensor, among: torch.Tensor) -> torch.Tensor:
    return scores.masked_fill(~among, -torch.inf).amax(dim=1)


def class_goal(loss: str, genuine: torch.Tensor, *, targeted: bool) -> Goal:
    """Make the goal of an attack on class scores.

    ``genuine`` marks the columns whose answer serves the attacker. Success is judged by
    the margin: how far the best wrong genuine class is above everything else.
    """

    def goal(
        x: torch.Tensor, scores: torch.Tensor, columns: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        label = torch.zeros_like(scores, dtype=torch.bool)
        label.scatter_(1, columns[:, None], True)
        wanted = label if targeted else genuine & ~label
        margin = _largest(scores, wanted) - _largest(scores, ~wanted)
        if loss == "margin":
            value = margin
        elif targeted or bool(genuine.all()):
            log_proba = scores.log_softmax(dim=1).gather(1, columns[:, None])[:, 0]
            value = log_proba if targeted else -log_proba
        else:
            hit = scores.masked_fill(~wanted, -torch.inf).logsumexp(dim=1)
            value = hit - scores.logsumexp(dim=1)
        return value, margin

    return goal


#: Lead of the wrong class from which on the detector is worked on.
LEAD = 0.5


def accepted_goals(
    class_goal: Goal, suspicion: nn.Module, offset: float, scale: float
) -> list[Goal]:
    """Make the goals of an attack on a class that a detector must accept.

    One follows the class's gradient until the row is wrong by some lead and the
    detector's from there on; the other climbs the sum of both, each up to where more
    of it is of no use. Neither is the better for all detectors. Wrong ranks above
    right, and among the wrong the less suspicious; success is wrong and accepted.
    """

    def goal(
        x: torch.Tensor, scores: torch.Tensor, columns: torch.Tensor, *, both: bool
    ) -> tuple[torch.Tensor, ...]:
        value, margin = class_goal(x, scores, columns)
        accepted = ((-suspicion(x) - offset) / scale).to(margin.dtype)
        if offset == -torch.inf:
            accepted = torch.ones_like(margin)
        if both:
            value = margin.clamp(max=2 * LEAD) + accepted.clamp(max=2 * LEAD)
        else:
            value = torch.where(margin > LEAD, accepted, value)
        rank = torch.where(margin > 0, _squash(accepted), _squash(margin) - 2)
        return value, rank

    return [partial(goal, both=False), partial(goal, both=True)]


def _squash(values: torch.Tensor) -> torch.Tensor:
    return values.double() / (1 + values.double().abs())


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
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Climb from ``x``; return the best iterate, its rank, and passes, a row each.

    A rank above zero is a success. With ``early_stop`` a row leaves the batch at once
    when it succeeds.
    """
    best = x.clone()
    best_rank = torch.full((len(x),), -torch.inf, dtype=torch.float64)
    passes = torch.zeros(len(x), dtype=torch.int64)
    rows = torch.arange(len(x))
    for step in range(steps + 1):
        last = step == steps
        x = x.detach().requires_grad_(not last)
        with torch.set_grad_enabled(not last):
            value, rank = goal(x, view(x), columns[rows])
        passes[rows] += 1
        rank = rank.detach().double()
        better = rank > best_rank[rows]
        best[rows[better]] = x.detach()[better]
        best_rank[rows] = torch.maximum(best_rank[rows], rank)
        if last:
            break
        grad = torch.autograd.grad(value.sum(), x)[0]
        x = x.detach()
        if early_stop:
            left = rank <= 0
            if not bool(left.all()):
                rows, x, grad, ball = rows[left], x[left], grad[left], ball[left]
            if not len(rows):
                break
        x = ball.step(x, grad, step_size)
    return best, best_rank, passes
