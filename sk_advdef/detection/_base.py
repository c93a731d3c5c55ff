"""What every detector shares: the model, the held-out rows, the threshold."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.base import OutlierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples, check_is_fitted

from sk_advdef._base import Stamped, all_or_nothing
from sk_advdef._torch._fingerprint import (
    check_memory_parameter,
    fingerprint,
    remembered,
)
from sk_advdef._torch._models import is_frozen, is_net
from sk_advdef._validation import (
    check_classifier,
    check_number,
    seed_from,
    with_seed,
)
from sk_advdef.detection._threshold import conformal_offset, one_split

#: Parameters that change nothing of what is learned; the seed counts by itself.
_NO_MATTER = ("contamination", "memory", "prior", "random_state")

#: Parameters that change nothing of the scores, once there is a model.
_OF_THRESHOLD = {*_NO_MATTER, "cv", "estimator"}

#: Held-out rows that can tell whether scores are tied by more than chance.
ENOUGH_ROWS = 100

#: Scores further from 0 say no more than that a row is as far away as can be.
FARTHEST = 1e200


def finite_scores(owner: Any, scores: np.ndarray) -> np.ndarray:
    """Return scores without infinities, and refuse rows that the model cannot score."""
    if np.isnan(scores).any():
        raise ValueError(
            f"{type(owner).__name__} has no score for some rows of X: its model "
            "answers NaN. Values of X may be too large for it."
        )
    return np.clip(scores, -FARTHEST, FARTHEST)


class Detector(OutlierMixin, Stamped):
    """Scores rows by how genuine they look to a model, with a threshold from others.

    Subclasses say which model stands for ``estimator=None``, what they learn, and how
    they score.
    """

    estimator: Any
    contamination: float
    cv: Any
    random_state: Any

    #: names of what ``fit`` found
    _learned: tuple[str, ...] = ()

    def _check_parameters(self) -> None:
        check_number(
            self, "contamination", self.contamination, low=0, high=0.5, closed="right"
        )
        check_memory_parameter(self, self._memory())
        if self.estimator is not None:
            check_classifier(self, "estimator", self.estimator)

    def _default_estimator(self, y: Any) -> Any:
        return LogisticRegression(max_iter=1000)

    def _fit_model(self, X: Any, y: Any, seed: int) -> Any:
        """Fit a clone of the estimator, or of what stands for None."""
        estimator = self.estimator
        if estimator is None:
            estimator = self._default_estimator(y)
        if not is_net(estimator):
            return with_seed(clone(estimator), seed).fit(X, y)
        from sk_advdef._torch._net import with_adapter

        return with_adapter(estimator, seed).fit(X, y)

    def _fit_scores(self, X: Any, y: Any, seed: int) -> None:
        """Learn what the scores need besides the model in ``estimator_``."""

    def _learns(self, X: Any) -> bool:
        """Whether ``_fit_scores`` learns from rows, also where the model is frozen."""
        return False

    def _raw_scores(self, X: Any) -> np.ndarray:
        """Return the score of each row, higher for more genuine."""
        raise NotImplementedError

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags of this estimator."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = not is_frozen(self.estimator)
        tags.input_tags.three_d_array = True
        return tags

    @all_or_nothing
    def fit(self, X: Any, y: Any = None) -> Any:
        """Fit the model on a part of the rows and the threshold on the rest.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Genuine rows. Around a frozen model all of them are for the threshold, and
            must be rows that the model was not fitted on.
        y : array-like of shape (n_samples,) or None, default=None
            Class labels; not needed around a frozen model.

        Returns
        -------
        self : object
            The fitted detector.
        """
        return self._fit_on(X, y, None)

    def _fit_on(self, X: Any, y: Any, known: Any) -> Any:
        """Fit on new rows; ``known`` are rows, with labels, that a model has seen."""
        self._check_parameters()
        X = self._rows(X, reset=True)
        frozen = is_frozen(self.estimator)
        if not frozen or y is not None:
            y = self._labels(
                X, y, " To watch a model without y, pass FrozenEstimator(fitted_model)."
            )
        for name in self._learned:
            delattr(self, name)
        self._learned = ()
        given = copy.deepcopy(self.random_state)  # drawing a seed may move it on
        seed = seed_from(self.random_state)

        def key() -> str:
            params = self.get_params(deep=False)
            params = {k: v for k, v in params.items() if k not in _NO_MATTER}
            return fingerprint("fit", type(self), params, given, X, y, known)

        def compute() -> tuple[dict[str, Any], np.ndarray]:
            before = set(vars(self))
            try:
                held = self._learn(X, y, known, seed)
            finally:
                self._learned = tuple(name for name in vars(self) if name not in before)
            learned = {name: getattr(self, name) for name in self._learned}
            if frozen:
                del learned["estimator_"]
            return learned, finite_scores(self, self._raw_scores(held))

        learned, scores = remembered(self._memory(), key, compute)
        for name, value in learned.items():
            setattr(self, name, value)
        self._learned = (*learned, "estimator_") if frozen else tuple(learned)
        if frozen:
            self.estimator_ = self.estimator
        self.offset_ = conformal_offset(scores, self.contamination)
        self._warn_of_ties(scores)
        spread = float(np.subtract(*np.quantile(scores, [0.75, 0.25])))
        self.scale_ = spread if spread > 0 else 1.0
        return self

    def _warn_of_ties(self, scores: np.ndarray) -> None:
        """Say where the threshold is the lowest score: next to none is below."""
        lowest = scores.min()
        tied = int(np.count_nonzero(scores == lowest))
        known = len(scores) >= ENOUGH_ROWS and np.isfinite(self.offset_)
        if known and tied > self.contamination * len(scores):
            warnings.warn(
                f"The lowest score, {lowest:.6g}, is that of {tied} of {len(scores)} "
                f"held-out rows, more than contamination={self.contamination:g} of "
                f"{type(self).__name__} lets be flagged: only what scores lower still "
                "will be. Where none can, as of a model whose probabilities are 0 and "
                "1, take another detector.",
                UserWarning,
                stacklevel=5,
            )

    def _learn(self, X: Any, y: Any, known: Any, seed: int) -> Any:
        """Fit the model and what the scores need; return rows for the threshold."""
        if is_frozen(self.estimator):
            self.estimator_ = self.estimator
        else:
            fitted, held = one_split(self, self.cv, X, y, seed)
            known = _safe_indexing(X, fitted), _safe_indexing(y, fitted)
            self.estimator_ = self._fit_model(known[0], known[1], seed)
            X, y = _safe_indexing(X, held), _safe_indexing(y, held)
        return self._learn_around(X, y, known, seed)

    def _learn_around(self, X: Any, y: Any, known: Any, seed: int) -> Any:
        """Fit what the scores need; return rows for the threshold."""
        if known is None and self._learns(X):
            known, (X, y) = self._set_aside(X, y, seed)
        rows, labels = (X, y) if known is None else known
        self._fit_scores(rows, labels, seed)
        return X

    def _memory(self) -> Any:
        return getattr(self, "memory", None)

    def _is_fresh(self) -> bool:
        """Whether scores of the same rows differ from call to call."""
        return getattr(self, "masks", "fixed") == "fresh"

    def _scored(self, X: Any) -> np.ndarray:
        """Return raw scores, from the memory where they are known there."""
        if self._is_fresh():
            return finite_scores(self, self._raw_scores(X))

        def key() -> str:
            names = {*self.get_params(deep=False), *self._learned} - _OF_THRESHOLD
            state = {name: getattr(self, name) for name in names}
            return fingerprint("scores", type(self), state, X)

        raw = remembered(self._memory(), key, lambda: self._raw_scores(X))
        return finite_scores(self, raw)

    def _set_aside(self, X: Any, y: Any, seed: int) -> tuple[Any, Any]:
        """Return the part to learn from, and the rows of the threshold, with labels.

        The share that ``cv`` holds out is learned from: where the model is fitted
        already, there is little to learn, and the threshold takes all other rows.
        """
        labels = np.zeros(_num_samples(X)) if y is None else y
        rest, learned = one_split(self, self.cv, X, labels, seed)
        return _rows_of(X, y, learned), _rows_of(X, y, rest)

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:
        """Fit, and tell which rows of ``X`` look genuine.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Genuine rows.
        y : array-like of shape (n_samples,) or None, default=None
            Class labels; not needed around a frozen model.

        Returns
        -------
        verdict : ndarray of int of shape (n_samples,)
            +1 for genuine, -1 for adversarial.
        """
        return self.fit(X, y).predict(X)

    def score_samples(self, X: Any) -> np.ndarray:
        """Score rows, higher for more genuine.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.

        Returns
        -------
        scores : ndarray of float64 of shape (n_samples,)
            The score of each row.
        """
        check_is_fitted(self)
        return self._scored(self._rows(X))

    def decision_function(self, X: Any) -> np.ndarray:
        """Return ``score_samples(X) - offset_``: at least 0 for genuine.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.

        Returns
        -------
        decision : ndarray of float64 of shape (n_samples,)
            Distance of the score to the threshold.
        """
        check_is_fitted(self)
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """Tell which rows look genuine.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.

        Returns
        -------
        verdict : ndarray of int of shape (n_samples,)
            +1 for genuine, -1 for adversarial.
        """
        check_is_fitted(self)
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return a score in [0, 1] for "adversarial" and for "genuine".

        It rises with ``decision_function`` and is 0.5 at the threshold; it is not a
        calibrated probability.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.

        Returns
        -------
        proba : ndarray of shape (n_samples, 2)
            Columns for -1 (adversarial) and +1 (genuine).
        """
        check_is_fitted(self)
        genuine = expit(self.decision_function(X) / self.scale_)
        return np.stack([1 - genuine, genuine], axis=1)


def _rows_of(X: Any, y: Any, rows: np.ndarray) -> tuple[Any, Any]:
    return _safe_indexing(X, rows), None if y is None else _safe_indexing(y, rows)
