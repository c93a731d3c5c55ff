"""JSMA and sigma-zero on a batch, in torch."""

from __future__ import annotations

import math
from typing import Any

import torch

from sk_advdef.attacks._ahead import log_odds, margin
from sk_advdef.attacks._minimal import Batch
from sk_advdef.attacks._minimal_l2 import Found, adam
from sk_advdef.attacks._row_tensors import clip, rows_like

#: Steps of theta to the end of a feature, beyond which it counts as without one.
MOST_STEPS = 10_000


def jsma(
    view: Any, batch: Batch, lead: float, *, theta: float, n_changes: int
) -> Found:
    """Move, time after time, the pair of features that stands out most.

    Of a softmax, what the wanted classes gain the others lose: the product that the
    saliency map of a pair is, is the square of the pair's summed gradient, and the two
    features with the largest gradients make the best pair.
    """
    shape = batch.x.shape
    start, wanted = batch.x.flatten(1), batch.wanted
    limit = (batch.upper if theta > 0 else batch.lower).flatten(1)
    x, usable = start.clone(), start != limit
    # such as the range of the integers, which nothing would ever reach
    has_end = (limit - start).abs() <= MOST_STEPS * abs(theta)
    hit = torch.zeros(len(x), dtype=torch.bool)
    passes = torch.zeros(len(x), dtype=torch.int64)
    rows = torch.arange(len(x))
    while len(rows):
        now = x[rows].requires_grad_()
        scores = view(now.reshape(-1, *shape[1:]))
        passes[rows] += 1
        done = margin(scores.detach(), wanted[rows]) > lead
        hit[rows[done]] = True
        gain = torch.autograd.grad(log_odds(scores, wanted[rows]).sum(), now)[0]
        gain = torch.nan_to_num(gain) * math.copysign(1, theta)

        changed = now.detach() != start[rows]
        may_be_new = changed.sum(dim=1, keepdim=True) + 2 <= n_changes
        open_ = usable[rows] & (changed | may_be_new)
        gains, pair = gain.masked_fill(~open_, -torch.inf).topk(min(2, x.shape[1]))
        exists = torch.isfinite(gains)  # one feature alone may be all that is left
        going = ~done & (gains.masked_fill(~exists, 0).sum(dim=1) > 0)
        rows, pair, exists = rows[going], pair[going], exists[going]

        old, end = x[rows].gather(1, pair), limit[rows].gather(1, pair)
        new = old + theta
        new = torch.minimum(new, end) if theta > 0 else torch.maximum(new, end)
        at = rows[:, None].expand_as(pair)[exists], pair[exists]
        x[at] = new[exists]
        # without an end, or where theta is less than rounding, a feature would be moved
        # for ever: there, once
        ends = has_end[rows].gather(1, pair)
        usable[at] = ((new != end) & (new != old) & ends)[exists]
    return x.reshape(shape), hit, passes


def sigma_zero(
    view: Any,
    batch: Batch,
    lead: float,
    *,
    steps: int,
    sigma: float,
    threshold: float,
    step_size: float,
) -> Found:
    """Descend a smooth count of changed features; cut to zero what is small.

    Changes are in units of the box, where a feature has one.
    """
    start, lower, upper, wanted = batch
    width = upper - lower
    unit = torch.where(torch.isfinite(width) & (width > 0), width, 1)
    n_features = start[0].numel()
    found = start.clone()
    fewest = torch.full((len(start),), torch.inf, dtype=start.dtype)
    tau = torch.full_like(fewest, threshold)
    delta = torch.zeros_like(start)
    m, v = torch.zeros_like(delta), torch.zeros_like(delta)
    for step in range(steps + 1):
        delta = delta.detach().requires_grad_(bool(step < steps))
        x = clip(start + unit * delta, lower, upper)
        ahead = margin(view(x), wanted)
        fooled = ahead.detach() > lead
        count = (x.detach() != start).flatten(1).sum(dim=1).to(fewest.dtype)
        fewer = fooled & (count < fewest)
        found[fewer] = x.detach()[fewer]
        fewest = torch.where(fewer, count, fewest)
        if step == steps:
            break
        squares = delta * delta
        smooth_count = (squares / (squares + sigma)).flatten(1).sum(dim=1) / n_features
        loss = (lead - ahead).clamp_min(0) + smooth_count
        grad = torch.nan_to_num(torch.autograd.grad(loss.sum(), delta)[0])
        peak = grad.abs().flatten(1).amax(dim=1)
        grad = grad / rows_like(peak.clamp_min(torch.finfo(grad.dtype).tiny), grad)

        size = step_size * (0.1 + 0.9 * (1 + math.cos(math.pi * step / steps)) / 2)
        delta, m, v = adam(delta.detach(), grad, m, v, step + 1, size)
        delta = (clip(start + unit * delta, lower, upper) - start) / unit
        # bolder after a success, more careful after a failure
        tau = (tau + torch.where(fooled, 1, -1) * 0.01 * size).clamp(0, 1)
        delta = torch.where(delta.abs() < rows_like(tau, delta), 0, delta)
    passes = torch.full((len(start),), steps + 1)
    return found, torch.isfinite(fewest), passes
