"""HopSkipJump: the attacker who sees labels only."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import gen_batches

from sk_advdef._validation import check_number, check_option, seed_from
from sk_advdef.attacks._base import Attack, Problem
from sk_advdef.attacks._free import without_ball
from sk_advdef.attacks._geometry import lengths

#: Where a row may find its first change.
STARTS = ("rows", "noise")

#: Values that go through the model at a time, to bound memory.
BLOCK = 2**21

#: Length of the probes, in parts of the distance over the root of the width. Wider than
#: in the paper: a forest's boundary is made of steps that short probes do not see over.
PROBE = 2.0

#: Times that a step is halved before the row stays where it is.
HALVINGS = 12

#: A gradient from fewer answers than this is not worth following.
FEWEST_PROBES = 10


#: By how much probes are made longer or shorter at most.
ZOOM = 4.0**15


class HopSkipJump(Attack):
    """The smallest change by labels alone, for any classifier.

    A row starts at some change that fools the model and is moved along the boundary:
    the boundary's direction is estimated from answers around it (hop), followed by a
    step (skip), and halvings lead back to the boundary (jump). The smallest change met
    is kept. Nothing but ``predict`` is asked, so that neither hidden scores nor missing
    gradients stand in its way.

    Parameters
    ----------
    max_queries : int, default=5000
        Number of queries a row after the first, which asks what the row itself is
        taken for; at least 1.
    norm : {"l2", "linf"}, default="l2"
        Norm of the change that is made small.
    bounds : tuple (low, high) or None, default=(0.0, 1.0)
        Box that results stay in: two numbers, or arrays with a value a feature; None
        for no box.
    eps : float, array of floats that fits one sample, or None, default=None
        Radius of a ball to get into, in [0, inf), in units of ``X``. A row stops once
        it is inside, and counts as fooled only there. An array gives each feature a
        radius of its own. None looks for the smallest change that the queries allow.
    gamma : float, default=1.0
        How coarsely the boundary is located, in (0, inf): halvings end at ``gamma`` /
        d^1.5 of the distance, for "linf" at ``gamma`` / d^2, d the number of features.
    init_queries : int, default=100
        Queries for the first direction, at least 1; the t-th takes sqrt(t) times as
        many.
    start_queries : int, default=100
        Most queries spent on random values before a row is given up, at least 1.
    start : {"rows", "noise"}, default="rows"
        "rows" starts at the nearest of the given rows that the model answers as wanted,
        and at noise where there is none. "noise" starts at noise alone; what a row
        becomes then depends on no other row.
    random_state : int, RandomState instance or None, default=None
        Seeds noise and probes.
    targeted : bool, default=False
        Whether ``y`` names the classes to reach instead of those to leave.
    goal : {"fool", "reject"}, default="fool"
        "fool" is a wrong answer that is accepted; "reject" is a genuine row that is
        taken for adversarial or rejected (an attack on availability).
    space : FeatureSpace or None, default=None
        What each feature may do; None lets all move.

    See Also
    --------
    RandomSearch : For models that give scores; needs fewer queries.
    Transfer : Asks for labels to train a model to attack.

    Notes
    -----
    A row for which no start is found stays as it is. Beside the paper: directions of
    rows whose probes are all answered alike are not followed, and the probes' length is
    changed for them; a step never starts from worse than the best change known; probes
    are longer; and the start may be another row.

    References
    ----------
    .. [1] J. Chen, M. I. Jordan, M. J. Wainwright, "HopSkipJumpAttack: A
       Query-Efficient Decision-Based Attack", IEEE S&P 2020, arXiv:1904.02144.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sk_advdef import HopSkipJump
    >>> X, y = load_iris(return_X_y=True)
    >>> model = KNeighborsClassifier().fit(X, y)
    >>> attack = HopSkipJump(max_queries=500, bounds=None, random_state=0)
    >>> result = attack.run(model, X[::10], y[::10])
    >>> result.fooled.all()
    np.True_
    >>> bool(result.distortion.max() < 3)
    True
    """

    _eps_optional = True
    _knows = "labels"

    def __init__(
        self,
        *,
        max_queries: int = 5000,
        norm: str = "l2",
        bounds: Any = (0.0, 1.0),
        eps: Any = None,
        gamma: float = 1.0,
        init_queries: int = 100,
        start_queries: int = 100,
        start: str = "rows",
        random_state: Any = None,
        targeted: bool = False,
        goal: str = "fool",
        space: Any = None,
    ) -> None:
        self.max_queries = max_queries
        self.norm = norm
        self.bounds = bounds
        self.eps = eps
        self.gamma = gamma
        self.init_queries = init_queries
        self.start_queries = start_queries
        self.start = start
        self.random_state = random_state
        self.targeted = targeted
        self.goal = goal
        self.space = space

    def _search(
        self, problem: Problem, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        budget, first, tries = (
            check_number(self, name, getattr(self, name), integer=True, low=1)
            for name in ("max_queries", "init_queries", "start_queries")
        )
        gamma = check_number(self, "gamma", self.gamma, low=0, closed="neither")
        start = check_option(self, "start", self.start, STARTS)
        walk = _Walk(problem, rows, budget, seed_from(self.random_state))
        if walk.free.any():
            if start == "rows":
                walk.start_at_rows()
            walk.start_at_noise(tries)
        walk.to_boundary(walk.left(), gamma)
        step = 1
        while len(left := walk.left()):
            walk.hop(left, step, round(first * math.sqrt(step)), gamma)
            step += 1
        # into the ball, and asked again where that changes what was found
        values = problem.settle(walk.best, rows)
        fooled = np.isfinite(walk.distance)
        again = np.flatnonzero((values != walk.best).reshape(len(rows), -1).any(axis=1))
        if len(again):
            fooled[again] = problem.is_fooled(values[again], rows[again])
            walk.spent[again] += 1
        return values, fooled, walk.spent


class _Walk:
    """Rows on their way along the boundary, all of them a phase at a time.

    Changes are flat and in units of ``eps`` where that is an array, so that an
    ellipsoid becomes a ball. Each row draws from a generator of its own.
    """

    def __init__(
        self, problem: Problem, rows: np.ndarray, budget: int, seed: int
    ) -> None:
        self.problem = without_ball(problem)
        self.rows, self.budget, self.norm = rows, budget, problem.norm
        n, self.shape = len(rows), problem.X.shape[1:]
        self.X = problem.X[rows].reshape(n, -1).astype(np.float64)
        eps = problem.eps if problem.rules is None else problem.rules.eps
        #: the problem whose ball is to be reached, None where there is no ball
        self.ball = problem if np.isfinite(eps).any() else None
        #: what a length counts: all, but for what has no length in the ball
        self.counted = np.ones(self.shape, dtype=bool).reshape(-1)
        if problem.rules is not None and self.ball is not None:
            self.counted = ~problem.rules.costless
            eps = np.where(self.counted, eps, problem.rules.reach)
        usable = (eps > 0) & np.isfinite(eps) & (eps.ndim > 0)
        unit = np.where(usable, eps, 1.0)
        self.unit = np.broadcast_to(unit, self.shape).reshape(-1)
        self.in_units = bool((self.unit != 1).any())
        #: which features may move
        free = (problem.lower < problem.upper) & (
            self.problem.lower < self.problem.upper
        )
        self.free = free[rows].reshape(n, -1)
        self.scale = self.free * self.unit
        self.width = np.maximum(self.free.sum(axis=1), 1).astype(np.float64)
        self.rngs = [np.random.default_rng([seed, row]) for row in rows]
        self.spent = np.ones(n, dtype=np.int64)
        #: where each row stands, and the nearest it has been; asked and adversarial
        self.now = problem.X[rows]
        self.length = np.full(n, np.inf)
        self.best = self.now.copy()
        self.distance = np.full(n, np.inf)
        #: factor on the length of probes
        self.zoom = np.ones(n)
        #: near enough, or without queries for another step
        self.done = np.zeros(n, dtype=bool)

    def wants(self, at: Any = slice(None)) -> np.ndarray:
        """Whether rows may ask and go on."""
        return (self.spent[at] <= self.budget) & ~self.done[at]

    def left(self) -> np.ndarray:
        """Rows that have a start and go on."""
        return np.flatnonzero(np.isfinite(self.distance) & self.wants())

    def change(self, values: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Return how far ``values`` are from the rows."""
        delta = values.reshape(len(at), self.X.shape[1]) - self.X[at]
        if self.in_units:
            delta /= self.unit
        return delta

    def reach(self, change: np.ndarray) -> np.ndarray:
        """Return the length of changes, as the ball counts it."""
        return lengths(change * self.counted, self.norm)

    def place(self, change: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Return the values at ``change``, as the model may be given them."""
        values = change * self.scale[at]
        values += self.X[at]
        return self.problem.settle(values.reshape(-1, *self.shape), self.rows[at])

    def ask(self, values: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Ask as often as rows still may; answer no beyond. Keep the nearest.

        What belongs to one row stands together in ``at``.
        """
        fooled = np.zeros(len(at), dtype=bool)
        _, first, row = np.unique(at, return_index=True, return_inverse=True)
        before = np.arange(len(at)) - first[row] if len(at) else first
        may = np.flatnonzero(self.wants(at) & (self.spent[at] + before <= self.budget))
        if len(may):
            fooled[may] = self.problem.is_fooled(values[may], self.rows[at[may]])
            np.add.at(self.spent, at[may], 1)
        if fooled.any():
            hit, owner = values[fooled], at[fooled]
            distance = self.reach(self.change(hit, owner))
            nearest = np.lexsort((distance, owner))
            nearest = nearest[np.unique(owner[nearest], return_index=True)[1]]
            better = nearest[distance[nearest] < self.distance[owner[nearest]]]
            self.keep(hit[better], owner[better], distance[better])
        return fooled

    def keep(self, values: np.ndarray, at: np.ndarray, distance: np.ndarray) -> None:
        """Remember the best, and stop where it is in the ball."""
        self.best[at], self.distance[at] = values, distance
        if self.ball is not None and len(at):
            same = self.ball.settle(values, self.rows[at]) == values
            self.done[at] = same.reshape(len(at), -1).all(axis=1)

    def stand_at(self, values: np.ndarray, at: np.ndarray) -> None:
        """Go there."""
        if len(at):
            self.now[at] = values
            self.length[at] = self.reach(self.change(values, at))

    def start_at_rows(self) -> None:
        """Start at the nearest row that the model answers as wanted."""
        problem = self.problem
        answers = problem.predict(problem.X)  # asked by each row before
        genuine = np.isin(answers, problem.genuine_classes)
        flat = problem.X.reshape(len(problem.X), -1) / self.unit * self.counted
        metric = "chebyshev" if self.norm == "linf" else "euclidean"
        labels = problem.y[self.rows]
        for label in np.unique(labels):
            if problem.reject:
                wanted = ~genuine
            elif problem.targeted:
                wanted = answers == label
            else:
                wanted = genuine & (answers != label)
            at = np.flatnonzero(labels == label)
            pool = np.flatnonzero(wanted)
            if len(pool):
                search = NearestNeighbors(n_neighbors=1, metric=metric).fit(flat[pool])
                found = search.kneighbors(flat[self.rows[at]], return_distance=False)
                aims = problem.X[pool[found[:, 0]]]
                # frozen features stay, so the answer may be another one
                self.ask(self.place(self.change(aims, at), at), at)
        found = np.flatnonzero(np.isfinite(self.distance))
        self.stand_at(self.best[found], found)

    def start_at_noise(self, tries: int) -> None:
        """Start at random values, more at a time while none fools."""
        begun, done = np.isfinite(self.distance), 0
        while done < tries:
            at = np.flatnonzero(~np.isfinite(self.distance) & self.wants())
            if not len(at):
                break
            count = min(max(1, done), tries - done)
            size = max(1, BLOCK // (self.X.shape[1] * count))
            for part in gen_batches(len(at), size):
                owner = np.repeat(at[part], count)
                noise = self.noise(at[part], count, (done + 1) / tries)
                noise = noise.reshape(-1, *self.shape)
                self.ask(self.place(self.change(noise, owner), owner), owner)
            done += count
        found = np.flatnonzero(np.isfinite(self.distance) & ~begun)
        self.stand_at(self.best[found], found)

    def noise(self, at: np.ndarray, count: int, part: float) -> np.ndarray:
        """Draw uniformly from the box; where there is none, wider with each try."""
        drawn = np.stack([self.rngs[i].random((count, self.X.shape[1])) for i in at])
        lower, upper = (
            ends[self.rows[at]].reshape(len(at), 1, -1).astype(np.float64)
            for ends in (self.problem.lower, self.problem.upper)
        )
        X = self.X[at][:, None]
        size = np.abs(X).mean(axis=2, keepdims=True)
        reach = np.where(size > 0, size, 1) * 10 ** (4 * part - 1)
        lower = np.where(np.isfinite(lower), lower, X - reach)
        upper = np.where(np.isfinite(upper), upper, X + reach)
        return lower + drawn * (upper - lower)

    def to_boundary(self, at: np.ndarray, gamma: float) -> None:
        """Halve the way back to the row until it is known where it crosses over."""
        linf = self.norm == "linf"
        change = self.change(self.now[at], at)
        high = self.length[at].copy() if linf else np.ones(len(at))
        low = np.zeros(len(at))
        steps = self.halvings(at, gamma)
        for step in range(int(steps.max(initial=0))):
            on = np.flatnonzero((step < steps) & self.wants(at))
            middle = (low[on] + high[on]) / 2
            part = middle[:, None]
            tried = np.clip(change[on], -part, part) if linf else change[on] * part
            tried = np.where(self.counted, tried, change[on])
            values = self.place(tried, at[on])
            hit = self.ask(values, at[on])
            high[on[hit]], low[on[~hit]] = middle[hit], middle[~hit]
            self.now[at[on[hit]]] = values[hit]
        self.stand_at(self.now[at], at)

    def halvings(self, at: np.ndarray, gamma: float) -> np.ndarray:
        """Return how often the way back is halved."""
        theta = gamma / self.width[at] ** (2 if self.norm == "linf" else 1.5)
        return np.ceil(np.log2(np.maximum(1 / theta, 2))).astype(np.int64)

    def hop(self, at: np.ndarray, step: int, count: int, gamma: float) -> None:
        """Estimate the boundary's direction, step along it, and go back to it."""
        worse = at[self.length[at] > self.distance[at]]
        self.stand_at(self.best[worse], worse)
        # what is left for probes when step and way back are paid
        room = self.budget + 1 - self.spent[at] - self.halvings(at, gamma) - 2
        self.done[at] = room < min(FEWEST_PROBES, count)
        at, room = at[~self.done[at]], room[~self.done[at]]
        if not len(at):
            return
        direction, balance = self.direction(at, np.minimum(room, count))
        # all still wrong: the probes are too short to see over; all right: too long
        self.zoom[at] *= np.where(balance == 1, 4.0, np.where(balance == -1, 0.25, 1.0))
        self.zoom = np.clip(self.zoom, 1 / ZOOM, ZOOM)
        seen = np.abs(balance) < 1
        at, direction = at[seen], direction[seen]
        if self.norm == "linf":
            direction = np.sign(direction)
        change = self.change(self.now[at], at)
        size = self.length[at] / math.sqrt(step)
        moved = np.zeros(len(at), dtype=bool)
        for _ in range(HALVINGS):
            on = np.flatnonzero(~moved & self.wants(at))
            if not len(on):
                break
            tried = change[on] + size[on, None] * direction[on]
            values = self.place(tried, at[on])
            hit = self.ask(values, at[on])
            self.now[at[on[hit]]] = values[hit]
            moved[on[hit]] = True
            size[on] /= 2
        at = at[moved]
        self.stand_at(self.now[at], at)
        self.to_boundary(at, gamma)

    def direction(
        self, at: np.ndarray, counts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Estimate the normal of the boundary (eq. 12 of the paper), and its balance.

        The balance is the mean answer, 1 for wrong and -1 for right.
        """
        width = self.X.shape[1]
        total, balance = np.zeros((len(at), width)), np.zeros(len(at))
        most = int(counts.max(initial=1))
        for part in gen_batches(len(at), max(1, BLOCK // (width * most))):
            here, number = at[part], counts[part]
            now = self.change(self.now[here], here)
            weighted, plain = np.zeros_like(now), np.zeros_like(now)
            answers = np.zeros(len(here))
            chunk = max(1, BLOCK // (width * len(here)))
            for first in range(0, most, chunk):
                size = min(chunk, most - first)
                asked = np.arange(first, first + size) < number[:, None]
                probes = now[:, None] + self.probes(here, size)
                owner = np.broadcast_to(here[:, None], asked.shape)[asked]
                values = self.place(probes[asked], owner)
                side = np.zeros(asked.shape)
                side[asked] = np.where(self.ask(values, owner), 1.0, -1.0)
                # what the box and the dtype left of each probe
                probes[asked] = self.change(values, owner)
                probes -= now[:, None]
                probes[~asked] = 0
                weighted += np.einsum("rk,rkd->rd", side, probes)
                plain += probes.sum(axis=1)
                answers += side.sum(axis=1)
            balance[part] = answers / number
            total[part] = weighted - balance[part][:, None] * plain
        size = lengths(total, "l2")[:, None]
        return total / np.maximum(size, np.finfo(np.float64).tiny), balance

    def probes(self, at: np.ndarray, count: int) -> np.ndarray:
        """Draw changes of one length, in any direction that is free."""
        drawn = np.empty((len(at), count, self.X.shape[1]))
        for mine, i in zip(drawn, at, strict=True):
            if self.norm == "linf":
                self.rngs[i].random(out=mine)
            else:
                self.rngs[i].standard_normal(out=mine)
        if self.norm == "linf":
            drawn -= 0.5
        if not self.free[at].all():
            drawn *= self.free[at][:, None]
        size = PROBE * self.zoom[at] * self.length[at] / np.sqrt(self.width[at])
        length = np.sqrt(np.einsum("rkd,rkd->rk", drawn, drawn))
        drawn *= (size[:, None] / np.maximum(length, 1e-300))[..., None]
        return drawn
