"""What attacks share that look for the smallest change instead of filling a ball."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import gen_batches

from sk_advdef._validation import check_number
from sk_advdef.attacks._base import Attack, Problem

#: By how much the wrong class must lead in the view, one try after the other, for rows
#: that the view takes for fooled and ``predict`` does not.
LEADS = (0.0, 0.5, 2.0, 8.0)
#: How far such a row is first taken on along its own change.
STRETCHES = (1.0001, 1.002, 1.01, 1.05, 1.2)
#: Halvings of the part of a change that is known to be enough.
HALVINGS = 10


class Batch(NamedTuple):
    """Some rows, as tensors: where they start, their limits, the columns wanted."""

    x: Any
    lower: Any
    upper: Any
    wanted: Any


class MinimalAttack(Attack):
    """The smallest change that fools the estimator's own ``predict``.

    A subclass says in ``_find`` how the view is fooled. What it finds is then tried on
    ``predict``: taken a little further where that is not fooled yet, and, in norms that
    measure how far features move, back toward the row as far as it stays fooled.
    """

    batch_size: int
    norm: str
    _eps_optional = True

    def _check(self, problem: Problem) -> None:
        """Check the parameters of the subclass."""
        raise NotImplementedError

    def _find(self, view: Any, batch: Batch, lead: float) -> tuple[Any, Any, Any]:
        """Return rows that lead by ``lead`` where found, whether, and passes."""
        raise NotImplementedError

    def _pulls_back(self) -> bool:
        """Whether a found row may be moved back to where it is only just fooled."""
        return self.norm != "l0"

    def _train_on(self, problem: Problem) -> np.ndarray:
        # the smallest change of a row that is wrong already is none
        values = problem.X.copy()
        right = ~problem.is_fooled(values) & (problem.columns >= 0)
        rows = np.flatnonzero(right)
        if len(rows):
            values[rows] = self._search(problem, rows)[0]
        return values

    def _search(
        self, problem: Problem, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        from sk_advdef.attacks._ahead import view_of

        self._check(problem)
        batch_size = check_number(
            self, "batch_size", self.batch_size, integer=True, low=1
        )
        view, genuine = view_of(problem)
        values = problem.X.copy()
        fooled = np.zeros(len(values), dtype=bool)
        n_queries = np.ones(len(values), dtype=np.int64)
        left = rows
        for lead in LEADS:
            if not len(left):
                break
            parts = [
                self._find_batch(problem, view, genuine, left[batch], lead)
                for batch in gen_batches(len(left), batch_size)
            ]
            found, hit, passes = map(np.concatenate, zip(*parts, strict=True))
            n_queries[left] += passes
            left, found = left[hit], found[hit]
            found, confirmed, tries = self._confirm(problem, found, left)
            n_queries[left] += tries
            values[left[confirmed]] = found[confirmed]
            fooled[left] = confirmed
            left = left[~confirmed]
        if self._pulls_back():
            done = rows[fooled[rows]]
            values[done] = self._pull_back(problem, values[done], done)
            n_queries[done] += HALVINGS
        return values[rows], fooled[rows], n_queries[rows]

    def _find_batch(
        self,
        problem: Problem,
        view: Any,
        genuine: np.ndarray,
        rows: np.ndarray,
        lead: float,
    ) -> tuple[np.ndarray, ...]:
        import torch

        from sk_advdef.attacks._ahead import wanted_columns

        wanted = wanted_columns(problem, rows, genuine)
        arrays = (problem.X, problem.lower, problem.upper)
        start, lower, upper = (torch.tensor(a[rows]) for a in arrays)
        batch = Batch(start, lower, upper, wanted)
        found = self._find(view, batch, lead)
        values, hit, passes = (t.detach().numpy() for t in found)
        return problem.settle(values, rows), hit, passes

    def _confirm(
        self, problem: Problem, found: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ask ``predict``, and take rows on along their change until it agrees."""
        found, start = found.copy(), problem.X[rows]
        tries = np.zeros(len(rows), dtype=np.int64)
        confirmed = np.zeros(len(rows), dtype=bool)
        delta = found - start
        for stretch in (1.0, *STRETCHES) if self._pulls_back() else (1.0,):
            open_ = np.flatnonzero(~confirmed)
            if not len(open_):
                break
            further = found[open_]
            if stretch > 1:
                further = start[open_] + stretch * delta[open_]
                further = problem.settle(further, rows[open_])
            confirmed[open_] = problem.is_fooled(further, rows[open_])
            tries[open_] += 1
            found[open_] = further
        return found, confirmed, tries

    def _pull_back(
        self, problem: Problem, found: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """Halve the way between what fools and what does not, a row each."""
        if not len(rows):
            return found
        start, best = problem.X[rows], found.copy()
        axes = (1,) * (start.ndim - 1)
        low, high = np.zeros(len(rows)), np.ones(len(rows))
        for _ in range(HALVINGS):
            part = (low + high) / 2
            tried = start + part.reshape(-1, *axes) * (found - start)
            tried = problem.settle(tried, rows)
            still = problem.is_fooled(tried, rows)
            best[still] = tried[still]
            high, low = np.where(still, part, high), np.where(still, low, part)
        return best
