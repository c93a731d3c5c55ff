"""Small modules that several views are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import nn

from sk_advdef._torch._bpda import Rounding, evened, straight_through


def buffer(values: Any) -> torch.Tensor:
    """Copy numbers to a float64 tensor."""
    if sparse.issparse(values):
        values = values.toarray()
    return torch.tensor(np.asarray(values, dtype=np.float64))


class Affine(nn.Module):
    """``x @ weight + bias``, in float64."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, weight: Any, bias: Any) -> None:
        super().__init__()
        self.register_buffer("weight", buffer(weight))
        self.register_buffer("bias", buffer(bias))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return one column a column of ``weight``."""
        return x.to(self.weight.dtype) @ self.weight + self.bias


def two_columns(scores: torch.Tensor) -> torch.Tensor:
    """Turn one decision value ``d`` a row into the scores [-d / 2, d / 2]."""
    if scores.shape[1] > 1:
        return scores
    return torch.cat([-scores / 2, scores / 2], dim=1)


class TwoColumns(nn.Module):
    """``two_columns`` as a module."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return at least two columns."""
        return two_columns(x)


class Response(Rounding):
    """What an ensemble reads from a member: probabilities, or decision values.

    Of two classes this is one column, that of the second class. The second way back
    through probabilities is that of scores in units of their lead.
    """

    def __init__(self, view: nn.Module, *, proba: bool) -> None:
        super().__init__()
        self.view, self.proba = view, proba

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a column a class, or one."""
        scores = self.view(x)
        if self.proba:
            proba = scores.softmax(dim=1)
            if self.sharpness is not None:
                proba = straight_through(proba, evened(scores).softmax(dim=1))
            scores = proba
        if scores.shape[1] > 2:
            return scores
        return scores[:, 1:] if self.proba else scores[:, 1:] - scores[:, :1]


class Deciding:
    """Marks views of ours whose ``decision``, if any, is that of decision values.

    A part of a user's view may have the same name.
    """

    decision: nn.Module


def decision_of(view: nn.Module) -> nn.Module:
    """Return the view of ``decision_function`` where it is not that of the classes."""
    if isinstance(view, nn.Sequential):
        *before, last = view
        return nn.Sequential(*before, decision_of(last))
    return getattr(view, "decision", view) if isinstance(view, Deciding) else view


class Mixture(Rounding):
    """Scores whose softmax is the weighted mean of the members' probabilities.

    The second way back, for members that are all too sure, is along the mean of their
    scores in units of the lead of each.
    """

    log_weights: torch.Tensor

    def __init__(self, views: Iterable[nn.Module], weights: Any) -> None:
        super().__init__()
        shares = np.asarray(weights, dtype=np.float64)
        shares = shares / shares.sum()
        self.views = nn.ModuleList(
            view for view, share in zip(views, shares, strict=True) if share > 0
        )
        self.register_buffer("log_weights", buffer(np.log(shares[shares > 0])))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the log of the mean probabilities."""
        scores = [view(x).double() for view in self.views]
        logs = torch.stack([s.log_softmax(dim=1) for s in scores])
        exact = (logs + self.log_weights[:, None, None]).logsumexp(dim=0)
        if self.sharpness is None:
            return exact
        weights = self.log_weights.exp()
        each = [w * evened(s) for w, s in zip(weights, scores, strict=True)]
        return straight_through(exact, torch.stack(each).sum(dim=0))


def mean_proba(scores: list[torch.Tensor]) -> torch.Tensor:
    """Return the log of the mean of the softmax of several scores."""
    logs = torch.stack([s.log_softmax(dim=1) for s in scores])
    return logs.logsumexp(dim=0) - math.log(len(scores))
