"""DeepFool, DDN and the attack of Carlini and Wagner on a batch, in torch."""

from __future__ import annotations

import math
from typing import Any

import torch

from sk_advdef.attacks._ahead import among, log_odds, margin
from sk_advdef.attacks._minimal import Batch
from sk_advdef.attacks._row_tensors import clip, direction, length, rows_like

Found = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def deepfool(
    view: Any,
    batch: Batch,
    lead: float,
    *,
    steps: int,
    overshoot: float,
    norm: str,
    n_candidates: int,
) -> Found:
    """Step to the nearest of the linearized borders until one is crossed."""
    start, lower, upper, wanted = batch
    found, x = start.clone(), start
    hit = torch.zeros(len(x), dtype=torch.bool)
    passes = torch.zeros(len(x), dtype=torch.int64)
    rows = torch.arange(len(x))
    for step in range(steps + 1):
        x = x.detach().requires_grad_(bool(step < steps))
        scores = view(x)
        passes[rows] += 1
        done = margin(scores.detach(), wanted[rows]) > lead
        hit[rows[done]] = True
        found[rows[done]] = x.detach()[done]
        if step == steps or bool(done.all()):
            break
        r = _to_nearest_border(
            x, scores, wanted[rows], lower[rows], upper[rows], lead, norm, n_candidates
        )
        rows, x, r = rows[~done], x.detach()[~done], r[~done]
        x = clip(x + (1 + overshoot) * r, lower[rows], upper[rows])
    return found, hit, passes


def _to_nearest_border(
    x: torch.Tensor,
    scores: torch.Tensor,
    wanted: torch.Tensor,
    lower: torch.Tensor,
    upper: torch.Tensor,
    lead: float,
    norm: str,
    n_candidates: int,
) -> torch.Tensor:
    """Smallest change at which a linearized score that is wanted draws level."""
    top = among(scores, ~wanted).amax(dim=1)
    ranked = among(scores, wanted).sort(dim=1, descending=True)[0]
    n_candidates = min(n_candidates, int(wanted.sum(dim=1).amax()))
    best = torch.full((len(x),), torch.inf, dtype=x.dtype)
    change = torch.zeros_like(x)
    for k in range(n_candidates):
        f = ranked[:, k] - top
        last = k == n_candidates - 1
        w = torch.autograd.grad(f.sum(), x, retain_graph=not last)[0]
        w = torch.nan_to_num(w)
        # what is at its limit already cannot help
        stuck = ((x <= lower) & (w < 0)) | ((x >= upper) & (w > 0))
        w = w.masked_fill(stuck, 0)
        # a little more than the gap gets rows off a border that they sit on
        gap = (lead - f + 1e-6 * (1 + top.abs())).detach().to(x.dtype)
        if norm == "l2":
            unit, slope = direction(w), length(w)
        else:
            unit, slope = w.sign(), w.abs().flatten(1).sum(dim=1)
        distance = gap / slope.clamp_min(torch.finfo(x.dtype).tiny)
        distance = torch.where(slope > 0, distance, torch.inf)
        nearer = distance < best
        best = torch.where(nearer, distance, best)
        step = rows_like(torch.where(nearer, distance, 0), x) * unit
        change = torch.where(rows_like(nearer, x), step, change)
    return change


def ddn(
    view: Any, batch: Batch, lead: float, *, steps: int, init_eps: float, gamma: float
) -> Found:
    """Follow the gradient on a sphere that shrinks while the row is fooled."""
    start, lower, upper, wanted = batch
    x, found = start, start.clone()
    shortest = torch.full((len(x),), torch.inf, dtype=x.dtype)
    eps = torch.full_like(shortest, init_eps)
    for step in range(steps + 1):
        x = x.detach().requires_grad_(bool(step < steps))
        scores = view(x)
        fooled = margin(scores.detach(), wanted) > lead
        delta = x.detach() - start
        shorter = fooled & (length(delta) < shortest)
        found[shorter] = x.detach()[shorter]
        shortest = torch.where(shorter, length(delta), shortest)
        if step == steps:
            break
        grad = torch.autograd.grad(log_odds(scores, wanted).sum(), x)[0]
        size = 0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2
        delta = delta + init_eps * size * direction(grad)
        eps = eps * torch.where(fooled, 1 - gamma, 1 + gamma)
        x = clip(start + rows_like(eps, x) * direction(delta), lower, upper)
    passes = torch.full((len(x),), steps + 1)
    return found, shortest < torch.inf, passes


class TanhSpace:
    """Variables whose every value lies within the limits.

    Features with a limit on one side only, or none, are moved as they are and cut.
    """

    def __init__(self, lower: torch.Tensor, upper: torch.Tensor) -> None:
        self.lower, self.upper = lower, upper
        self.boxed = torch.isfinite(lower) & torch.isfinite(upper)
        width = torch.where(self.boxed, upper - lower, 0)
        #: width of the box at its widest, a row each: what lengths are measured by
        widest = width.flatten(1).amax(dim=1)
        self.unit = torch.where(widest > 0, widest, 1)
        self.middle = torch.where(self.boxed, lower + width / 2, 0)
        self.half = torch.where(self.boxed, width / 2, rows_like(self.unit, lower))

    def __getitem__(self, rows: torch.Tensor) -> TanhSpace:
        return TanhSpace(self.lower[rows], self.upper[rows])

    def enter(self, x: torch.Tensor) -> torch.Tensor:
        """Return the variables of ``x``."""
        w = torch.where(self.half > 0, (x - self.middle) / self.half, 0)
        inside = (w * (1 - 1e-6)).clamp(-1 + 1e-6, 1 - 1e-6)
        return torch.where(self.boxed, inside.atanh(), w)

    def leave(self, w: torch.Tensor) -> torch.Tensor:
        """Return the rows that the variables stand for."""
        x = self.middle + self.half * torch.where(self.boxed, w.tanh(), w)
        return clip(x, self.lower, self.upper)


def carlini_wagner(
    view: Any,
    batch: Batch,
    lead: float,
    *,
    searches: int,
    steps: int,
    learning_rate: float,
    initial_const: float,
) -> Found:
    """Minimize length and class loss together, for many weights of the latter."""
    start, lower, upper, wanted = batch
    space = TanhSpace(lower, upper)
    found = start.clone()
    shortest = torch.full((len(start),), torch.inf, dtype=start.dtype)
    const = torch.full_like(shortest, initial_const)
    least, most = torch.zeros_like(const), torch.full_like(const, torch.inf)
    passes = torch.zeros(len(start), dtype=torch.int64)
    # Adam's first steps go past the mark: a rise at the start is no rest
    patience = max(50, math.ceil(steps / 5))
    for _ in range(searches):
        hit = torch.zeros(len(start), dtype=torch.bool)
        rows = torch.arange(len(start))
        w = space.enter(start)
        here = space
        m, v = torch.zeros_like(w), torch.zeros_like(w)
        lowest = lowest_then = loss_then = torch.full_like(const, torch.inf)
        for step in range(1, steps + 1):
            w = w.detach().requires_grad_()
            x = here.leave(w)
            delta = (x - start[rows]) / rows_like(here.unit, x)
            ahead = margin(view(x), wanted[rows])
            passes[rows] += 1
            squared = (delta * delta).flatten(1).sum(dim=1)
            loss = squared + const[rows] * (lead - ahead).clamp_min(0)
            grad = torch.autograd.grad(loss.sum(), w)[0]

            fooled = ahead.detach() > lead
            hit[rows[fooled]] = True
            shorter = fooled & (squared.detach() < shortest[rows])
            found[rows[shorter]] = x.detach()[shorter]
            shortest[rows[shorter]] = squared.detach()[shorter].to(shortest.dtype)

            w, m, v = adam(
                w.detach(), torch.nan_to_num(grad), m, v, step, learning_rate
            )
            lowest = torch.minimum(lowest, loss.detach())
            if step % patience == 0:
                now = loss.detach()
                left = (lowest < 0.9999 * lowest_then) | (now < 0.9999 * loss_then)
                lowest = lowest_then = lowest[left]  # the others have come to rest
                loss_then = now[left]
                rows, here, w, m, v = rows[left], here[left], w[left], m[left], v[left]
                if not len(rows):
                    break
        most = torch.where(hit, torch.minimum(most, const), most)
        least = torch.where(hit, least, torch.maximum(least, const))
        const = torch.where(torch.isfinite(most), (least + most) / 2, 10 * const)
    return found, shortest < torch.inf, passes


def adam(
    w: torch.Tensor,
    grad: torch.Tensor,
    m: torch.Tensor,
    v: torch.Tensor,
    step: int,
    size: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Take a step of Adam, down; each row goes its own way."""
    m = 0.9 * m + 0.1 * grad
    v = 0.999 * v + 0.001 * grad * grad
    mean, square = m / (1 - 0.9**step), v / (1 - 0.999**step)
    return w - size * mean / (square.sqrt() + 1e-8), m, v
