"""How a box goes through a module, and what is said where it cannot."""

from __future__ import annotations

import torch
from torch import nn

import sk_advdef._torch._interval_layers  # noqa: F401 (registers its rules)
from sk_advdef._torch._interval import Interval, NoBoundsError, Unbounded

#: Part of the scores, in units of rounding, that a margin must exceed: what a softmax
#: after them may round to a tie is not certified.
TIE = 64

KNOWN = (
    "Bounds are known for linear layers and convolutions, ReLU and most activations "
    "that never fall, average and max pooling, batch normalization, dropout, sums, and "
    "reshaping, slicing, joining and padding"
)


def propagate(module: nn.Module, box: Interval) -> Interval:
    """Send a box through a module and name the part that it cannot pass."""
    before = Unbounded.count()
    try:
        found = module(box)
    except Unbounded as error:
        where = _innermost(module, error)
        raise NoBoundsError(f"{where} cannot be bounded: {error}. {KNOWN}.") from None
    if box.unit and Unbounded.count() > before:
        raise NoBoundsError(
            f"{type(module).__name__} cannot be bounded: it catches the error of what "
            f"cannot, and goes another way than with values. {KNOWN}."
        )
    if not isinstance(found, Interval):
        raise NoBoundsError(
            f"{type(module).__name__} cannot be bounded: it returns a "
            f"{type(found).__name__}. {KNOWN}."
        )
    return found


def _innermost(module: nn.Module, error: BaseException) -> str:
    """Name the innermost module in which an error arose."""
    found, trace = module, error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module):
            found = owner
        trace = trace.tb_next
    name = next((n for n, part in module.named_modules() if part is found), "")
    return f"The module {name!r} ({type(found).__name__})"


def ties(scores: Interval) -> torch.Tensor:
    """Return the lead of each row below which a softmax may answer a tie."""
    return TIE * scores.unit * (1 + scores.magnitude.amax(dim=1))
