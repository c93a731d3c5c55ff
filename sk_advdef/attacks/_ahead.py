"""How far an attacker is ahead, by the scores of a differentiable view, in torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from sk_advdef._torch._registry import as_module, as_score_module
from sk_advdef.attacks._base import Problem


class WithRejection(nn.Module):
    """The classes of a model, and "rejected" as one more of them.

    Its score is above all others exactly where the detector rejects (Carlini & Wagner,
    arXiv:1705.07263), so that whatever leads to a wrong class leads past the detector.
    """

    def __init__(
        self, view: nn.Module, suspicion: nn.Module, offset: float, scale: float
    ) -> None:
        super().__init__()
        self.view, self.suspicion = view, suspicion
        self.offset, self.scale = offset, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, n_classes + 1) scores."""
        scores = self.view(x)
        rejected = (self.suspicion(x) + self.offset) / self.scale
        rejected = scores.amax(dim=1) + rejected.to(scores.dtype)
        return torch.cat([scores, rejected[:, None]], dim=1)


def view_of(problem: Problem) -> tuple[Any, np.ndarray]:
    """Return the view to attack, and which of its columns are genuine classes."""
    view = as_module(problem.model)
    detector = problem.detector
    if detector is None or detector.offset_ == -np.inf:  # one that rejects nothing
        return view, problem.genuine
    suspicion = as_score_module(detector)
    view = WithRejection(
        view, suspicion, float(detector.offset_), float(detector.scale_)
    )
    return view, np.append(problem.genuine, False)


def wanted_columns(
    problem: Problem, rows: np.ndarray, genuine: np.ndarray
) -> torch.Tensor:
    """Mark, a row each, the columns whose answer serves the attacker."""
    label = np.arange(len(genuine)) == problem.columns[rows, None]
    if problem.reject:
        return torch.from_numpy(np.broadcast_to(~genuine, label.shape).copy())
    return torch.from_numpy(label if problem.targeted else genuine & ~label)


def among(scores: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Leave only the scores of some columns."""
    return scores.masked_fill(~columns, -torch.inf)


def margin(scores: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Best score that serves the attacker minus the best that does not."""
    return among(scores, wanted).amax(dim=1) - among(scores, ~wanted).amax(dim=1)


def log_odds(scores: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Log-odds of an answer that serves the attacker.

    It rises with the cross-entropy, and its gradient has the same direction; but it
    does not vanish where the softmax is saturated.
    """
    hit = among(scores, wanted).logsumexp(dim=1)
    return hit - among(scores, ~wanted).logsumexp(dim=1)
