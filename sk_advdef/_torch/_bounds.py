"""Bounds of what a module answers on a box: interval bound propagation.

Gowal et al., "On the Effectiveness of Interval Bound Propagation for Training
Verifiably Robust Models", 2018, arXiv:1810.12715.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils import gen_batches
from torch import nn

from sk_advdef._torch._blocks import decision_of
from sk_advdef._torch._crown import raise_leads
from sk_advdef._torch._eot import draws
from sk_advdef._torch._interval import Interval, Linear, NoBoundsError, gamma, least
from sk_advdef._torch._interval_rules import kind_of, unit_of
from sk_advdef._torch._kernel_views import OneVersusOne
from sk_advdef._torch._methods import REFINING
from sk_advdef._torch._net_view import NetView, dtype_of, frozen
from sk_advdef._torch._propagation import KNOWN, propagate, ties
from sk_advdef._torch._registry import build

#: Rows that are bounded together.
ROWS_AT_A_TIME = 256

#: What a row is taken from for another one.
OTHER = 0.7390851

#: Numbers in the differences of all pairs of classes, above which few are made at once.
MANY_PAIRS = 4_000_000


def worst_margins(scores: Interval, columns: torch.Tensor) -> torch.Tensor:
    """Lower bounds of a class's lead over each class; its own column holds 0.

    Where the scores come from a linear layer, the difference of two of its rows is
    bounded and not the two apart.
    """
    rows = torch.arange(len(columns), device=columns.device)
    if scores.linear is None:
        own = scores.lower[rows, columns]
        margins = own[:, None] - scores.upper
    else:
        margins = _elided(scores.linear, columns)
    own_column = torch.zeros_like(margins, dtype=torch.bool)
    own_column[rows, columns] = True
    return margins.masked_fill(own_column, 0.0)


def _elided(layer: Linear, columns: torch.Tensor) -> torch.Tensor:
    source, weight, bias = layer.source, layer.weight, layer.bias
    center, radius = source.center, source.radius
    rows = torch.arange(len(columns), device=columns.device)
    logits = nn.functional.linear(center, weight, bias)
    own = logits[rows, columns]
    lead = own[:, None] - logits - _spread(radius, weight, columns)
    rounding = gamma(source, weight.shape[1] + 16)
    if rounding:
        size = nn.functional.linear(source.magnitude, weight.abs(), bias.abs())
        error = rounding * size + least(source, weight.shape[1]) + layer.error
        lead = lead - error - error[rows, columns][:, None]
    return lead


def _spread(
    radius: torch.Tensor, weight: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """How far a class's lead over each class moves with the inputs of the layer."""
    n_classes = len(weight)
    if n_classes**2 * weight.shape[1] <= MANY_PAIRS:
        pairs = (weight[:, None] - weight[None]).abs().flatten(0, 1)
        spread = (radius @ pairs.T).unflatten(1, (n_classes, n_classes))
        return spread[torch.arange(len(columns), device=columns.device), columns]
    spread = radius.new_zeros(len(radius), n_classes)
    for column in columns.unique():
        own = columns == column
        pairs = (weight[column] - weight).abs()
        spread = spread.index_put((own.nonzero()[:, 0],), radius[own] @ pairs.T)
    return spread


def bounded_view(estimator: Any) -> nn.Module:
    """Make the view of a fitted estimator whose bounds say what it answers.

    Raises NoBoundsError where the answer is not the class of the highest score.
    """
    view = build(estimator)
    for part in view.modules():
        if isinstance(part, OneVersusOne):
            raise NoBoundsError(
                "Votes between pairs of classes cannot be bounded, so an SVC of more "
                f"than two classes has no certificate. {KNOWN}."
            )
        if isinstance(part, NetView) and part.threshold != 0.5:
            raise NoBoundsError(
                f"A net with threshold={part.threshold!r} cannot be bounded: it does "
                "not answer the more probable class. Set its threshold to 0.5."
            )
    return frozen(decision_of(view))


def dtypes_within(view: nn.Module, dtype: np.dtype) -> list[np.dtype]:
    """Return dtypes of rows that a certificate has to hold for, given rows of one.

    What lies in a ball may come as another kind of number, and transformers compute in
    the kind that they get; nets get rows in one kind whatever they are.
    """
    if isinstance(view, NetView) and dtype != np.float16:
        wide = dtype_of(view.module, torch.empty(0)) == torch.float64
        if view.narrowed or not wide:
            return [np.dtype(np.float32)]
    kinds = [np.dtype(kind) for kind in (dtype, np.float32, np.float64)]
    return list(dict.fromkeys(kinds))


def certified_margins(
    view: nn.Module,
    lower: np.ndarray,
    upper: np.ndarray,
    columns: np.ndarray,
    *,
    dtype: np.dtype,
    method: str = "ibp",
) -> np.ndarray:
    """Lower bounds of the lead of a class over all others, anywhere in boxes.

    The bounds hold for the view as it is computed, in any order of summation: they are
    taken in float64, and every step widens them by the largest error that the view's
    own rounding can make. ``lower`` and ``upper`` are float64 arrays of the boxes'
    ends, ``dtype`` is that of the rows; what lies in a box may come as float32 and as
    float64 all the same. ``method`` is one of those of ``_methods``. Returns float64,
    shape (n_samples,).
    """
    found = np.min(
        [
            _margins_of(view, lower, upper, columns, kind_of(kind), method, not i)
            for i, kind in enumerate(dtypes_within(view, dtype))
        ],
        axis=0,
    )
    return np.where(np.isnan(found), -np.inf, found)  # of which nothing is known


def _margins_of(
    view: nn.Module,
    lower: np.ndarray,
    upper: np.ndarray,
    columns: np.ndarray,
    kind: torch.dtype,
    method: str,
    first: bool,
) -> np.ndarray:
    margins = []
    with torch.no_grad():
        for rows in gen_batches(len(lower), ROWS_AT_A_TIME):
            ends = [
                torch.tensor(end[rows], dtype=torch.float64) for end in (lower, upper)
            ]
            unit = unit_of(kind, torch.device("cpu"))
            box = Interval(*ends, dtype=kind, unit=unit, raw=True)
            scores = propagate(view, box)
            if first and rows.start == 0:
                _refuse_chance(view, torch.tensor(lower[:1], dtype=kind))
            own = torch.tensor(columns[rows])
            leads = _certain(scores, own.to(scores.held.device)).cpu()
            if first:
                _refuse_company(view, box, scores)
            for refines in REFINING[method]:
                about = {"dtype": kind, "unit": unit}
                given = view, box.ends, own, leads
                leads = raise_leads(*given, about=about, refines=refines)
            margins.append(leads.amin(dim=1).numpy())
    return np.concatenate(margins) if margins else np.zeros(0)


def _refuse_company(view: nn.Module, box: Interval, scores: Interval) -> None:
    """Refuse a view that answers a row by the rows beside it, as ``predict`` alone may.

    Looked at are some rows by themselves, and one that is alone beside another.
    """
    n = len(scores.lower)
    for at in {0, n // 2, n - 1}:
        ends = [end[[at]] for end in box.ends]
        if n == 1:
            beside = [OTHER - end for end in reversed(ends)]
            ends = [torch.cat(pair) for pair in zip(ends, beside, strict=True)]
        found = propagate(
            view, Interval(*ends, dtype=box.dtype, unit=box.unit, raw=True)
        )
        for one, other in ((found.lower, scores.lower), (found.upper, scores.upper)):
            if not torch.allclose(one[0], other[at], rtol=1e-5, equal_nan=True):
                raise NoBoundsError(
                    f"{type(view).__name__} cannot be bounded: what it answers for a "
                    "row depends on the rows beside it."
                )


def _refuse_chance(view: nn.Module, rows: torch.Tensor) -> None:
    """Refuse a view that draws random numbers: bounds of one draw say nothing."""
    marked = any(getattr(m, "is_random", False) for m in view.modules())
    if marked or (len(rows) and draws(view, rows)):
        raise NoBoundsError(
            f"{type(view).__name__} cannot be bounded: it draws random numbers to "
            "answer."
        )


def _certain(scores: Interval, columns: torch.Tensor) -> torch.Tensor:
    """Return the least leads over each class, infinite in a class's own column."""
    lead = worst_margins(scores, columns)
    own_column = torch.zeros_like(lead, dtype=torch.bool)
    own_column[torch.arange(len(columns)), columns] = True
    return (lead - ties(scores)[:, None]).masked_fill(own_column, torch.inf)
