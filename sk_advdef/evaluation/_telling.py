"""The rows that show best how a model is fooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils import _safe_indexing

from sk_advdef._torch._models import (
    genuine_classes_of,
    predict,
    torch_generators_kept,
)
from sk_advdef.attacks._table import Table

#: Lost rows that are attacked again at most, and halvings of the way back.
CANDIDATES, HALVINGS = 24, 8
#: Features that are put back at most, one call of the model each.
MOST_FEATURES = 200


@dataclass(frozen=True, eq=False)
class TellingRow:
    """A row that was right, a change that makes the model wrong, and who found it.

    ``at`` is the position of the row in the data, ``size`` the change in parts of eps.
    """

    at: int
    label: Any
    answer: Any
    attack: str
    before: np.ndarray
    after: np.ndarray
    size: float

    @property
    def n_changed(self) -> int:
        """Number of features that were changed."""
        return int((self.before != self.after).sum())


def telling_rows(
    estimator: Any,
    X: Any,
    y: np.ndarray,
    lost: np.ndarray,
    trials: Sequence[Any],
    eps: Any,
    *,
    few: bool,
    n_rows: int = 6,
) -> list[TellingRow]:
    """Attack some lost rows again and keep those that fell to the least change.

    Of rows of features, each change is first undone feature by feature, the smallest
    first; then it is shortened on its straight way back. The model's own ``predict``
    stays wrong all along, so that what is shown is about as little as it takes. Rows of
    other pairs of label and answer come first.
    """
    rows = np.flatnonzero(lost)[:CANDIDATES]
    found: list[TellingRow] = []
    for trial in trials:
        if not len(rows):
            break
        part = _safe_indexing(X, rows)
        with torch_generators_kept():
            made = trial.attack.run(trial.model, part, y[rows]).X_adv
            shown = _least(_Judge(estimator, part, y[rows]), made, eps, few=few)
        start = Table(part).values
        for i, (after, answer) in shown.items():
            size = float(_parts(after - start[i], eps).max())
            found.append(
                TellingRow(
                    int(rows[i]), y[rows[i]], answer, trial.name, start[i], after, size
                )
            )
        rows = np.delete(rows, list(shown))
    found.sort(key=lambda row: (row.n_changed if few else 0, row.size))
    return _various(found, n_rows)


class _Judge:
    """The rows as they were, and what the model itself says of them changed."""

    def __init__(self, estimator: Any, X: Any, y: np.ndarray) -> None:
        self.estimator, self.y = estimator, y
        self.table = Table(X)
        self.start = self.table.values
        self.genuine = genuine_classes_of(estimator)

    def __call__(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which rows fool the model, and its answers."""
        answers = predict(self.estimator, self.table.restore(values))
        return (answers != self.y) & np.isin(answers, self.genuine), answers


def _least(
    judge: _Judge, X_adv: Any, eps: Any, *, few: bool
) -> dict[int, tuple[np.ndarray, Any]]:
    """Return {position: (row, answer)} of rows that fool by about as little as can."""
    end = Table(X_adv).values
    fools, answers = judge(end)
    if few and fools.any():
        end, answers = _undone(judge, end, answers, fools, eps)
    end, answers = _shortened(judge, end, answers, fools)
    return {int(i): (end[i], answers[i]) for i in np.flatnonzero(fools)}


def _undone(
    judge: _Judge, end: np.ndarray, answers: np.ndarray, fools: np.ndarray, eps: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Put features back, the least changed first, where the row still fools."""
    order = np.argsort(_parts(end - judge.start, eps), axis=1, kind="stable")
    every = np.arange(len(end))
    for at in order.T[-MOST_FEATURES:]:
        tried = end.copy()
        tried[every, at] = judge.start[every, at]
        still, said = judge(tried)
        still &= fools
        end[still], answers[still] = tried[still], said[still]
    return end, answers


def _shortened(
    judge: _Judge, end: np.ndarray, answers: np.ndarray, fools: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Go back toward the original by halves, where the row still fools."""
    start, kept = judge.start, end.copy()
    shape = (-1, *[1] * (start.ndim - 1))
    low, high = np.zeros(len(start)), np.ones(len(start))
    for _ in range(HALVINGS):
        share = (low + high) / 2
        moved = start + (share.reshape(shape) * (end - start)).astype(start.dtype)
        moved = judge.table.settle(moved, slice(None))
        still, said = judge(moved)
        still &= fools
        kept[still], answers[still] = moved[still], said[still]
        high, low = np.where(still, share, high), np.where(still, low, share)
    return kept, answers


def _parts(delta: np.ndarray, eps: Any) -> np.ndarray:
    """Return the sizes of changes in parts of eps."""
    reach = np.broadcast_to(np.asarray(eps, dtype=np.float64), delta.shape)
    return np.divide(np.abs(delta), reach, out=np.zeros(delta.shape), where=reach > 0)


def _various(rows: list[TellingRow], count: int) -> list[TellingRow]:
    """Take rows in order, those of a new pair of label and answer before others."""
    seen: set[tuple[Any, Any]] = set()
    new: list[TellingRow] = []
    again: list[TellingRow] = []
    for row in rows:
        (again if (row.label, row.answer) in seen else new).append(row)
        seen.add((row.label, row.answer))
    return (new + again)[:count]
