"""Random views, averaged over draws (expectation over transformation)."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import nn

from sk_advdef._torch._blocks import mean_proba
from sk_advdef._torch._net_view import NetView
from sk_advdef._torch._random import seeded

#: Draws that are averaged for one answer.
N_DRAWS = 10


class AveragedView(nn.Module):
    """The mean of a random view's class probabilities over several calls.

    Every answer comes from new draws, seeded by the number of the call: a new view
    repeats them, and the global generators stay as they were.

    Parameters
    ----------
    view : nn.Module
        From rows to scores of shape (n_samples, n_classes).
    n : int, default=10
        Number of calls; may be changed later.
    is_random : bool or None, default=True
        None finds out at the first answer whether the view draws at all, and calls it
        once only where it does not.

    References
    ----------
    .. [1] A. Athalye, L. Engstrom, A. Ilyas, K. Kwok, "Synthesizing Robust Adversarial
       Examples", ICML 2018, arXiv:1707.07397.
    """

    def __init__(
        self, view: nn.Module, n: int = N_DRAWS, *, is_random: bool | None = True
    ) -> None:
        super().__init__()
        self.view, self.n, self.is_random = view, n, is_random
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the log of the mean probabilities."""
        if self.is_random is None and len(x):
            self.is_random = draws(self.view, x)
        if not self.is_random:
            return self.view(x)
        self.calls += 1
        with seeded(self.calls):
            return mean_proba([self.view(x) for _ in range(self.n)])


def draws(view: nn.Module, x: torch.Tensor) -> bool:
    """Whether a view draws to answer, from any generator."""
    rows = x[:2]
    with torch.no_grad():
        # twice: once it may have been another thread that drew
        if _moves(view, rows) and _moves(view, rows):
            return True
        with seeded(0):
            first = view(rows)
        with seeded(0):
            return not torch.allclose(first, view(rows), rtol=1e-4, equal_nan=True)


def _moves(view: nn.Module, x: torch.Tensor) -> bool:
    with seeded(0):
        before = _generators()
        view(x)
        return before != _generators()


def _generators() -> Any:
    numpy_state = np.random.get_state()  # noqa: NPY002
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return (
        random.getstate(),
        str(numpy_state[2:]) + str(numpy_state[1].tobytes()),  # type: ignore[index]
        [state.numpy().tobytes() for state in (torch.get_rng_state(), *gpus)],
    )


def averaged(view: nn.Module) -> nn.Module:
    """Average a view of classes if it is random, or turns out to be.

    A module is random if its attribute ``is_random`` says so. A net is watched at its
    first answer, since it is the user's own code and may leave dropout on.
    """
    modules = list(view.modules())
    if any(getattr(m, "is_random", False) for m in modules):
        return AveragedView(view).eval()
    if any(isinstance(m, NetView) for m in modules):
        return AveragedView(view, is_random=None).eval()
    return view
