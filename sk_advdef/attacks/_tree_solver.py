"""Whether trees can be fooled near a row: intervals first, then an integer program."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np

from sk_advdef.attacks._geometry import rounded
from sk_advdef.attacks._tree_program import Border, Program
from sk_advdef.attacks._trees import Ensemble, raw_thresholds

#: Scores this close, in units of the largest difference within a tree, may be equal.
_TIE = 1e-6
#: Part of a dependent feature's span kept from its thresholds, against rounding.
_CLEAR = 1e-6


class Verdict(NamedTuple):
    """What became of a row; neither fooled nor certified is unknown."""

    values: np.ndarray
    fooled: bool
    certified: bool
    n_queries: int


class Solver:
    """The trees of one model against the rows of one problem."""

    def __init__(
        self, problem: Any, ensemble: Ensemble, steps: list[Any], model: Any
    ) -> None:
        self.problem, self.ensemble = problem, ensemble
        self.rules = problem.rules
        self._set_limits()
        low, high = self.lower.min(axis=0), self.upper.max(axis=0)
        self._set_borders(
            raw_thresholds(ensemble, steps, model, problem.table, low, high)
        )
        starts = np.flatnonzero(np.diff(ensemble.tree_of, prepend=-1))
        self._first_leaf = starts

    def _set_limits(self) -> None:
        problem, X = self.problem, self.problem.X
        self.lower = problem.lower.astype(np.float64)
        self.upper = problem.upper.astype(np.float64)
        if self.rules is not None:
            for at, sources, weights in self.rules.relations:
                reach = np.maximum(
                    self.upper[:, sources] - X[:, sources],
                    X[:, sources] - self.lower[:, sources],
                ) @ np.abs(weights)
                self.lower[:, at] = np.maximum(self.lower[:, at], X[:, at] - reach)
                self.upper[:, at] = np.minimum(self.upper[:, at], X[:, at] + reach)
        # only what the dtype of the column holds can be given to the model
        for at in range(X.shape[1]):
            self.lower[:, at] = self._held(self.lower[:, at], at, up=True)
            self.upper[:, at] = self._held(self.upper[:, at], at, up=False)

    def _held(self, values: np.ndarray, at: int, *, up: bool) -> np.ndarray:
        """Round to what column ``at`` holds, up or down."""
        whole = self.problem.table.whole if self.rules is None else self.rules.whole
        if whole[at]:
            return np.ceil(values) if up else np.floor(values)
        kind = self.problem.table.kind(at)
        dtype = kind if kind.kind == "f" else np.dtype(np.float64)
        return rounded(values, dtype, up=up).astype(np.float64)

    def _next(self, values: np.ndarray, at: int) -> np.ndarray:
        """Return the value that column ``at`` holds right above each of ``values``."""
        whole = self.problem.table.whole if self.rules is None else self.rules.whole
        if whole[at]:
            return values + 1
        kind = self.problem.table.kind(at)
        dtype = kind if kind.kind == "f" else np.dtype(np.float64)
        return np.nextafter(values.astype(dtype), dtype.type(np.inf)).astype(np.float64)

    def _set_borders(self, raw: np.ndarray) -> None:
        feature = self.ensemble.test_feature
        below = raw.copy()
        finite = np.isfinite(raw)
        for at in np.unique(feature[finite]):
            mine = finite & (feature == at)
            below[mine] = self._held(raw[mine], int(at), up=False)
        pairs = np.stack([feature[finite], below[finite]], axis=1).reshape(-1, 2)
        if self.rules is not None:
            # a category is free to change even where no tree looks at it
            hot = np.flatnonzero(self.rules.is_hot)
            pairs = np.concatenate([pairs, np.stack([hot, np.zeros(len(hot))], axis=1)])
        pairs = np.unique(pairs, axis=0)
        above = pairs[:, 1].copy()
        for at in np.unique(pairs[:, 0]).astype(int):
            mine = pairs[:, 0] == at
            above[mine] = self._next(above[mine], at)
        self.border = Border(pairs[:, 0].astype(np.intp), pairs[:, 1], above)
        # of each test: its border, or one of the two that are decided for good
        n = len(pairs)
        at = np.full(len(raw), n)
        at[raw == -np.inf] = n + 1
        keys = {pair: i for i, pair in enumerate(map(tuple, pairs.tolist()))}
        at[finite] = [
            keys[pair]
            for pair in zip(
                feature[finite].tolist(), below[finite].tolist(), strict=True
            )
        ]
        code = np.append(2 * at[:, None] + [0, 1], 2 * n + 4)
        self.paths = code[self.ensemble.paths]
        self._n = n

    # --- one row

    def decide(self, row: int, time_limit: float) -> Verdict:
        """Find a change of the row that serves the attacker, or prove there is none."""
        return _Row(self, row, time_limit).decide()

    def scores(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the leaves a raw row reaches, a tree each, and the scores."""
        went = np.append(values[self.border.feature] > self.border.below, [False, True])
        leaves = np.flatnonzero(_open(self.paths, ~went, went))
        return leaves, self.ensemble.values[leaves].sum(axis=0) + self.ensemble.base


def _open(paths: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Tell which leaves are behind tests that may all turn out as they need."""
    ok = np.append(np.stack([left, right], axis=1).ravel(), True)
    return ok[paths].all(axis=1)


class _Row:
    """A row while it is being decided."""

    def __init__(self, solver: Solver, row: int, time_limit: float) -> None:
        self.solver, self.row = solver, row
        self.end = time.monotonic() + time_limit
        self.n_queries = 0
        self.x = solver.problem.X[row].astype(np.float64)
        self.low, self.high = solver.lower[row], solver.upper[row]
        border, f = solver.border, solver.border.feature
        left = self.low[f] <= border.below
        right = border.above <= self.high[f]
        self.free = left & right
        self.left = np.append(left, [True, False])
        self.right = np.append(right, [False, True])
        open_ = np.flatnonzero(_open(solver.paths, self.left, self.right))
        tree = solver.ensemble.tree_of[open_]
        starts = np.flatnonzero(np.diff(tree, prepend=-1))
        single = np.diff(np.append(starts, len(tree))) == 1
        self.base = solver.ensemble.base + solver.ensemble.values[
            open_[starts[single]]
        ].sum(axis=0)
        keep = ~np.isin(tree, tree[starts[single]])
        self.leaves = open_[keep]
        #: their trees, numbered from 0
        self.tree = np.cumsum(np.diff(tree[keep], prepend=-1) > 0) - 1
        #: combinations of leaves that predict was asked about in vain
        self.cuts: list[np.ndarray] = []
        self._programs: dict[float, Program] = {}

    def decide(self) -> Verdict:
        """Take the ways to win in turn, the likely one first."""
        ways = self._ways()
        rules = self.solver.rules
        if ways and rules is not None and rules.max_changed is not None:
            # the relaxed program says little where few may change: try them one by one
            found = self._greedy(rules.max_changed)
            if found is not None:
                return Verdict(found, True, False, self.n_queries)
        unknown = False
        for wanted, against in ways:
            verdict = self._reach(wanted, against)
            if verdict is None:
                unknown = True
            elif verdict is not False:
                return Verdict(verdict, True, False, self.n_queries)
        x = self.solver.problem.X[self.row]
        return Verdict(x, False, not unknown, self.n_queries)

    def _ways(self) -> list[tuple[int, list[int]]]:
        """Return pairs of a class and those it must beat, as far as intervals allow."""
        problem, n_classes = self.solver.problem, len(self.base)
        label = int(problem.columns[self.row])
        others = [c for c in range(n_classes) if c != label]
        ways = [(c, [label]) for c in others]
        if problem.targeted:
            ways = [(label, others)]
        bounds = [
            min(self._most(wanted, one) for one in against) for wanted, against in ways
        ]
        order = np.argsort(-np.array(bounds), kind="stable")
        return [ways[i] for i in order if bounds[i] >= 0]

    def _gain(self, wanted: int, other: int) -> tuple[np.ndarray, float, float]:
        """Lead of a class at each leaf, without any, and the least that is enough."""
        values = self.solver.ensemble.values
        gain = values[self.leaves, wanted] - values[self.leaves, other]
        base = float(self.base[wanted] - self.base[other])
        if self.solver.ensemble.votes:
            return gain, base, -0.5 if wanted < other else 0.5
        # a sum over many trees is rounded in more places than one
        return gain, base, -_TIE * max(1.0, float(np.abs(gain).max(initial=0)))

    def _most(self, wanted: int, other: int) -> float:
        """Most that the lead may exceed what is enough by, each tree for itself."""
        gain, base, enough = self._gain(wanted, other)
        best = np.full(self.tree.max(initial=-1) + 1, -np.inf)
        np.maximum.at(best, self.tree, gain)
        return base + best.sum() - enough

    def _reach(self, wanted: int, against: list[int]) -> Any:
        """Return a row that wins in this way, False if there is none, else None."""
        if not len(self.leaves):
            # a single combination of leaves: the one of the row itself
            return self._tried(self.x)
        found: Any = None
        # a dependent feature that lands right on a border may be on its other side:
        # look for one that is clear of it first, and only then for any
        for clear in (_CLEAR, 0.0) if self._follows() else (0.0,):
            program = self._program(clear)
            mark = program.rows.mark()
            wish = np.zeros(len(program.rows.integral))
            for other in against:
                gain, base, enough = self._gain(wanted, other)
                unit = max(1e-300, float(np.abs(gain).max()))
                program.rows.add(
                    0, program.leaf, gain / unit, low=(enough - base) / unit
                )
                wish[program.leaf] += gain / unit
            found = self._search(program, wish)
            program.rows.back(mark)
            if found is not False:
                break
        return found

    def _greedy(self, n_steps: int) -> np.ndarray | None:
        """Move the feature that helps most over a border, again and again."""
        problem, border = self.solver.problem, self.solver.border
        feature = np.repeat(border.feature[self.free], 2)
        aims = np.stack([border.below, border.above], axis=1)[self.free].ravel()
        # of a group, the member that is aimed at comes to lead
        aims = np.where(self.solver.rules.is_hot[feature], 3 * aims - 1, aims)
        if not len(aims):
            return None
        rows = np.full(len(aims), self.row)
        best, ahead = problem.X[self.row], -np.inf
        for _ in range(n_steps):
            if time.monotonic() > self.end:
                break
            tried = np.tile(best.astype(np.float64), (len(aims), 1))
            tried[np.arange(len(aims)), feature] = aims
            tried = problem.settle(tried, rows)
            margin = problem.margin(tried, rows)
            top = int(margin.argmax())
            self.n_queries += len(aims)
            if margin[top] >= 0 and problem.is_fooled(tried[[top]], rows[[top]])[0]:
                return tried[top]
            if margin[top] <= ahead:
                break
            best, ahead = tried[top], margin[top]
        return None

    def _follows(self) -> bool:
        rules = self.solver.rules
        return rules is not None and bool(rules.relations)

    def _search(self, program: Program, wish: np.ndarray) -> Any:
        """Solve, try what is found on ``predict``, rule out what fails, again."""
        for cut in self.cuts:
            self._rule_out(program, cut)
        while True:
            seconds = self.end - time.monotonic()
            if seconds <= 0:
                return None
            status, point = program.rows.solve(seconds, wish)
            if status == 2:
                return False
            if point is None:
                return None
            before = len(self.cuts)
            found = self._tried(program.row_at(point))
            if found is not False:
                return found
            if len(self.cuts) == before:
                return None  # rounding: it landed elsewhere, where all was tried
            self._rule_out(program, self.cuts[-1])

    def _rule_out(self, program: Program, leaves: np.ndarray) -> None:
        mine = program.leaf[np.isin(self.leaves, leaves)]
        program.rows.add(0, mine, 1.0, high=len(mine) - 1)

    def _tried(self, values: np.ndarray) -> Any:
        """Return the settled row if ``predict`` is fooled by it, else False.

        All rows in the same leaves get the same answer, so these are ruled out.
        """
        problem, at = self.solver.problem, np.array([self.row])
        settled = problem.settle(values[None].astype(problem.X.dtype), at)
        self.n_queries += 1
        if problem.is_fooled(settled, at)[0]:
            return settled[0]
        leaves, _ = self.solver.scores(settled[0].astype(np.float64))
        leaves = leaves[np.isin(leaves, self.leaves)]
        if not any(np.array_equal(leaves, cut) for cut in self.cuts):
            self.cuts.append(leaves)
        return False

    def _program(self, clear: float) -> Program:
        if clear not in self._programs:
            self._programs[clear] = Program(self, clear)
        return self._programs[clear]
