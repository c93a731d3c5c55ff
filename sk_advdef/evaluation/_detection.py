"""What a detector sees, and what rejection is worth."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import log_softmax
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, check_consistent_length, column_or_1d

from sk_advdef._torch._fingerprint import (
    check_memory_parameter,
    fingerprint,
    remembered,
)
from sk_advdef._torch._models import (
    class_scores,
    predict,
    rejection_of,
    unfrozen,
    with_offset,
)
from sk_advdef._torch._registry import has_view
from sk_advdef._validation import check_number, check_option
from sk_advdef.attacks._base import Attack
from sk_advdef.attacks._pgd import PGD
from sk_advdef.attacks._table import as_rows
from sk_advdef.evaluation._scores import (
    as_attacks,
    check_threat,
    default_attacks,
    held_rows,
)

METRICS = ("balanced_accuracy", "roc_auc", "tpr_at_fpr_0.01", "tpr_at_fpr_0.05")

#: Fewer successful attacks than this say nothing about a detector.
FEWEST_SUCCESSES = 30


def tpr_at_fpr(genuine: np.ndarray, attacked: np.ndarray, rate: float) -> float:
    """Share of attacked scores below a threshold that at most ``rate`` of genuine are.

    Scores are higher for more genuine.
    """
    allowed = math.floor(rate * len(genuine) * (1 + 1e-12))
    threshold = np.sort(genuine)[allowed]
    return float((attacked < threshold).mean())


class DetectionScorer:
    """A scorer: called with a fitted detector, genuine rows and labels, it attacks."""

    def __init__(self, attack: Any, metric: str, memory: Any = None) -> None:
        self.attack, self.metric, self.memory = attack, metric, memory

    def _attacked(self, model: Any, X: Any, y: np.ndarray) -> list[Any]:
        """Make rows that fool the model, for each attack."""
        right = np.flatnonzero(predict(model, X) == y)
        attacked = []
        for attack in as_attacks(self.attack):
            if len(right):
                rows = _safe_indexing(X, right)
                result = attack.run(model, rows, y[right])
                fooled = np.flatnonzero(result.fooled)
                attacked.append(_safe_indexing(result.X_adv, fooled))
        return attacked

    def _accept_sample_weight(self) -> bool:
        """Return what searches over several scores ask each of them."""
        return False

    def __call__(self, detector: Any, X: Any, y: Any) -> float:
        """Return how well attacked rows are told from genuine ones."""
        y = column_or_1d(y)
        check_consistent_length(X, y)
        model = _watched(detector)
        attacked = remembered(
            self.memory,
            lambda: fingerprint(
                "attacked", unfrozen(model), as_attacks(self.attack), X, y
            ),
            lambda: self._attacked(model, X, y),
        )
        count = sum(len(rows) for rows in attacked)
        if count < FEWEST_SUCCESSES:
            warnings.warn(
                f"Only {count} attacks succeeded; at least {FEWEST_SUCCESSES} are "
                "needed to score a detector. The score is NaN: use a stronger attack, "
                "a larger eps or more rows.",
                UserWarning,
                stacklevel=2,
            )
            return math.nan
        genuine = detector.decision_function(X)
        seen = np.concatenate(
            [detector.decision_function(rows) for rows in attacked if len(rows)]
        )
        return self._metric(genuine, seen)

    def _metric(self, genuine: np.ndarray, attacked: np.ndarray) -> float:
        if self.metric == "balanced_accuracy":
            return float(((genuine >= 0).mean() + (attacked < 0).mean()) / 2)
        if self.metric == "roc_auc":
            truth = np.r_[np.ones(len(genuine)), np.zeros(len(attacked))]
            scores = np.concatenate([genuine, attacked])
            if np.isposinf(scores).all():
                return 0.5  # nothing is flagged, nothing is told apart
            return float(roc_auc_score(truth, scores))
        return tpr_at_fpr(genuine, attacked, float(self.metric.rpartition("_")[2]))

    def __repr__(self) -> str:
        """Return the call that makes this scorer."""
        memory = "" if self.memory is None else f", memory={self.memory!r}"
        return f"make_detection_scorer({self.attack!r}, metric={self.metric!r}{memory})"


def make_detection_scorer(
    attack: Any, *, metric: str = "balanced_accuracy", memory: Any = None
) -> DetectionScorer:
    """Make a scorer of detectors for ``cross_validate`` and GridSearchCV.

    The rows given to the scorer are genuine. Those that the detector's model gets right
    are attacked, and only attacks that succeed count: the score says how well these are
    told from all the genuine rows.

    Parameters
    ----------
    attack : attack or list of attacks
        Makes adversarial rows against the detector's model.
    metric : {"balanced_accuracy", "roc_auc", "tpr_at_fpr_0.05", "tpr_at_fpr_0.01"}, \
            default="balanced_accuracy"
        "balanced_accuracy" judges the detector's own threshold; "tpr_at_fpr_0.05" is
        the share of attacked rows found at the threshold that flags 5 % of the genuine
        rows given.
    memory : str, joblib.Memory or None, default=None
        Where to keep attacked rows, as a folder or a Memory: a search makes them once
        for each fold and model. An attack without a seed is remembered too.

    Returns
    -------
    scorer : callable
        ``scorer(detector, X, y)`` returns a float; it can be pickled.

    Warns
    -----
    UserWarning
        When called, if fewer than 30 attacks succeed; the score is then NaN.

    See Also
    --------
    rejection_robust_error : The same against an attacker who knows the detector.

    Notes
    -----
    The attacker of this score ignores the detector. Never quote it alone: put
    :func:`rejection_robust_error` beside it.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sk_advdef import PGD, DropoutUncertaintyDetector, make_detection_scorer
    >>> X, y = load_digits(return_X_y=True)
    >>> detector = DropoutUncertaintyDetector(random_state=0).fit(X[:1000], y[:1000])
    >>> attack = PGD(eps=2.0, bounds=(0, 16), steps=5, random_state=0)
    >>> scorer = make_detection_scorer(attack, metric="roc_auc")
    >>> 0 <= scorer(detector, X[1000:1200], y[1000:1200]) <= 1
    True
    """
    as_attacks(attack)
    check_option("make_detection_scorer", "metric", metric, METRICS)
    check_memory_parameter("make_detection_scorer", memory)
    return DetectionScorer(attack, metric, memory)


def rejection_robust_error(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    attack: Any = None,
    eps: Any = None,
    bounds: Any = (0.0, 1.0),
    clean_rejection: Sequence[float] = (0.01, 0.05),
    space: Any = None,
    random_state: Any = None,
) -> dict[float, float]:
    """Error of a classifier that rejects, under attack, at given clean rejection.

    A row is lost if its clean version is wrong or rejected, or if some tried point in
    the ball is accepted with a wrong class. For each level the detector's threshold is
    set so that this share of the clean rows given is rejected, which makes detectors
    comparable; attacks know the threshold.

    Parameters
    ----------
    estimator : RejectingClassifier
        Fitted; alone, frozen, or the last step of a Pipeline.
    X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
        Genuine rows inside ``bounds``.
    y : array-like of shape (n_samples,)
        True labels.
    attack : attack, list of attacks or None, default=None
        What to run; see :func:`robust_accuracy_score`.
    eps : float, array of floats or None, default=None
        Radius (Linf) of the default attacks in units of ``X``; required unless
        ``attack`` or ``space`` brings one.
    bounds : tuple (low, high) or None, default=(0.0, 1.0)
        Box for the default attacks.
    clean_rejection : sequence of float, default=(0.01, 0.05)
        Shares of clean rows to reject, each in [0, 1).
    space : FeatureSpace or None, default=None
        What the default attacks may change in tabular data; its eps and bounds take the
        place of ``eps`` and ``bounds``, of which the first must then be None.
    random_state : int, RandomState instance or None, default=None
        Seeds the default attacks.

    Returns
    -------
    errors : dict of float to float
        For each level, the share of rows lost, in [0, 1]; a lower bound of what the
        strongest attacker reaches.

    Raises
    ------
    TypeError
        If the estimator does not reject.
    ValueError
        If neither or both of ``attack`` and ``eps`` are given.

    See Also
    --------
    robust_accuracy_score : Accuracy under attack at the detector's own threshold.

    References
    ----------
    .. [1] F. Tramer, "Detecting Adversarial Examples Is (Nearly) As Hard As Classifying
       Them", ICML 2022, arXiv:2107.11630.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sk_advdef import (
    ...     PGD, DropoutUncertaintyDetector, RejectingClassifier, rejection_robust_error
    ... )
    >>> X, y = load_iris(return_X_y=True)
    >>> detector = DropoutUncertaintyDetector(random_state=0).fit(X, y)
    >>> defended = RejectingClassifier(detector.estimator_, detector).fit(X, y)
    >>> errors = rejection_robust_error(
    ...     defended, X[::5], y[::5], attack=PGD(0.1, steps=10, bounds=None)
    ... )
    >>> sorted(errors)
    [0.01, 0.05]
    """
    if rejection_of(estimator) is None:
        raise TypeError(
            "rejection_robust_error judges a RejectingClassifier. Got "
            f"{estimator!r}; for one that does not reject use robust_accuracy_score."
        )
    levels = [
        check_number(
            "rejection_robust_error", "clean_rejection", r, low=0, high=1, closed="left"
        )
        for r in np.ravel(clean_rejection)
    ]
    X = as_rows(X)
    attacks = check_threat(attack, eps, space)
    if attacks is None:
        attacks = default_attacks(estimator, eps, bounds, random_state, space)
    return {
        float(level): _error_at(estimator, X, y, attacks, float(level))
        for level in levels
    }


def _error_at(
    estimator: Any, X: Any, y: Any, attacks: Sequence[Attack], level: float
) -> float:
    rejects = rejection_of(estimator)
    assert rejects is not None
    scores = np.sort(rejects[1].score_samples(X))
    offset = float(scores[math.floor(level * len(scores) * (1 + 1e-12))])
    moved = with_offset(estimator, offset)
    return 1 - float(held_rows(moved, X, y, attacks).mean())


def _watched(detector: Any) -> Any:
    """Return the model that a detector watches, behind the steps before it."""
    detector = unfrozen(detector)
    if isinstance(detector, Pipeline):
        name, last = detector.steps[-1]
        return Pipeline([*detector.steps[:-1], (name, _watched(last))])
    return detector.estimator_


def detection_figures(
    estimator: Any,
    X: Any,
    y: np.ndarray,
    eps: Any,
    reach: dict[str, Any],
    random_state: Any,
) -> dict[str, dict[str, float]]:
    """Compare a detector with three baselines on the same attacked rows.

    The rows are made against the model alone, by an attacker who ignores the detector.
    Without enough successes there is nothing to compare.
    """
    rejects = rejection_of(estimator)
    if rejects is None or not has_view(rejects[0]):
        return {}
    model, detector = rejects
    right = np.flatnonzero(predict(model, X) == y)
    if len(right) < FEWEST_SUCCESSES:
        return {}
    attack = PGD(eps, early_stop=False, random_state=random_state, **reach)
    result = attack.run(model, _safe_indexing(X, right), y[right])
    attacked = _safe_indexing(result.X_adv, np.flatnonzero(result.fooled))
    if len(attacked) < FEWEST_SUCCESSES:
        return {}
    statistics = {
        "the detector": detector.score_samples,
        "the largest probability": lambda rows: _top_two(model, rows)[:, -1],
        "the margin of scores": lambda rows: np.diff(_top_two(model, rows)).ravel(),
        "smoothness of the input": _smoothness,
    }
    figures = {}
    for name, statistic in statistics.items():
        genuine, seen = statistic(X), statistic(attacked)
        figures[name] = {
            f"at {rate:.0%} false positives": tpr_at_fpr(genuine, seen, rate)
            for rate in (0.05, 0.01)
        }
    return figures


def _top_two(model: Any, X: Any) -> np.ndarray:
    """Two largest log-probabilities of each row, in rising order."""
    return np.sort(log_softmax(class_scores(model, X), axis=1), axis=1)[:, -2:]


def _smoothness(X: Any) -> np.ndarray:
    """Minus the sum of steps between neighboring values; asks no model."""
    values = np.asarray(X, dtype=np.float64).reshape(len(X), -1)
    return -np.abs(np.diff(values, axis=1)).sum(axis=1)
