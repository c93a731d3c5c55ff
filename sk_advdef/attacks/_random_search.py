"""Random search on scores: the attacker who has no gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from sk_advdef._images import ImageLayout, resolve_layout
from sk_advdef._torch._models import has_scores
from sk_advdef._torch._registry import has_view
from sk_advdef._validation import check_number, check_option, seed_from
from sk_advdef.attacks._base import Attack, Problem
from sk_advdef.attacks._geometry import relative

#: Parts of the budget after which the changed share of features is halved.
_HALVINGS = np.array([0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8])
#: How many features a change inside the ball takes, and the part of the budget that
#: goes to corners before such changes begin.
_FEW, _CORNERS_FIRST = np.array([1, 1, 2, 2, 3, 4, 6, 8]), 0.05


class RandomSearch(Attack):
    """Random search on the scores of any classifier.

    Each query changes a shrinking random part of a row and keeps the change if the
    score of the attacker rises or stays. Images are changed in square windows (the
    Square attack [1]_), rows in random sets of features. Nothing but
    ``decision_function`` or ``predict_proba`` is asked for (of a skorch net the logits,
    which do not round to 0 as its probabilities do), so it sees through every hidden or
    missing gradient and works on trees.

    Parameters
    ----------
    eps : float, array of floats that fits one sample, or None
        Radius of the ball, in [0, inf), in units of ``X``. An array gives each feature
        a radius of its own; for ``norm="l2"`` the ball is then an ellipsoid.
    max_queries : int, default=1000
        Scores asked for a row, at least 1. ``predict`` is asked besides: at first, at
        the end, and after each step that draws level; ``n_queries`` counts both.
    norm : {"linf", "l2"}, default="linf"
        Norm of the ball.
    bounds : tuple (low, high) or None, default=(0.0, 1.0)
        Box that results stay in: two numbers, or arrays with a value a feature; None
        for no box.
    random_state : int, RandomState instance or None, default=None
        Seeds the search.
    targeted : bool, default=False
        Whether ``y`` names the classes to reach instead of those to leave.
    p_init : float, default=0.8
        Share of a row that the first queries change, in (0, 1].
    image_shape : "square", tuple of int or None, default=None
        Shape of the image in a row. None takes rows as features without order; stacked
        images are searched as images.
    channel_axis : int, default=-1
        Axis of the channels within one image of three axes.
    goal : {"fool", "reject"}, default="fool"
        "fool" is a wrong answer that is accepted; "reject" is a genuine row that is
        taken for adversarial or rejected (an attack on availability).
    space : FeatureSpace or None, default=None
        What may be changed in tabular data. Either it or ``eps`` says how far features
        move: ``eps=None`` is for a space that does. Where it brings bounds, they take
        the place of ``bounds``.
    interior : bool or None, default=None
        Whether to try values inside the ball too, a few features at a time, and not its
        corners alone. A smooth model falls at the corners; a tree asks whether a
        feature lies between two thresholds. None does so where the estimator has no
        differentiable view. For rows and ``norm="linf"`` only.

    See Also
    --------
    PGD : An attack along the gradient.

    References
    ----------
    .. [1] M. Andriushchenko, F. Croce, N. Flammarion, M. Hein, "Square Attack: a
       query-efficient black-box adversarial attack via random search", ECCV 2020,
       arXiv:1912.00049.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from sk_advdef import RandomSearch
    >>> X, y = load_iris(return_X_y=True)
    >>> model = RandomForestClassifier(n_estimators=10, random_state=0).fit(X, y)
    >>> attack = RandomSearch(eps=0.5, max_queries=100, bounds=None, random_state=0)
    >>> X_adv = attack.perturb(model, X, y)
    >>> model.score(X, y) > model.score(X_adv, y)
    True
    """

    _knows = "scores"

    def __init__(
        self,
        eps: Any,
        *,
        max_queries: int = 1000,
        norm: str = "linf",
        bounds: Any = (0.0, 1.0),
        random_state: Any = None,
        targeted: bool = False,
        p_init: float = 0.8,
        image_shape: Any = None,
        channel_axis: int = -1,
        goal: str = "fool",
        space: Any = None,
        interior: bool | None = None,
    ) -> None:
        self.eps = eps
        self.max_queries = max_queries
        self.norm = norm
        self.bounds = bounds
        self.random_state = random_state
        self.targeted = targeted
        self.p_init = p_init
        self.image_shape = image_shape
        self.channel_axis = channel_axis
        self.goal = goal
        self.space = space
        self.interior = interior

    def _search(
        self, problem: Problem, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        budget = check_number(
            self, "max_queries", self.max_queries, integer=True, low=1
        )
        check_number(self, "p_init", self.p_init, low=0, high=1, closed="right")
        if not has_scores(problem.model):
            raise TypeError(
                f"RandomSearch asks for scores, and {problem.estimator!r} has neither "
                "decision_function nor predict_proba."
            )
        interior = check_option(self, "interior", self.interior, (True, False, None))
        if interior is None:
            interior = not has_view(problem.model)
        proposals = _Proposals(
            problem.X.shape,
            self._layout(problem),
            self.norm,
            self.p_init,
            seed_from(self.random_state),
            interior=interior,
            costless=None if problem.rules is None else problem.rules.costless,
        )
        unit = proposals.start()
        values = problem.X.copy()
        margin = np.full(len(values), -np.inf)
        fooled = np.zeros(len(values), dtype=bool)
        n_queries = np.ones(len(values), dtype=np.int64)
        left = rows
        for query in range(budget):
            tried = (
                unit[left]
                if query == 0
                else proposals.change(unit, left, query, query / budget)
            )
            found = self._found(problem, proposals, left, tried, query)
            gained = problem.margin(found, left)
            n_queries[left] += 1
            better = gained >= margin[left] if query else np.full(len(left), True)
            kept = left[better]
            unit[kept], values[kept] = tried[better], found[better]
            if problem.rules is not None:
                # go on from what the space made of the change
                delta = found[better].astype(np.float64) - problem.X[kept]
                unit[kept] = relative(delta, problem.eps)
            margin[kept] = gained[better]
            # at 0 it depends on how predict breaks ties, common among trees
            ahead = kept[margin[kept] >= 0]
            if len(ahead):
                fooled[ahead] = problem.is_fooled(values[ahead], ahead)
                n_queries[ahead] += 1
                left = left[~fooled[left]]
                if not len(left):
                    return values[rows], fooled[rows], n_queries[rows]
        # predict may put its threshold elsewhere than where scores are equal
        fooled[left] = problem.is_fooled(values[left], left)
        n_queries[left] += 1
        return values[rows], fooled[rows], n_queries[rows]

    @staticmethod
    def _found(
        problem: Problem,
        proposals: _Proposals,
        rows: np.ndarray,
        tried: np.ndarray,
        query: int,
    ) -> np.ndarray:
        if problem.rules is None:
            return problem.settle(problem.X[rows] + problem.eps * tried, rows)
        # a category changes or not, however short the step of the others
        tried = np.where(problem.rules.is_hot, np.sign(tried), tried)
        worth = proposals.worth(rows, query)
        return problem.settle(problem.X[rows] + problem.eps * tried, rows, worth)

    def _layout(self, problem: Problem) -> ImageLayout | None:
        if problem.X.ndim == 2 and self.image_shape is None:
            return None
        layout = resolve_layout(
            self, problem.X.shape, self.image_shape, self.channel_axis
        )
        return None if len(layout.shape) == 1 else layout


class _Proposals:
    """Random changes, in units of eps; what a row gets depends on its position only."""

    def __init__(
        self,
        shape: tuple[int, ...],
        layout: ImageLayout | None,
        norm: str,
        p_init: float,
        seed: int,
        *,
        interior: bool,
        costless: np.ndarray | None = None,
    ) -> None:
        self.shape, self.layout, self.norm = shape, layout, norm
        #: features that an L2 ball does not hold
        self.costless = costless if norm == "l2" else None
        self.p_init, self.seed = p_init, seed
        self.interior = interior and layout is None and norm == "linf"
        self.width = int(np.prod(shape[1:]))

    def start(self) -> np.ndarray:
        """Draw a sign for each feature; for images, for each column (stripes)."""
        rng = np.random.default_rng([self.seed, 0])
        n = self.shape[0]
        if self.layout is None:
            unit = _signs(rng, (n, self.width)).reshape(self.shape)
        else:
            height, width, channels = self.layout.unfolded
            stripes = _signs(rng, (n, 1, width, channels))
            unit = self.layout.fold(np.repeat(stripes, height, axis=1))
        if self.norm == "linf":
            return unit
        short = unit / self.width**0.5
        return short if self.costless is None else np.where(self.costless, unit, short)

    def worth(self, rows: np.ndarray, query: int) -> np.ndarray:
        """Draw which of too many changes a space is to keep."""
        rng = np.random.default_rng([self.seed, query, 1])
        return rng.uniform(-1, 1, size=self.shape)[rows]

    def change(
        self, unit: np.ndarray, rows: np.ndarray, query: int, spent: float
    ) -> np.ndarray:
        """Change part of each of ``rows`` of ``unit``."""
        if self.interior and spent > _CORNERS_FIRST:
            return self._change_few(unit[rows], rows, query)
        rng = np.random.default_rng([self.seed, query])
        share = self.p_init / 2 ** int((spent > _HALVINGS).sum())
        before = unit[rows]
        tried = before.copy()
        if self.layout is None:
            tried = self._change_set(rng, tried, rows, share)
        else:
            tried = self._change_window(rng, tried, rows, share)
        if self.norm == "linf":
            return tried
        charged = tried if self.costless is None else np.where(self.costless, 0, tried)
        length = np.linalg.norm(charged.reshape(len(tried), -1), axis=1)
        length = np.maximum(length, np.finfo(np.float64).tiny)
        charged = charged / length.reshape(-1, *(1,) * (tried.ndim - 1))
        if self.costless is None:
            return charged
        # the others go to an end of their range, or anywhere in between
        rng = np.random.default_rng([self.seed, query, 3])
        place, kind = rng.random((self.shape[0], 2, self.width))[rows].swapaxes(0, 1)
        place = 2 * place - 1
        place = np.where(kind < 0.5, np.sign(place), place)
        moved = np.where(tried != before, place, before)
        return np.where(self.costless, moved, charged)

    def _size(self, changed: int) -> float:
        # L2: what is changed gets twice its even part, the rest is scaled to fit
        return 1.0 if self.norm == "linf" else 2 / max(self.width, changed) ** 0.5

    def _change_set(
        self,
        rng: np.random.Generator,
        tried: np.ndarray,
        rows: np.ndarray,
        share: float,
    ) -> np.ndarray:
        count = max(1, round(share * self.width))
        # one draw for feature and sign: what a row gets hangs on no row after it
        drawn = rng.integers(2 * self.width, size=(self.shape[0], count))[rows]
        features, signs = drawn // 2, drawn % 2 * 2.0 - 1
        flat = tried.reshape(len(tried), -1)
        np.put_along_axis(flat, features, signs * self._size(count), axis=1)
        return flat.reshape(tried.shape)

    def _change_few(
        self, tried: np.ndarray, rows: np.ndarray, query: int
    ) -> np.ndarray:
        """Put each of a few features at a corner or anywhere in between."""
        rng = np.random.default_rng([self.seed, query, 2])
        most = _FEW.max()
        # one draw for all: what a row gets hangs on no row after it
        drawn = rng.random((self.shape[0], 1 + 3 * most))[rows]
        count = _FEW[(drawn[:, :1] * len(_FEW)).astype(int)]
        where, value, kind = np.split(drawn[:, 1:], 3, axis=1)
        features = (where * self.width).astype(int)
        values = 2 * value - 1
        values = np.where(kind < 0.5, np.sign(values), values)
        # those beyond the count repeat the first
        spare = np.arange(most) >= count
        features = np.where(spare, features[:, :1], features)
        values = np.where(spare, values[:, :1], values)
        flat = tried.reshape(len(tried), -1)
        np.put_along_axis(flat, features, values, axis=1)
        return flat.reshape(tried.shape)

    def _change_window(
        self,
        rng: np.random.Generator,
        tried: np.ndarray,
        rows: np.ndarray,
        share: float,
    ) -> np.ndarray:
        assert self.layout is not None
        height, width, channels = self.layout.unfolded
        side = max(1, round((share * height * width) ** 0.5))
        tall, wide = min(side, height), min(side, width)
        drawn = rng.random((self.shape[0], 2 + channels))[rows]
        top = (drawn[:, :1] * (height - tall + 1)).astype(int)
        left = (drawn[:, 1:2] * (width - wide + 1)).astype(int)
        signs = np.where(drawn[:, None, None, 2:] < 0.5, -1.0, 1.0)
        down, across = np.arange(height), np.arange(width)
        inside = ((down >= top) & (down < top + tall))[:, :, None] & (
            (across >= left) & (across < left + wide)
        )[:, None, :]
        images = self.layout.unfold(tried)
        size = self._size(tall * wide * channels)
        return self.layout.fold(np.where(inside[..., None], signs * size, images))


def _signs(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(2, size=shape) * 2.0 - 1.0
