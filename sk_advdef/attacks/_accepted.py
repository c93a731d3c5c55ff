"""Goals of an attack on a class that a detector must accept as genuine."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch import nn

from sk_advdef.attacks._gradient import Goal

#: Lead of the wrong class from which on the detector is worked on.
LEAD = 0.5

#: Ways to bring the class and the detector together; none is the best for all.
MODES = ("selective", "sum", "orthogonal", "matching")


def _squash(values: torch.Tensor) -> torch.Tensor:
    return values.double() / (1 + values.double().abs())


class RejectedGoal:
    """Be rejected: raise the detector's suspicion."""

    def __init__(self, suspicion: nn.Module, offset: float, scale: float) -> None:
        self.suspicion, self.offset, self.scale = suspicion, offset, scale

    def __call__(
        self, x: torch.Tensor, scores: torch.Tensor, columns: torch.Tensor
    ) -> tuple[Any, torch.Tensor]:
        """Return what to climb, and the rank."""
        raised = (self.suspicion(x) + self.offset) / self.scale
        return raised, _squash(raised)


class AcceptedGoal:
    """Be wrong and accepted, by one of four ways.

    "selective" follows the class's gradient until the row is wrong by some lead, and
    the detector's from there on. "sum" climbs both, each up to where more of it is of
    no use; suspicion counts by its logarithm, lest it drown the class. "orthogonal"
    does as "selective" but takes from each gradient what would undo the other
    (Bryniarski et al. 2021, arXiv:2106.15023). "matching" moves the features to those
    of a genuine row of a wrong class.

    Wrong ranks above right, and among the wrong the less suspicious; success is wrong
    and accepted.
    """

    def __init__(
        self,
        mode: str,
        class_goal: Goal,
        suspicion: nn.Module,
        offset: float,
        scale: float,
    ) -> None:
        self.mode, self.class_goal = mode, class_goal
        self.suspicion, self.offset, self.scale = suspicion, offset, scale
        self.aims: torch.Tensor | None = None

    def __call__(
        self, x: torch.Tensor, scores: torch.Tensor, columns: torch.Tensor
    ) -> tuple[Any, torch.Tensor]:
        """Return what to climb, and the rank."""
        value, margin = self.class_goal(x, scores, columns)
        accepted = ((-self.suspicion(x) - self.offset) / self.scale).to(margin.dtype)
        if self.offset == -torch.inf:
            accepted = torch.ones_like(margin)
        rank = torch.where(margin > 0, _squash(accepted), _squash(margin) - 2)
        return self._climbed(x, scores, value, margin, accepted), rank

    def _climbed(
        self,
        x: torch.Tensor,
        scores: torch.Tensor,
        value: torch.Tensor,
        margin: torch.Tensor,
        accepted: torch.Tensor,
    ) -> Any:
        if self.mode == "sum":
            short = -torch.log1p(accepted.clamp(max=0).neg())
            accepted = torch.where(accepted < 0, short, accepted)
            return margin.clamp(max=2 * LEAD) + accepted.clamp(max=2 * LEAD)
        if self.mode == "matching":
            assert self.aims is not None
            return -((self.features(x, scores) - self.aims) ** 2).mean(dim=1)
        wrong = margin > LEAD
        now = torch.where(wrong, accepted, value)
        if self.mode == "selective":
            return now
        return now, torch.where(wrong, margin, accepted)

    def features(self, x: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return what the detector looks at, or else the class scores, a row each."""
        look = getattr(self.suspicion, "features", None)
        return scores if look is None else look(x).to(scores.dtype)

    def bound(self, view: nn.Module, aims: torch.Tensor) -> AcceptedGoal:
        """Take the rows whose features are aimed at, one for each row of a batch."""
        goal = AcceptedGoal(
            self.mode, self.class_goal, self.suspicion, self.offset, self.scale
        )
        if self.mode == "matching":
            with torch.no_grad():
                goal.aims = self.features(aims, view(aims))
        return goal


def nearest_of_wrong_class(
    X: np.ndarray,
    answers: np.ndarray,
    y: np.ndarray,
    usable: np.ndarray,
    *,
    same: bool = False,
) -> np.ndarray:
    """Find the nearest usable row that is answered with another class than ``y``.

    With ``same``, with the class ``y``. A row without any gets its own position.
    """
    flat = X.reshape(len(X), -1)
    found = np.arange(len(X))
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        pool = np.flatnonzero(usable & ((answers == label) == same))
        if len(pool):
            search = NearestNeighbors(n_neighbors=1).fit(flat[pool])
            found[rows] = pool[search.kneighbors(flat[rows])[1][:, 0]]
    return found
