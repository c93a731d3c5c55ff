"""Auto-PGD and its losses on a batch, in torch."""

from __future__ import annotations

import math
from typing import Any

import torch

from sk_advdef.attacks._ahead import among, log_odds, margin
from sk_advdef.attacks._gradient import Ball, Snap
from sk_advdef.attacks._row_tensors import rows_like


def loss_of(
    name: str, scores: torch.Tensor, wanted: torch.Tensor, aim: torch.Tensor
) -> torch.Tensor:
    """Loss to raise, a row each; ``aim`` marks those of the wanted that are aimed at.

    The difference of logits ratio is the margin divided by the gap between the first
    score and the third; with one class as aim, by the gap to the mean of third and
    fourth. Without a fourth the third stands alone, without a third it is the margin.
    """
    if name == "ce":
        return log_odds(scores, wanted)
    ahead = among(scores, aim).amax(dim=1) - among(scores, ~wanted).amax(dim=1)
    if name == "margin" or scores.shape[1] < 3:
        return ahead
    one = name == "dlr-t"
    top = scores.topk(min(4 if one else 3, scores.shape[1]), dim=1)[0]
    gap = top[:, 0] - top[:, 2:].mean(dim=1)
    return ahead / (gap + 1e-12)


def aim_at(scores: torch.Tensor, wanted: torch.Tensor, place: int) -> torch.Tensor:
    """Mark, a row each, the wanted column of this place, the best score first.

    Rows that have fewer wanted columns start over with their first.
    """
    order = among(scores, wanted).argsort(dim=1, descending=True, stable=True)
    places = place % wanted.sum(dim=1, keepdim=True).clamp_min(1)
    return torch.zeros_like(wanted).scatter_(1, order.gather(1, places), True)


def checkpoints(steps: int) -> list[int]:
    """Return the steps at which the step size is looked at, ever closer together."""
    parts = [0.0, 0.22]
    while parts[-1] < 1:
        parts.append(parts[-1] + max(parts[-1] - parts[-2] - 0.03, 0.06))
    return sorted({math.ceil(part * steps - 1e-9) for part in parts if part < 1})


def apgd(
    view: Any,
    x: torch.Tensor,
    ball: Ball,
    wanted: torch.Tensor,
    aim: torch.Tensor,
    loss: str,
    *,
    steps: int,
    rho: float,
    early_stop: bool,
    snap: Snap | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Climb with momentum; where it no longer pays, halve the step and go back.

    Return the iterate with the best margin, that margin, and passes, a row each. With
    ``early_stop`` a row leaves the batch when it succeeds. With ``snap`` what is
    evaluated and returned is what it makes of the point that climbs.
    """
    gain: torch.Tensor | None = None
    best, best_ahead = x.clone(), torch.full((len(x),), -torch.inf, dtype=torch.float64)
    passes = torch.zeros(len(x), dtype=torch.int64)
    rows = torch.arange(len(x))
    x_before, x_max = x, x
    f = f_max = f_max_then = torch.full((len(x),), -torch.inf, dtype=torch.float64)
    grad_max = torch.zeros_like(x)
    eta = torch.full((len(x),), 2.0, dtype=x.dtype)  # in units of eps
    rises = torch.zeros(len(x), dtype=torch.int64)
    halved = torch.zeros(len(x), dtype=torch.bool)
    checked, check_at = 0, checkpoints(steps)
    for step in range(steps + 1):
        x = x.detach()
        point = x.clone() if snap is None else snap(x, rows, gain)
        scores = view(point.requires_grad_())
        passes[rows] += 1
        ahead = margin(scores.detach(), wanted[rows]).double()
        better = ahead > best_ahead[rows]
        best[rows[better]] = point.detach()[better]
        best_ahead[rows[better]] = ahead[better]
        if step == steps:
            break
        value = loss_of(loss, scores, wanted[rows], aim[rows])
        grad = torch.autograd.grad(value.sum(), point)[0]
        value = value.detach().double()
        if snap is not None:
            grad = snap.pull(grad)
            gain = snap.worth(grad, gain)

        rises = rises + (value > f)
        f = value
        higher = f > f_max
        x_max = torch.where(rows_like(higher, x), x, x_max)
        grad_max = torch.where(rows_like(higher, x), grad, grad_max)
        f_max = torch.where(higher, f, f_max)

        if step == 0:
            f_max_then, rises = f_max, torch.zeros_like(rises)
        elif step in check_at:
            halve = rises < rho * (step - checked)
            halve |= ~halved & (f_max <= f_max_then)
            eta = torch.where(halve, eta / 2, eta)
            x = torch.where(rows_like(halve, x), x_max, x)
            x_before = torch.where(rows_like(halve, x), x_max, x_before)
            grad = torch.where(rows_like(halve, x), grad_max, grad)
            f = torch.where(halve, f_max, f)
            halved, f_max_then, checked = halve, f_max, step
            rises = torch.zeros_like(rises)

        if early_stop and bool((ahead > 0).any()):
            left = ahead <= 0
            rows, ball = rows[left], ball[left]
            x, x_before, x_max = x[left], x_before[left], x_max[left]
            f, f_max, f_max_then = f[left], f_max[left], f_max_then[left]
            grad, grad_max, eta = grad[left], grad_max[left], eta[left]
            gain = None if gain is None else gain[left]
            rises, halved = rises[left], halved[left]
            if not len(rows):
                break

        size: Any = rows_like(eta, x)
        z = ball.step(x, grad, size)
        if step > 0:
            z = ball.project(x + 0.75 * (z - x) + 0.25 * (x - x_before))
        x_before, x = x, z
    return best, best_ahead, passes
