"""What attacks share that look for the smallest change instead of filling a ball."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import gen_batches

from sk_advdef._torch._registry import as_module
from sk_advdef._validation import check_number
from sk_advdef.attacks._base import Attack, Problem
from sk_advdef.attacks._geometry import lengths, relative

#: By how much the wrong class must lead in the view, one try after the other, for rows
#: that the view takes for fooled and ``predict`` does not.
LEADS = (0.0, 0.5, 2.0, 8.0)
#: Leads over the other classes alone, with which a detector is to be passed: rows that
#: are wrong for sure look genuine to many.
CONFIDENCES = (0.0, 1.0, 4.0, 12.0)
#: How far such a row is first taken on along its own change, and how far where rounding
#: takes back what falls short of a whole number or another category.
STRETCHES = (1.0001, 1.002, 1.01, 1.05, 1.2)
WIDE_STRETCHES = (*STRETCHES, 1.5, 2.0, 4.0)
#: Halvings of the part of a change that is known to be enough.
HALVINGS = 10


class Batch(NamedTuple):
    """Some rows, as tensors: where they start, their limits, the columns wanted."""

    x: Any
    lower: Any
    upper: Any
    wanted: Any


class _Found:
    """The shortest change of each row that fools ``predict``, and what it took."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        n = len(problem.X)
        self.values = problem.X.copy()
        self.length = np.full(n, np.inf)
        self.n_queries = np.ones(n, dtype=np.int64)

    @property
    def fooled(self) -> np.ndarray:
        """Which rows have a change that fools."""
        return np.isfinite(self.length)

    def keep(self, values: np.ndarray, rows: np.ndarray) -> None:
        """Keep changes that are shorter than what rows have."""
        delta = values.astype(np.float64) - self.problem.X[rows]
        length = lengths(delta, self.problem.norm)
        shorter = length < self.length[rows]
        self.values[rows[shorter]] = values[shorter]
        self.length[rows[shorter]] = length[shorter]


def _settled(problem: Problem, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Settle; of two categories alike, and of too many changes, the moved ones stay."""
    if problem.rules is None:
        return problem.settle(values, rows)
    moved = np.sign(values.astype(np.float64) - problem.X[rows])
    return problem.settle(values, rows, relative(moved, problem.rules.reach))


class _Chained:
    """A view of rows whose dependent features hold what does not depend on others."""

    def __init__(self, view: Any, matrix: Any) -> None:
        self.view, self.matrix = view, matrix

    def __call__(self, x: Any) -> Any:
        """Return the view's scores of the rows with their features in place."""
        return self.view(x + x @ self.matrix.to(x.dtype))


class MinimalAttack(Attack):
    """The smallest change that fools the estimator's own ``predict``.

    A subclass says in ``_find`` how the view is fooled. What it finds is then tried on
    ``predict``: taken a little further where that is not fooled yet, and, in norms that
    measure how far features move, back toward the row as far as it stays fooled.
    """

    batch_size: int
    space: Any
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
        from sk_advdef._torch._bpda import Through, looked_through
        from sk_advdef.attacks._ahead import view_of

        self._check(problem)
        check_number(self, "batch_size", self.batch_size, integer=True, low=1)
        search = _Found(problem)
        view, genuine = view_of(problem)
        plain, straight = Through(), Through(straight=True)
        for mode in (plain, straight):
            if mode is straight and not plain.flat:
                break
            left = rows[~search.fooled[rows]]
            with looked_through(view, mode):
                for lead in LEADS:
                    left = self._try(search, view, genuine, left, lead)
        if problem.detector is not None and not problem.reject:
            view = as_module(problem.model)
            for lead in CONFIDENCES:
                self._try(search, view, problem.genuine, rows, lead)
        return search.values[rows], search.fooled[rows], search.n_queries[rows]

    def _try(
        self,
        search: _Found,
        view: Any,
        genuine: np.ndarray,
        rows: np.ndarray,
        lead: Any,
    ) -> np.ndarray:
        """Search with one lead; return rows that fool the view and not ``predict``."""
        if not len(rows):
            return rows
        parts = [
            self._find_batch(search.problem, view, genuine, rows[batch], lead)
            for batch in gen_batches(len(rows), self.batch_size)
        ]
        found, hit, passes = map(np.concatenate, zip(*parts, strict=True))
        search.n_queries[rows] += passes
        rows, found = rows[hit], found[hit]
        found, confirmed, tries = self._confirm(search.problem, found, rows)
        search.n_queries[rows] += tries
        done, found = rows[confirmed], found[confirmed]
        if self._pulls_back():
            found = self._pull_back(search.problem, found, done)
            search.n_queries[done] += HALVINGS
        search.keep(found, done)
        return rows[~confirmed]

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
        arrays = [a[rows] for a in (problem.X, problem.lower, problem.upper)]
        if problem.rules is not None:
            matrix, arrays = problem.rules.unchained(*arrays)
            view = _Chained(view, torch.from_numpy(matrix))
        start, lower, upper = map(torch.tensor, arrays)
        batch = Batch(start, lower, upper, wanted)
        found = self._find(view, batch, lead)
        values, hit, passes = (t.detach().numpy() for t in found)
        return _settled(problem, values, rows), hit, passes

    def _confirm(
        self, problem: Problem, found: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ask ``predict``, and take rows on along their change until it agrees."""
        found, start = found.copy(), problem.X[rows]
        tries = np.zeros(len(rows), dtype=np.int64)
        confirmed = np.zeros(len(rows), dtype=bool)
        delta = found - start
        stretches: tuple[float, ...] = STRETCHES if self._pulls_back() else ()
        if problem.rules is not None or problem.table.whole.any():
            stretches = WIDE_STRETCHES
        for stretch in (1.0, *stretches):
            open_ = np.flatnonzero(~confirmed)
            if not len(open_):
                break
            further = found[open_]
            if stretch > 1:
                further = start[open_] + stretch * delta[open_]
                further = _settled(problem, further, rows[open_])
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
