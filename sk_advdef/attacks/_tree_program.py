"""The integer program of trees near a row."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

#: Gap at which the solver stops: at the first point that satisfies all rows.
_ANY = 1e9


class Rows:
    """A linear program that is written down row by row."""

    def __init__(self) -> None:
        self.integral: list[int] = []
        self.least: list[float] = []
        self.most: list[float] = []
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._low: list[np.ndarray] = []
        self._high: list[np.ndarray] = []
        self._n_rows = 0

    def variables(
        self, n: int, *, integral: bool = False, least: Any = 0.0, most: Any = 1.0
    ) -> np.ndarray:
        """Add variables; return their numbers."""
        at = np.arange(len(self.integral), len(self.integral) + n)
        self.integral += [int(integral)] * n
        self.least += np.broadcast_to(least, n).tolist()
        self.most += np.broadcast_to(most, n).tolist()
        return at

    def add(
        self, row: Any, column: Any, value: Any, low: Any = -np.inf, high: Any = np.inf
    ) -> None:
        """Add rows ``low <= sum of value * variable <= high``; row numbers from 0."""
        row, column, value = np.broadcast_arrays(row, column, value)
        n = int(row.max(initial=-1)) + 1
        self._parts.append((row + self._n_rows, column, value.astype(np.float64)))
        self._low.append(np.broadcast_to(np.asarray(low, dtype=np.float64), n))
        self._high.append(np.broadcast_to(np.asarray(high, dtype=np.float64), n))
        self._n_rows += n

    def mark(self) -> tuple[int, int]:
        """Remember the rows so far, to come back to."""
        return len(self._parts), self._n_rows

    def back(self, mark: tuple[int, int]) -> None:
        """Drop the rows added since."""
        for parts in (self._parts, self._low, self._high):
            del parts[mark[0] :]
        self._n_rows = mark[1]

    def solve(
        self, seconds: float, wish: np.ndarray | None = None
    ) -> tuple[int, np.ndarray | None]:
        """Return scipy's status (0 solved, 2 infeasible) and a point that satisfies.

        ``wish`` is what to look for much of, a number a variable; any point will do.
        """
        row, column, value = map(np.concatenate, zip(*self._parts, strict=True))
        n = len(self.integral)
        # scipy 1.13 hands positions to HiGHS as they are, which takes 32 bits
        where = row.astype(np.int32), column.astype(np.int32)
        matrix = coo_array((value, where), shape=(self._n_rows, n)).tocsr()
        rows = LinearConstraint(
            matrix, np.concatenate(self._low), np.concatenate(self._high)
        )
        found = milp(
            np.zeros(n) if wish is None else -wish,
            integrality=self.integral,
            bounds=Bounds(self.least, self.most),
            constraints=rows,
            options={"time_limit": seconds, "mip_rel_gap": _ANY},
        )
        return found.status, found.x


class Border(NamedTuple):
    """Values between which no test of the trees differs, sorted by feature."""

    feature: np.ndarray
    below: np.ndarray
    above: np.ndarray


class Program:
    """The integer program of a row (Kantchelian et al. 2016), without a class.

    A binary variable for each border says whether the row stays at or below it, a
    weight for each leaf that can be reached says whether its tree ends there.
    """

    def __init__(self, row: Any, clear: float) -> None:
        self.at, self.rows = row, Rows()
        solver = row.solver
        self.rules, border = solver.rules, solver.border
        paths = solver.paths[row.leaves]
        free = np.append(np.repeat(row.free, 2), [False] * 5)
        entry = free[paths]
        used = np.zeros(len(row.free), dtype=bool)
        used[np.unique(paths[entry] // 2)] = True
        if self.rules is not None:
            used |= row.free & self.rules.is_hot[border.feature]
        self.used = np.flatnonzero(used)
        self.stays = self.rows.variables(len(self.used), integral=True)
        self.leaf = self.rows.variables(len(row.leaves))
        self.feature = border.feature[self.used]
        self.below, self.above = border.below[self.used], border.above[self.used]
        number = np.full(len(row.free), -1)
        number[self.used] = self.stays
        self._add_trees(paths, entry, number)
        self._add_order()
        self._add_ball()
        self.moves: dict[int, int] = {}
        if self.rules is not None:
            self._add_categories(number)
            if self.rules.relations:
                self._add_relations(clear)
            if self.rules.max_changed is not None:
                self._add_few()

    def _add_trees(
        self, paths: np.ndarray, entry: np.ndarray, number: np.ndarray
    ) -> None:
        tree = self.at.tree
        self.rows.add(tree, self.leaf, 1.0, low=1, high=1)
        nodes = self.at.solver.ensemble.nodes[self.at.leaves]
        leaf, _ = np.nonzero(entry)
        # one row a node and side: its leaves weigh no more than the test allows
        side = 2 * nodes[entry] + paths[entry] % 2
        sides, first, row = np.unique(side, return_index=True, return_inverse=True)
        right = sides % 2
        test = number[paths[entry][first] // 2]
        rows = np.arange(len(sides))
        self.rows.add(
            np.concatenate([row.ravel(), rows]),
            np.concatenate([self.leaf[leaf], test]),
            np.concatenate([np.ones(len(leaf)), np.where(right, 1.0, -1.0)]),
            high=right.astype(float),
        )

    def _add_order(self) -> None:
        """Who stays below a border stays below the next."""
        pair = np.flatnonzero(self.feature[1:] == self.feature[:-1])
        rows = np.arange(len(pair))
        self.rows.add(
            np.concatenate([rows, rows]),
            np.concatenate([self.stays[pair], self.stays[pair + 1]]),
            np.repeat([1.0, -1.0], len(pair)),
            high=0,
        )

    def _add_ball(self) -> None:
        """Square lengths of the shortest ways over the borders, if that is the norm."""
        problem = self.at.solver.problem
        if problem.norm != "l2":
            return
        radius = problem.eps if self.rules is None else self.rules.radius
        radius = np.broadcast_to(radius, self.at.x.shape)[self.feature]
        x = self.at.x[self.feature]
        leftward = self.below < x
        way = np.where(leftward, x - self.below, self.above - x)
        square = (way / np.where(radius > 0, radius, 1)) ** 2
        same = self.feature[1:] == self.feature[:-1]
        more = square.copy()
        # the first border on either side is the nearest: the others add to it
        to_left = same & leftward[:-1] & leftward[1:]
        more[:-1][to_left] -= square[1:][to_left]
        to_right = same & ~leftward[:-1] & ~leftward[1:]
        more[1:][to_right] -= square[:-1][to_right]
        sign = np.where(leftward, 1.0, -1.0)
        room = 1 + 1e-9 - more[~leftward].sum()
        self.rows.add(0, self.stays, sign * more, high=room)

    def _add_categories(self, number: np.ndarray) -> None:
        border = self.at.solver.border
        self.off: dict[int, int] = {}
        for at in np.flatnonzero(self.at.free & self.rules.is_hot[border.feature]):
            self.off[int(border.feature[at])] = int(number[at])
        for group in self.rules.groups:
            mine = [self.off[c] for c in group.tolist() if c in self.off]
            if mine:
                fixed = sum(self.at.x[c] for c in group.tolist() if c not in self.off)
                total = len(mine) - 1 + fixed
                self.rows.add(0, mine, 1.0, low=total, high=total)

    def _add_relations(self, clear: float) -> None:
        """Add the changes of features in a relation, in units of their reach."""
        at, relations = self.at, self.rules.relations
        columns = sorted({int(c) for r in relations for c in (r[0], *r[1])})
        least = {c: at.low[c] - at.x[c] for c in columns}
        most = {c: at.high[c] - at.x[c] for c in columns}
        # what may not move has no reach, and is left in its own units
        self.span = {c: most[c] - least[c] or 1.0 for c in columns}
        for c in columns:
            span = self.span[c]
            (self.moves[c],) = self.rows.variables(
                1, least=least[c] / span, most=most[c] / span
            )
        for target, sources, weights in relations:
            scale = np.array([self.span[int(s)] for s in sources]) / self.span[target]
            self.rows.add(
                0,
                [self.moves[target], *(self.moves[int(s)] for s in sources)],
                [1.0, *(-weights * scale)],
                low=0,
                high=0,
            )
        for c in columns:
            mine, span = np.flatnonzero(self.feature == c), self.span[c]
            gap = clear if self.rules.follows[c] and not self.rules.whole[c] else 0.0
            rows = np.arange(len(mine))
            top = (self.below[mine] - at.x[c]) / span - gap
            bottom = (self.above[mine] - at.x[c]) / span + gap
            end, start = most[c] / span, least[c] / span
            row = np.concatenate([rows, rows])
            move = np.full(len(mine), self.moves[c])
            column, one = np.concatenate([move, self.stays[mine]]), np.ones(len(mine))
            self.rows.add(row, column, np.append(one, end - top), high=end)
            self.rows.add(row, column, np.append(one, bottom - start), low=bottom)

    def _add_few(self) -> None:
        """At most so many features leave the cell that they are in."""
        columns: list[int] = []
        signs: list[float] = []
        limit = float(self.rules.max_changed)
        for group in self.rules.groups:
            hot = int(group[self.at.x[group].argmax()])
            if hot in self.off:
                columns.append(self.off[hot])
                signs.append(1.0)
        for c in np.unique(self.feature):
            if self.rules.is_hot[c] or self.rules.follows[c] or int(c) in self.moves:
                continue
            mine = np.flatnonzero(self.feature == c)
            leftward = self.below[mine] < self.at.x[c]
            for near, sign in (
                (mine[leftward][-1:], 1.0),
                (mine[~leftward][:1], -1.0),
            ):
                columns += self.stays[near].tolist()
                signs += [sign] * len(near)
                limit -= len(near) if sign < 0 else 0
        for c, move in self.moves.items():
            if self.rules.is_hot[c] or self.rules.follows[c]:
                continue
            (moved,) = self.rows.variables(1, integral=True)
            self.rows.add(0, [move, moved], [1.0, -self.rows.most[move]], high=0)
            self.rows.add(0, [move, moved], [1.0, -self.rows.least[move]], low=0)
            columns.append(moved)
            signs.append(1.0)
        if columns:
            self.rows.add(0, columns, signs, high=limit)

    def row_at(self, point: np.ndarray) -> np.ndarray:
        """Return the raw row nearest to the original that a solution stands for."""
        stays = point[self.stays] > 0.5
        low, high = self.at.low.copy(), self.at.high.copy()
        np.minimum.at(high, self.feature[stays], self.below[stays])
        np.maximum.at(low, self.feature[~stays], self.above[~stays])
        wish = self.at.x.copy()
        for c, move in self.moves.items():
            wish[c] += point[move] * self.span[c]
            if self.rules.whole[c]:
                wish[c] = np.rint(wish[c])
        return np.clip(wish, low, np.maximum(low, high))
