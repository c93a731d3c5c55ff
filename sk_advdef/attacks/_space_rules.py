"""What a FeatureSpace means for the rows of one table: positions instead of names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from sk_advdef._validation import InvalidParameterError
from sk_advdef.attacks._geometry import lengths, limits, relative

#: Ever shorter changes that are tried where a projected row is outside the L2 ball.
_PULLS = 40
#: Part of what is left that a dependent feature's sources may use, against rounding.
_SHY = 1 - 1e-6


class Rules:
    """A space that has met a table.

    All arrays run over the numeric columns of the table. ``limits`` of a row come from
    eps, bounds and one-way features; ``reach`` is what an attack takes as eps: 0 where
    nothing moves by itself, 2 for members of one-hot groups, so that a full step always
    changes the category. ``costless`` marks what may change without length.
    """

    def __init__(
        self,
        space: Any,
        table: Any,
        *,
        eps: Any = None,
        box: tuple[np.ndarray, np.ndarray] | None = None,
        norm: str = "linf",
    ) -> None:
        self.table, self.X, self.norm = table, table.values, norm
        if self.X.ndim != 2:
            raise ValueError(
                f"A FeatureSpace describes rows of features. Got X of {self.X.ndim} "
                "axes: pass rows, and image_shape where the model needs it."
            )
        self._names = table.names
        self._at = {int(c): i for i, c in enumerate(table.numeric)}
        width = self.X.shape[1]
        self.max_changed = space.max_changed
        self.groups = [self._positions("one_hot", g) for g in space.one_hot]
        self.is_hot = np.zeros(width, dtype=bool)
        for group in self.groups:
            self.is_hot[group] = True
        self.whole = self._mask("integer", space.integer) | self.is_hot | table.whole
        self.frozen = self._mask("immutable", space.immutable)
        self.relations = self._relations(space.relations)
        self.eps = np.full(width, np.inf)
        if space.eps is not None:
            self.eps = self._per_feature("eps", space.eps, 0.0)
        elif eps is not None:
            self.eps = np.broadcast_to(eps, width).astype(np.float64)
        self.low, self.high = self._box(space, box)
        self._check()
        self._set_limits(space)

    # --- from names to positions

    def _column(self, parameter: str, name: Any) -> int | None:
        """Position among the numeric columns; None for a column that is frozen."""
        at: int | None = None
        if self._names is not None and name in self._names:
            at = self._names.index(name)
        elif isinstance(name, int) and -self.table.width <= name < self.table.width:
            at = name % self.table.width
        if at is None:
            way_out = (
                "Pass a DataFrame, or feature_names to the FeatureSpace."
                if self._names is None
                else f"Its columns are {list(self._names)}."
            )
            raise ValueError(
                f"{parameter} of FeatureSpace names {name!r}, which X does not have. "
                f"{way_out}"
            )
        return self._at.get(at)

    def _positions(self, parameter: str, names: Iterable[Any]) -> np.ndarray:
        found = [self._column(parameter, name) for name in names]
        if None in found:
            raise ValueError(
                f"{parameter} of FeatureSpace names columns of X that are not numeric, "
                f"among {list(names)}: these are kept as they are. Encode them first."
            )
        return np.array(found, dtype=np.intp)

    def _mask(self, parameter: str, names: Iterable[Any]) -> np.ndarray:
        mask = np.zeros(self.X.shape[1], dtype=bool)
        at = [self._column(parameter, name) for name in names]
        mask[[i for i in at if i is not None]] = True
        return mask

    def _per_feature(self, parameter: str, given: Any, otherwise: float) -> np.ndarray:
        if isinstance(given, Mapping):
            values = np.full(self.X.shape[1], otherwise)
            for name, value in given.items():
                values[self._positions(parameter, [name])] = value
            return values
        values = np.asarray(given, dtype=np.float64)
        if values.ndim and len(values) != self.table.width:
            raise InvalidParameterError(
                f"{parameter} of FeatureSpace has {len(values)} entries, and X has "
                f"{self.table.width} columns."
            )
        return np.broadcast_to(values, self.table.width)[self.table.numeric].copy()

    def _relations(self, given: Mapping[Any, Mapping[Any, float]]) -> list[Any]:
        found = []
        for name, parts in given.items():
            (at,) = self._positions("relations", [name])
            sources = self._positions("relations", parts)
            weights = np.array(list(parts.values()))
            exact = self.whole[sources].all() and (weights == np.rint(weights)).all()
            if self.whole[at] and not exact:
                raise ValueError(
                    f"The relation of {name!r} in FeatureSpace gives fractions, and "
                    f"{name!r} is an integer feature: use integer features and whole "
                    "coefficients, or make it a float feature."
                )
            found.append((int(at), sources, weights))
        taken = [at for at, _, _ in found]
        own = set(np.flatnonzero(self.is_hot | self.frozen))
        for at, sources, _ in found:
            if at in own or set(sources) & set(taken):
                raise ValueError(
                    "A dependent feature in relations of FeatureSpace must be free and "
                    "in no one-hot group, and its sources must not be dependent "
                    "themselves: write each in terms of features that move freely."
                )
        self.follows = np.zeros(self.X.shape[1], dtype=bool)
        self.follows[taken] = True
        return found

    def _box(self, space: Any, box: Any) -> tuple[np.ndarray, np.ndarray]:
        width = self.X.shape[1]
        low, high = np.full(width, -np.inf), np.full(width, np.inf)
        if isinstance(space.bounds, Mapping):
            for name, (least, most) in space.bounds.items():
                at = self._positions("bounds", [name])
                low[at], high[at] = least, most
        elif space.bounds is not None:
            low = self._per_feature("bounds", space.bounds[0], -np.inf)
            high = self._per_feature("bounds", space.bounds[1], np.inf)
        elif box is not None:
            low, high = (np.broadcast_to(b, width).copy() for b in box)
        low[self.is_hot], high[self.is_hot] = 0, 1
        return low, high

    # --- the rows themselves

    def _called(self, mask: np.ndarray) -> list[Any]:
        at = np.asarray(self.table.numeric)[mask]
        return [int(i) if self._names is None else self._names[i] for i in at]

    def _check(self) -> None:
        X = self.X
        outside = (self.low.astype(X.dtype) > X) | (self.high.astype(X.dtype) < X)
        outside = outside.any(axis=0) & ~self.is_hot
        if outside.any():
            raise ValueError(
                f"X has values outside the bounds of FeatureSpace in the columns "
                f"{self._called(outside)}. Pass bounds=... that hold what input can "
                "be, or read them from data with FeatureSpace.from_data."
            )
        broken = (np.rint(X) != X).any(axis=0) & self.whole & ~self.is_hot
        if broken.any():
            raise ValueError(
                f"X has fractions in the integer columns {self._called(broken)} of "
                "FeatureSpace. Take them out of integer=..., or round X."
            )
        for group in self.groups:
            part = X[:, group]
            if not (np.isin(part, (0, 1)).all() and (part.sum(axis=1) == 1).all()):
                mask = np.isin(np.arange(X.shape[1]), group)
                raise ValueError(
                    f"The one-hot group {self._called(mask)} of FeatureSpace must hold "
                    "a single 1 and zeros in each row of X. Encode without "
                    'drop="first", or take the group out of one_hot=....'
                )

    def _set_limits(self, space: Any) -> None:
        X = self.X
        eps = np.where(self.is_hot & (self.eps > 0), 1.0, self.eps)
        lower, upper = limits(X, eps, *self.table.held(self.low, self.high))
        stays_up = self._mask("increasing", space.increasing) | self.frozen
        stays_down = self._mask("decreasing", space.decreasing) | self.frozen
        lower = np.where(stays_up, X, lower)
        upper = np.where(stays_down, X, upper)
        self.lower = np.where(self.whole, np.ceil(lower), lower).astype(X.dtype)
        self.upper = np.where(self.whole, np.floor(upper), upper).astype(X.dtype)
        span = self.high - self.low
        reach = np.where(np.isfinite(self.eps), self.eps, span)
        reach = np.where(self.is_hot & (self.eps > 0), 2.0, reach)
        self.reach = np.where(self.frozen | self.follows, 0.0, reach)
        # what the ball measures: a change of category has no length
        self.radius = np.where(self.is_hot, np.inf, self.eps)
        self.costless = np.isinf(self.radius)
        for at, sources, _ in self.relations:
            if not self.costless[at]:
                # what a feature with a length follows is shortened with it
                self.costless[sources] = self.is_hot[sources]
        self._unit_of = np.arange(X.shape[1])
        for group in self.groups:
            self._unit_of[group] = group[0]

    # --- projection

    def settle(
        self, values: np.ndarray, rows: Any = slice(None), gain: Any = None
    ) -> np.ndarray:
        """Bring ``values`` into the space and, for ``norm="l2"``, into the ball."""
        found = self.project(values, rows, gain)
        if self.norm != "l2":
            return found
        start = self.X[rows].astype(np.float64)
        rows = np.arange(len(self.X))[rows]
        delta = np.clip(values, self.lower[rows], self.upper[rows]) - start
        length = self._length(np.where(self.follows, found - start, delta))
        for pull in range(_PULLS):
            over = np.flatnonzero(self._length(found - start) > 1)
            if not len(over):
                return found
            part = 0.85**pull / np.maximum(length[over], 1) * (1 - 1e-7)
            part = np.where(self.costless, 1.0, part[:, None])
            nearer = start[over] + part * delta[over]
            found[over] = self.project(
                nearer, rows[over], None if gain is None else gain[over]
            )
        left = self._length(found - start) > 1
        found[left] = self.X[rows[left]]
        return found

    def _length(self, delta: np.ndarray) -> np.ndarray:
        return lengths(relative(delta, self.radius), "l2")

    def project(
        self, values: np.ndarray, rows: Any = slice(None), gain: Any = None
    ) -> np.ndarray:
        """Return the rows of the space that ``values`` stand for.

        Where there is a choice (equal members of a one-hot group, more changes than are
        allowed) ``gain``, of the shape of ``values``, tells what a rise of each feature
        is worth; without it the larger change wins, and the category stays.
        """
        X, lower, upper = self.X[rows], self.lower[rows], self.upper[rows]
        found = np.clip(values, lower, upper).astype(X.dtype)
        found = np.where(self.whole, np.clip(np.rint(found), lower, upper), found)
        for group in self.groups:
            found[:, group] = _one_hot(
                values[:, group],
                X[:, group],
                can=upper[:, group] >= 1,
                held=(lower[:, group] >= 1).any(axis=1),
                gain=None if gain is None else gain[:, group],
            )
        found = np.where(self.follows, X, found)
        found = self.table.settle(found, rows)
        if self.max_changed is not None:
            found = self._keep_few(found, X, gain)
        if self.relations:
            found = self._follow(found, X, lower, upper, rows)
        return found

    def _keep_few(self, found: np.ndarray, X: np.ndarray, gain: Any) -> np.ndarray:
        over = np.flatnonzero(
            self.changes(found, X).astype(int).sum(axis=1) > self.max_changed
        )
        if not len(over):
            return found
        delta = found[over].astype(np.float64) - X[over]
        if gain is None:
            worth = np.abs(relative(delta, np.where(self.is_hot, 1.0, self.reach)))
        else:
            worth = np.nan_to_num(gain[over]) * delta
        summed = worth.copy()
        for group in self.groups:
            part = worth[:, group]
            summed[:, group[0]] = part.max(axis=1) if gain is None else part.sum(axis=1)
        changed = self.changes(found[over], X[over])
        order = np.argsort(np.where(changed, -summed, np.inf), axis=1, kind="stable")
        keep = np.zeros(changed.shape, dtype=bool)
        np.put_along_axis(keep, order[:, : self.max_changed], True, axis=1)
        found[over] = np.where(keep[:, self._unit_of], found[over], X[over])
        return found

    def changes(self, found: np.ndarray, X: np.ndarray) -> np.ndarray:
        """Mark what counts as changed: a group once, at its first member."""
        changed = (found != X) & ~self.follows
        for group in self.groups:
            first = changed[:, group].any(axis=1)
            changed[:, group] = False
            changed[:, group[0]] = first
        return changed

    def _follow(
        self,
        found: np.ndarray,
        X: np.ndarray,
        lower: np.ndarray,
        upper: np.ndarray,
        rows: Any,
    ) -> np.ndarray:
        """Set dependent features; where one leaves its limits, change sources less."""
        exact = X.astype(np.float64)
        for attempt in range(5 + len(self.relations)):
            fine = True
            for at, sources, weights in self.relations:
                total = np.zeros(len(X))
                for source, weight in zip(sources, weights, strict=True):
                    total += weight * (found[:, source] - exact[:, source])
                values = self.table.cast(exact[:, at] + total, at)
                over = (values < lower[:, at]) | (values > upper[:, at])
                found[:, at] = np.where(over, X[:, at], values)
                if not over.any():
                    continue
                fine = False
                part = np.zeros(len(X))
                if attempt < 4:
                    end = np.where(total > 0, upper[:, at], lower[:, at]) - exact[:, at]
                    part = np.divide(end, total, out=part, where=over) * _SHY
                part = np.where(over, np.clip(part, 0, 1), 1)[:, None]
                where = np.isin(self._unit_of, self._unit_of[sources])
                less = exact + part * (found - exact)
                less = np.where(self.whole, exact + np.trunc(less - exact), less)
                if attempt < 4:
                    where &= ~self.is_hot
                else:
                    less = exact
                found = np.where(where & over[:, None], less, found).astype(X.dtype)
                found = self.table.settle(found, rows)
            if fine:
                break
        return found

    def unchained(
        self, X: np.ndarray, lower: np.ndarray, upper: np.ndarray
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return a matrix, and rows and limits in which nothing depends on others.

        A dependent feature holds its value less what its sources give it, and stays;
        ``rows + rows @ matrix`` puts it back.
        """
        matrix = np.zeros((X.shape[1],) * 2)
        for at, sources, weights in self.relations:
            matrix[sources, at] += weights
        part = X - X.astype(np.float64) @ matrix
        return matrix, [
            np.where(self.follows, part, a).astype(X.dtype) for a in (X, lower, upper)
        ]

    def pull(self, grad: Any) -> Any:
        """Give the gradient of dependent features to what they depend on, in place."""
        for at, sources, weights in self.relations:
            for source, weight in zip(sources, weights, strict=True):
                grad[:, source] += weight * grad[:, at]
            grad[:, at] = 0
        return grad


def _one_hot(
    values: np.ndarray, X: np.ndarray, *, can: np.ndarray, held: np.ndarray, gain: Any
) -> np.ndarray:
    hot = X.argmax(axis=1)
    score = np.where(can, values, -np.inf)
    tied = score == score.max(axis=1, keepdims=True)
    if gain is None:
        second = np.arange(X.shape[1]) == hot[:, None]
    else:
        second = np.nan_to_num(gain)
    choice = np.where(tied, second, -np.inf).argmax(axis=1)
    choice = np.where(held, hot, choice)
    return (np.arange(X.shape[1]) == choice[:, None]).astype(X.dtype)
