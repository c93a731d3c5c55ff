"""Gradients for steps that have none: straight through, or through a soft step.

The forward pass of a view is always exact. Backward, a step is either passed over, as
if it were the identity, or has the derivative of a soft step, which an attack makes
sharper as it goes. Neither is the better for all rows, so an attack tries both::

    ways = [False, True] if rounding_modules(view) else [False]
    for soft in ways:
        with annealed(view):
            for step in range(steps):
                if soft:
                    anneal(view, step / steps)
                ...

References
----------
.. [1] A. Athalye, N. Carlini, D. Wagner, "Obfuscated Gradients Give a False Sense of
   Security", ICML 2018, arXiv:1802.00420.
.. [2] E. Agustsson, L. Theis, "Universally Quantized Neural Compression", NeurIPS
   2020, arXiv:2006.09952 (the soft rounding).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_T = torch.Tensor

#: Functions that are flat beyond their ends -> what has their slope between these.
_ENDS: dict[Any, Callable[[torch.Tensor], torch.Tensor]] = {
    **dict.fromkeys(
        (
            *(torch.clamp, _T.clamp, torch.clip, _T.clip, F.hardtanh),
            *(torch.clamp_min, _T.clamp_min, torch.clamp_max, _T.clamp_max),
        ),
        lambda x: x,
    ),
    F.hardsigmoid: lambda x: x / 6 + 0.5,
}

#: Functions that are flat everywhere.
_STEPS = {
    *(torch.round, _T.round, torch.floor, _T.floor, torch.ceil, _T.ceil),
    *(torch.trunc, _T.trunc, torch.sign, _T.sign),
}

#: From nearly the identity to nearly the step itself.
SHARPNESS = (1.0, 20.0)


class Rounding(nn.Module):
    """A module with a step in it, whose backward pass can be chosen.

    ``sharpness`` None stands for the usual backward pass, a number for that of a soft
    step. Subclasses read it in ``forward``, or call ``rounded``.
    """

    sharpness: float | None = None

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        """Round to whole numbers, with the gradient that is asked for."""
        soft = x if self.sharpness is None else soft_round(x, self.sharpness)
        return straight_through(x.round(), soft)


def straight_through(exact: torch.Tensor, surrogate: torch.Tensor) -> torch.Tensor:
    """Return the values of ``exact`` with the gradient of ``surrogate``."""
    return exact.detach() + (surrogate - surrogate.detach())


class Through(TorchFunctionMode):
    """Looks for values that a module's functions hold, where gradients end.

    Clipping and rounding within a net hide its gradient as well as those before it do.
    With ``straight`` gradients go straight through them; what is written in place is
    left alone.

    Attributes
    ----------
    flat : bool
        Whether there were any so far.
    """

    def __init__(self, *, straight: bool = False) -> None:
        super().__init__()
        self.straight, self.flat = straight, False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call the function, and look at what came of it."""
        kwargs = kwargs or {}
        exact = func(*args, **kwargs)
        is_step = func in _STEPS
        if not (is_step or func in _ENDS) or kwargs.get("inplace"):
            return exact
        given = args[0] if args else kwargs.get("input")
        if not (isinstance(given, torch.Tensor) and exact.requires_grad):
            return exact
        if self.flat and not self.straight:
            return exact
        surrogate = given if is_step else _ENDS[func](given)
        self.flat |= is_step or bool((exact.detach() != surrogate.detach()).any())
        if not self.straight:
            return exact
        # infinities have no difference
        passed = straight_through(exact, surrogate)
        return torch.where(surrogate.isfinite(), passed, exact)


@contextmanager
def looked_through(view: nn.Module, mode: Through) -> Iterator[None]:
    """Let a mode see the nets within a view, and nothing of what is around them."""
    nets = [part for part in view.modules() if hasattr(part, "through")]
    for net in nets:
        net.through = mode  # type: ignore[assignment]
    try:
        yield
    finally:
        for net in nets:
            net.through = None  # type: ignore[assignment]


def evened(scores: torch.Tensor) -> torch.Tensor:
    """Divide scores by their lead, where it is large, so that a softmax has a slope."""
    first, second = scores.detach().topk(2, dim=1).values.T
    return scores / (first - second).clamp_min(1)[:, None]


def soft_round(x: torch.Tensor, sharpness: float) -> torch.Tensor:
    """Round softly: the identity at sharpness 0, rounding at infinity."""
    floor = x.detach().floor()
    part = torch.tanh(sharpness * (x - floor - 0.5)) / math.tanh(sharpness / 2)
    return floor + 0.5 + 0.5 * part


def rounding_modules(view: nn.Module) -> list[Rounding]:
    """List the parts of a view that hold a step."""
    return [m for m in view.modules() if isinstance(m, Rounding)]


def anneal(view: nn.Module, progress: float | None) -> None:
    """Set the backward pass of each step in a view.

    Parameters
    ----------
    view : nn.Module
        A view, or any module that holds one.
    progress : float in [0, 1] or None
        How far the attack has come: steps are soft at 0 and sharp at 1. None goes back
        to the usual backward pass.
    """
    low, high = SHARPNESS
    for module in rounding_modules(view):
        module.sharpness = None if progress is None else low * (high / low) ** progress


@contextmanager
def annealed(view: nn.Module) -> Iterator[None]:
    """Put every step back as it was after a block that anneals."""
    before = [(module, module.sharpness) for module in rounding_modules(view)]
    try:
        yield
    finally:
        for module, sharpness in before:
            module.sharpness = sharpness
