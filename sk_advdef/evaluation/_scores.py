"""Accuracy under attack, as a score and as a scorer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import _safe_indexing, check_consistent_length, column_or_1d

from sk_advdef._torch._models import (
    classes_of,
    has_scores,
    last_step,
    predict,
    rejection_of,
    torch_generators_kept,
)
from sk_advdef._torch._registry import has_view, missing_view
from sk_advdef._validation import check_model, invalid, seed_from
from sk_advdef.attacks._base import Attack
from sk_advdef.attacks._hop_skip_jump import HopSkipJump
from sk_advdef.attacks._pgd import PGD
from sk_advdef.attacks._random_search import RandomSearch
from sk_advdef.attacks._several import attacks_in
from sk_advdef.attacks._table import as_rows


def default_attacks(
    estimator: Any, eps: Any, bounds: Any, random_state: Any, space: Any = None
) -> list[Attack]:
    """Make the attacks that stand for "the attacker who knows the defence".

    PGD with cross-entropy and with the margin where there is a differentiable view, and
    RandomSearch, which no hidden gradient can lead astray, or HopSkipJump where there
    are no scores.
    """
    seed = seed_from(random_state)
    common = {"bounds": bounds, "random_state": seed, "space": space}
    rejects = rejection_of(estimator)
    asking: Attack = RandomSearch(eps, **common)
    if not has_scores(estimator if rejects is None else rejects[0]):
        asking = HopSkipJump(eps=eps, norm="linf", max_queries=1000, **common)
    if not has_view(estimator):
        warnings.warn(
            f"{type(missing_view(estimator)).__name__} has no differentiable view: "
            f"{type(asking).__name__}, which only asks, attacks alone. Register a view "
            "with as_module.register to let gradient attacks join.",
            UserWarning,
            stacklevel=3,
        )
        return [asking]
    climbing = (
        PGD(eps, loss=loss, bounds=bounds, random_state=seed, space=space)
        for loss in ("ce", "margin")
    )
    return [*climbing, asking]


def as_attacks(attack: Any, name: str = "attack") -> list[Attack]:
    """Return one attack or several as a list."""
    attacks = attacks_in(attack)
    for one in attacks:
        if not isinstance(one, Attack):
            raise TypeError(
                f"{name} must be an attack of this package, a list of them, or None. "
                f"Got {one!r}."
            )
        if getattr(one, "targeted", False) or getattr(one, "goal", None) == "reject":
            raise ValueError(
                f"{name}={one!r} does not aim at a wrong answer, so that its success "
                "is no loss of accuracy. Pass one with targeted=False and "
                'goal="fool".'
            )
    if not attacks:
        raise ValueError(f"{name} is an empty list: pass at least one, or None.")
    return attacks


def with_int_seed(attack: Attack) -> Attack:
    """Draw a seed where there is a RandomState, which each process would advance."""
    given = attack.get_params()
    drawn = {
        name: seed_from(value)
        for name, value in given.items()
        if isinstance(value, np.random.RandomState)
    }
    return clone(attack).set_params(**drawn) if drawn else attack


def check_labels(owner: str, estimator: Any, y: np.ndarray) -> None:
    """Refuse labels of which the estimator knows none."""
    check_kind(owner, estimator, y)
    known = np.asarray(classes_of(estimator))
    if len(y) and not np.isin(y.astype(object), known.astype(object)).any():
        raise ValueError(
            f"{owner} got labels y such as {y.tolist()[0]!r}, and the estimator "
            f"answers with such as {known.tolist()[0]!r}: none of y is among its "
            "classes."
        )


def check_kind(owner: str, estimator: Any, y: np.ndarray) -> None:
    """Refuse labels that can be no classes of the estimator, in whatever rows.

    Some rows may well hold none that it learned.
    """
    if not hasattr(last_step(estimator), "classes_"):
        raise invalid(owner, "estimator", "a fitted classifier", estimator)
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise ValueError(f"{owner} got labels y with NaN or infinity among them.")
    known = np.asarray(classes_of(estimator))
    if len(y) and (_is_text(y) != _is_text(known) or _is_whole(known) > _is_whole(y)):
        raise ValueError(
            f"{owner} got labels y such as {y.tolist()[0]!r}, of which some can be no "
            f"class of an estimator that answers with such as {known.tolist()[0]!r}."
        )


def _is_text(labels: np.ndarray) -> bool:
    return all(isinstance(label, str) for label in labels.tolist())


def _is_whole(labels: np.ndarray) -> bool:
    return labels.dtype.kind != "f" or bool((labels == np.floor(labels)).all())


def chosen(estimator: Any) -> Any:
    """Return what a search has chosen, anything else as it is."""
    return getattr(estimator, "best_estimator_", estimator)


def check_threat(
    attack: Any, eps: Any, space: Any = None, name: str = "attack"
) -> list[Attack] | None:
    """Refuse too little and too much said about what the attacker may do."""
    if attack is None:
        if eps is None and getattr(space, "eps", None) is None:
            raise ValueError(
                "eps=None says nothing of how much an attacker may change. Pass eps, "
                f"or {name}=... or space=... that brings one."
            )
        return None
    for other, value in (("eps", eps), ("space", space)):
        if value is not None:
            raise ValueError(
                f"Both {name} and {other}={value!r} are given. Set {other} on the "
                "attack itself."
            )
    return as_attacks(attack, name)


def robust_accuracy_score(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    attack: Any = None,
    eps: Any = None,
    bounds: Any = (0.0, 1.0),
    space: Any = None,
    random_state: Any = None,
) -> float:
    """Accuracy under attack: the share of rows that no attack took.

    A row counts as held if the estimator's ``predict`` is right on it and every attack
    failed to make it answer another genuine class ("adversarial" and "rejected" are
    failures of the attacker). With several attacks this is the worst case per row. It
    is an upper bound: a stronger attack can only lower it.

    Parameters
    ----------
    estimator : estimator
        A fitted classifier.
    X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
        Rows inside ``bounds``.
    y : array-like of shape (n_samples,)
        True labels.
    attack : attack, list of attacks or None, default=None
        What to run. None runs PGD with cross-entropy, PGD with the margin and
        RandomSearch, in turn on the rows that still hold; where the estimator has no
        differentiable view, RandomSearch alone, with a warning.
    eps : float, array of floats or None, default=None
        Radius (Linf) of the default attacks in units of ``X``; required unless
        ``attack`` or ``space`` brings one.
    bounds : tuple (low, high) or None, default=(0.0, 1.0)
        Box for the default attacks.
    space : FeatureSpace or None, default=None
        What the default attacks may change in tabular data; its eps and bounds take the
        place of ``eps`` and ``bounds``, of which the first must then be None.
    random_state : int, RandomState instance or None, default=None
        Seeds the default attacks.

    Returns
    -------
    score : float
        Share of rows, in [0, 1].

    Raises
    ------
    ValueError
        If neither or both of ``attack`` and ``eps`` are given, or ``X`` lies outside
        ``bounds``.

    See Also
    --------
    make_robust_scorer : The same as a scorer for searches.

    Notes
    -----
    Quote the figure as "accuracy under the strongest attack we ran (an upper bound)",
    with norm, eps, attacks, steps, queries and rows.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sk_advdef import robust_accuracy_score
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X, y)
    >>> score = robust_accuracy_score(
    ...     model, X, y, eps=0.3, bounds=None, random_state=0
    ... )
    >>> 0 < score < model.score(X, y)
    True
    """
    check_model("robust_accuracy_score", estimator)
    estimator = chosen(estimator)
    attacks = check_threat(attack, eps, space)
    if attacks is None:
        attacks = default_attacks(estimator, eps, bounds, random_state, space)
    return float(held_rows(estimator, X, y, attacks).mean())


def held_rows(estimator: Any, X: Any, y: Any, attacks: Sequence[Attack]) -> np.ndarray:
    """Tell for each row whether it is right and stays so under all ``attacks``."""
    X, y = as_rows(X), column_or_1d(y)
    check_consistent_length(X, y)
    with torch_generators_kept():
        held = predict(estimator, X) == y
    check_kind("robust_accuracy_score", estimator, y)
    for attack in attacks:
        rows = np.flatnonzero(held)
        if not len(rows):
            break
        result = attack.run(estimator, _safe_indexing(X, rows), y[rows])
        held[rows] = ~result.fooled
    return held


class RobustScorer:
    """A scorer: called with a fitted estimator, rows and labels, it attacks."""

    def __init__(
        self, attack: Any, eps: Any, bounds: Any, random_state: Any, space: Any = None
    ) -> None:
        self.attack, self.eps, self.space = attack, eps, space
        self.bounds, self.random_state = bounds, random_state

    def _accept_sample_weight(self) -> bool:
        """Return what searches over several scores ask each of them."""
        return False

    def __call__(self, estimator: Any, X: Any, y: Any) -> float:
        """Return the accuracy under attack."""
        return robust_accuracy_score(
            estimator,
            X,
            y,
            attack=self.attack,
            eps=self.eps,
            bounds=self.bounds,
            space=self.space,
            random_state=self.random_state,
        )

    def __repr__(self) -> str:
        """Return the call that makes this scorer."""
        said = [] if self.attack is None else [f"{self.attack!r}"]
        said += [] if self.eps is None else [f"eps={self.eps!r}"]
        said += [f"bounds={self.bounds!r}"] if self.attack is None else []
        said += [] if self.space is None else [f"space={self.space!r}"]
        if self.random_state is not None:
            said.append(f"random_state={self.random_state!r}")
        return f"make_robust_scorer({', '.join(said)})"


def make_robust_scorer(
    attack: Any = None,
    *,
    eps: Any = None,
    bounds: Any = (0.0, 1.0),
    space: Any = None,
    random_state: Any = None,
) -> RobustScorer:
    """Make a scorer of accuracy under attack for ``cross_validate`` and GridSearchCV.

    Parameters
    ----------
    attack : attack, list of attacks or None, default=None
        What to run; see :func:`robust_accuracy_score`. None is the worst case per row
        of two gradient attacks and one that needs no gradient.
    eps : float, array of floats or None, default=None
        Radius (Linf) of the default attacks in units of ``X``; required unless
        ``attack`` or ``space`` brings one.
    bounds : tuple (low, high) or None, default=(0.0, 1.0)
        Box for the default attacks.
    space : FeatureSpace or None, default=None
        What the default attacks may change in tabular data; its eps and bounds take the
        place of ``eps`` and ``bounds``, of which the first must then be None.
    random_state : int, RandomState instance or None, default=None
        Seeds the default attacks.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y)`` returns the share of rows held; it can be pickled.

    Warns
    -----
    UserWarning
        If a single attack is given.

    See Also
    --------
    robust_accuracy_score : The score itself.

    Notes
    -----
    A search that judges by one gradient attack selects models that hide their gradient,
    not models that are harder to fool.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sk_advdef import make_robust_scorer
    >>> X, y = load_iris(return_X_y=True)
    >>> scorer = make_robust_scorer(eps=0.3, bounds=None, random_state=0)
    >>> search = GridSearchCV(
    ...     LogisticRegression(max_iter=1000), {"C": [0.01, 1.0]}, scoring=scorer, cv=2
    ... )
    >>> bool(0 < search.fit(X, y).best_score_ < 1)
    True
    """
    attacks = check_threat(attack, eps, space)
    if attacks is not None and len(attacks) == 1:
        warnings.warn(
            f"One attack alone, {attacks[0]!r}, judges: a search by one attack selects "
            "models that hide from it. Pass a list with a gradient attack and one that "
            "needs none, or eps=... for the default.",
            UserWarning,
            stacklevel=2,
        )
    return RobustScorer(attack, eps, bounds, random_state, space)
