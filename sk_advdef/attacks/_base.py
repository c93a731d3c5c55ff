"""What every attack shares: the result, the door, and the meaning of success."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, column_or_1d

from sk_advdef._torch._models import (
    class_scores,
    classes_of,
    genuine_classes_of,
    predict,
    rejection_of,
    torch_generators_kept,
    unfrozen,
)
from sk_advdef._validation import check_flag
from sk_advdef.attacks._geometry import (
    check_bounds,
    check_eps,
    check_norm,
    into_ball,
    lengths,
    limits,
)


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What an attack found, row by row.

    Parameters
    ----------
    X_adv : array of the type, shape and dtype of the attacked ``X``
        The attacked rows. A row that could not be fooled holds the attacker's best try.
    fooled : ndarray of bool of shape (n_samples,)
        Whether the model's own ``predict`` answers a genuine class other than the
        label (for targeted attacks: the target). A row that was misclassified
        from the start is fooled without a change.
    n_queries : ndarray of int of shape (n_samples,)
        Forward passes of the model that the attacker spent on the row.
    distortion : ndarray of float64 of shape (n_samples,)
        Length of the change in the attack's norm, in units of ``X``.

    See Also
    --------
    PGD : An attack that returns this from ``run``.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sk_advdef import FGSM
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X, y)
    >>> result = FGSM(eps=0.5, bounds=None).run(model, X, y)
    >>> result.fooled.mean() > 0.2
    np.True_
    >>> result.distortion.max() <= 0.5
    np.True_
    """

    X_adv: Any
    fooled: np.ndarray
    n_queries: np.ndarray
    distortion: np.ndarray


class Table:
    """The input at the door: a NumPy array to work on, and the way back.

    ``values`` is float32 or float64. ``restore`` gives rows back in the type and dtype
    that came in; integers are reached by rounding toward the original value, which
    keeps the result in the ball.
    """

    def __init__(self, X: Any) -> None:
        self._given = X if _is_frame(X) else None
        given = _frame_values(X) if _is_frame(X) else X
        given = check_array(given, allow_nd=True, dtype="numeric")
        self.dtype = given.dtype
        small = given.dtype in (np.float32, np.float16, np.uint8, np.int8)
        self.values = given.astype(np.float32 if small else np.float64)
        # the dtype of each column of a frame, or the one of an array
        kinds = [self.dtype] if self._given is None else _kinds(X)
        self._whole = np.array([k.kind in "iub" for k in kinds])
        self._narrow = [
            (i, k)
            for i, k in enumerate(kinds)
            if k.kind == "f" and k.itemsize < self.values.itemsize
        ]

    def __len__(self) -> int:
        return len(self.values)

    def settle(self, values: np.ndarray, rows: Any) -> np.ndarray:
        """Round what the given dtypes cannot hold toward the original."""
        start = self.values[rows]
        if self._whole.any():
            whole = start + np.trunc(values - start)
            values = np.where(self._whole, whole, values)
        for i, dtype in self._narrow:
            at = ... if self._given is None else (slice(None), i)
            values = values.copy()
            values[at] = _toward(start[at], values[at], dtype)
        return values

    def restore(self, values: np.ndarray, rows: Any = slice(None)) -> Any:
        """Return ``values``, settled already, as the given type had these rows."""
        if self._given is None:
            return values.astype(self.dtype)
        return _like_frame(self._given, values, rows)


def _is_frame(X: Any) -> bool:
    return hasattr(X, "columns") and hasattr(X, "to_numpy")


def _toward(start: np.ndarray, values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    cast = values.astype(dtype)
    far = np.abs(cast.astype(np.float64) - start) > np.abs(
        values.astype(np.float64) - start
    )
    return np.where(far, np.nextafter(cast, start.astype(dtype)), cast)


def _frame_values(X: Any) -> np.ndarray:
    bad = [c for c, t in zip(X.columns, _dtypes(X), strict=True) if not _numeric(t)]
    if bad:
        raise ValueError(
            f"The columns {bad} of X are not numeric. An attack changes numbers: "
            "encode them first, and attack the model behind the encoder."
        )
    return np.asarray(X.to_numpy())


def _dtypes(X: Any) -> list[Any]:
    return list(X.dtypes)


def _numeric(dtype: Any) -> bool:
    try:
        return np.dtype(str(dtype).lower()).kind in "iufb"
    except TypeError:
        return False


def _kinds(X: Any) -> list[np.dtype]:
    return [np.dtype(str(t).lower()) for t in _dtypes(X)]


def _like_frame(X: Any, values: np.ndarray, rows: Any) -> Any:
    if hasattr(X, "iloc"):
        part = X.iloc[rows].copy()
        for i, name in enumerate(part.columns):
            part.isetitem(i, values[:, i].astype(X.dtypes.iloc[i]))
            del name
        return part
    columns = [
        type(X[name])(name, values[:, i]).cast(X[name].dtype)
        for i, name in enumerate(X.columns)
    ]
    return type(X)(columns)


class Problem:
    """One call of ``run``: the model, the rows, their labels, and who counts as fooled.

    ``columns`` holds the column of each label among the model's classes, -1 for a label
    that the model does not know; ``genuine`` tells columns of genuine classes.
    """

    def __init__(self, attack: Any, estimator: Any, X: Any, y: Any) -> None:
        self.attack = attack
        self.estimator = estimator
        #: what answers, and what must not be alarmed (None where nothing rejects)
        self.model: Any = estimator
        self.detector: Any = None
        rejects = rejection_of(estimator)
        if rejects is not None:
            self.model, self.detector = rejects[0], unfrozen(rejects[1])
        self.table = Table(X)
        self.X = self.table.values
        self.targeted = check_flag(attack, "targeted", attack.targeted)
        self.norm = check_norm(attack, attack.norm)
        self.eps = check_eps(attack, attack.eps, self.X.shape[1:])
        low, high = check_bounds(attack, attack.bounds, self.X)
        # within an L2 ball, too, no feature moves further than eps
        self.lower, self.upper = limits(self.X, self.eps, low, high)
        self.classes = classes_of(estimator)
        genuine = genuine_classes_of(estimator)
        self.genuine_classes = genuine
        self.genuine = np.isin(self.classes, genuine)
        if y is None:
            if self.targeted:
                raise ValueError(
                    f"{type(attack).__name__}(targeted=True) needs y: the class that "
                    "each row is to be taken for."
                )
            y = self.predict(self.X)
        self.y = column_or_1d(y)
        if len(self.y) != len(self.X):
            raise ValueError(
                f"X has {len(self.X)} rows and y has {len(self.y)} labels."
            )
        at = np.searchsorted(self.classes, self.y).clip(0, len(self.classes) - 1)
        self.columns = np.where(self.classes[at] == self.y, at, -1)
        if self.targeted and (self.columns < 0).any():
            unknown = np.unique(self.y[self.columns < 0])
            raise ValueError(
                f"The targets {unknown.tolist()} are no classes of the model: "
                f"{self.classes.tolist()}."
            )

    def predict(self, values: np.ndarray, rows: Any = slice(None)) -> np.ndarray:
        """Return what the estimator's own ``predict`` says of ``values``."""
        return predict(self.estimator, self.table.restore(values, rows))

    def is_fooled(self, values: np.ndarray, rows: Any = slice(None)) -> np.ndarray:
        """Whether the attacker has what he wants, by the estimator's ``predict``."""
        answers = self.predict(values, rows)
        if self.targeted:
            return answers == self.y[rows]
        return (answers != self.y[rows]) & np.isin(answers, self.genuine_classes)

    def margin(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """How far the attacker is ahead, by the estimator's scores; above 0 he won."""
        given = self.table.restore(values, rows)
        ahead = margin_of(
            class_scores(self.model, given),
            self.columns[rows],
            self.genuine,
            targeted=self.targeted,
        )
        if self.detector is None:
            return ahead
        accepted = self.detector.decision_function(given) / self.detector.scale_
        # in the same units, so that the smaller of the two is worth working on
        return np.minimum(ahead, np.nextafter(accepted, np.inf))

    def settle(self, values: np.ndarray, rows: Any = slice(None)) -> np.ndarray:
        """Bring ``values`` into ball and box exactly, in the dtype that is returned."""
        values = np.clip(values, self.lower[rows], self.upper[rows])
        values = values.astype(self.X.dtype, copy=False)
        pulled = into_ball(values, self.X[rows], self.eps, self.norm)
        return self.table.settle(pulled, rows)

    def result(
        self, values: np.ndarray, fooled: np.ndarray, n_queries: np.ndarray
    ) -> AttackResult:
        """Pack what was found."""
        distortion = lengths(values.astype(np.float64) - self.X, self.norm)
        return AttackResult(self.table.restore(values), fooled, n_queries, distortion)


def margin_of(
    scores: np.ndarray, columns: np.ndarray, genuine: np.ndarray, *, targeted: bool
) -> np.ndarray:
    """Best score that serves the attacker minus the best that does not."""
    label = np.zeros(scores.shape, dtype=bool)
    label[np.arange(len(scores)), columns] = True
    wanted = label if targeted else genuine & ~label
    best = np.where(wanted, scores, -np.inf).max(axis=1)
    return best - np.where(wanted, -np.inf, scores).max(axis=1)


class Attack(BaseEstimator):
    """A way to change rows within a ball so that a model answers wrongly.

    Attacks are parameter objects: they hold no fitted state, and running one changes
    neither it nor the model.
    """

    def run(self, estimator: Any, X: Any, y: Any = None) -> AttackResult:
        """Attack each row of ``X``.

        Parameters
        ----------
        estimator : estimator
            A fitted classifier.
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows inside ``bounds``. Not changed.
        y : array-like of shape (n_samples,) or None, default=None
            True labels; for a targeted attack, the classes aimed at. None takes what
            the model answers on ``X`` for true.

        Returns
        -------
        result : AttackResult
            Attacked rows and what became of them.
        """
        with torch_generators_kept():
            problem = Problem(self, estimator, X, y)
            values = problem.X.copy()
            fooled = problem.is_fooled(values)
            n_queries = np.ones(len(values), dtype=np.int64)
            rows = np.flatnonzero(~fooled & (problem.columns >= 0))
            if len(rows):
                values[rows], fooled[rows], n_queries[rows] = self._search(
                    problem, rows
                )
            return problem.result(values, fooled, n_queries)

    def perturb(self, estimator: Any, X: Any, y: Any = None) -> Any:
        """Return attacked rows only: ``run(estimator, X, y).X_adv``.

        Parameters
        ----------
        estimator : estimator
            A fitted classifier.
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows inside ``bounds``. Not changed.
        y : array-like of shape (n_samples,) or None, default=None
            True labels; for a targeted attack, the classes aimed at. None takes what
            the model answers on ``X`` for true.

        Returns
        -------
        X_adv : array of the type, shape and dtype of ``X``
            Attacked rows.
        """
        return self.run(estimator, X, y).X_adv

    def rows_to_train_on(self, estimator: Any, X: Any, y: Any) -> Any:
        """Return attacked rows to learn from: of every row, made to the end.

        Unlike in ``run``, rows that are wrong already are attacked too, and attacks
        along the gradient let no row leave early.

        Parameters
        ----------
        estimator : estimator
            A fitted classifier, or one in training.
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows inside ``bounds``. Not changed.
        y : array-like of shape (n_samples,)
            True labels.

        Returns
        -------
        X_adv : array of the type, shape and dtype of ``X``
            Attacked rows.
        """
        with torch_generators_kept():
            problem = Problem(self, estimator, X, y)
            return problem.table.restore(self._train_on(problem))

    def _train_on(self, problem: Problem) -> np.ndarray:
        return self._search(problem, np.arange(len(problem.X)))[0]

    def _search(
        self, problem: Problem, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Attack ``rows``; return their values, who is fooled, and queries spent."""
        raise NotImplementedError
