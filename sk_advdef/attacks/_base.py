"""What every attack shares: the result, and the meaning of success."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from sklearn.utils import _safe_indexing, column_or_1d

from sk_advdef._base import Documented
from sk_advdef._torch._models import (
    class_scores,
    classes_of,
    genuine_classes_of,
    logits_of,
    predict,
    rejection_of,
    torch_generators_kept,
    unfrozen,
    with_gradients,
)
from sk_advdef._validation import (
    check_flag,
    check_model,
    check_option,
    invalid,
    kinds_in,
)
from sk_advdef.attacks._geometry import (
    NORMS,
    check_bounds,
    check_eps,
    into_ball,
    lengths,
    limits,
    shortened_to_ball,
)
from sk_advdef.attacks._table import Table, as_rows, check_columns

GOALS = ("fool", "reject")


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


class Problem:
    """One call of ``run``: the model, the rows, their labels, and who counts as fooled.

    ``columns`` holds the column of each label among the model's classes, -1 for a label
    that the model does not know; ``genuine`` tells columns of genuine classes.
    """

    def __init__(self, attack: Any, estimator: Any, X: Any, y: Any) -> None:
        check_model(attack, estimator)
        self.attack = attack
        self.estimator = estimator
        #: what answers, and what must not be alarmed (None where nothing rejects)
        self.model: Any = estimator
        self.detector: Any = None
        rejects = rejection_of(estimator)
        if rejects is not None:
            self.model, self.detector = rejects[0], unfrozen(rejects[1])
        space = space_of(attack)
        self._asked: Any = None
        self.table = Table(X) if space is None else space._table(X)
        self.X = self.table.values
        if attack._knows == "all":
            check_columns(attack, self.model, X)
        self.targeted = check_flag(attack, "targeted", attack.targeted)
        goal = check_option(attack, "goal", getattr(attack, "goal", "fool"), GOALS)
        self.reject = goal == "reject"
        self.norm = check_option(attack, "norm", attack.norm, attack._norms)
        eps = getattr(attack, "eps", None)
        if eps is None and (attack._eps_optional or _brings(space, "eps")):
            self.eps = np.asarray(np.inf)
        else:
            self.eps = check_eps(attack, eps, self.X.shape[1:])
        box = None
        if not _brings(space, "bounds"):
            box = check_bounds(attack, attack.bounds, self.X)
        #: what the space allows, None where there is none
        self.rules: Any = None
        if space is None:
            assert box is not None
            # within an L2 ball, too, no feature moves further than eps
            self.lower, self.upper = limits(self.X, self.eps, *self.table.held(*box))
        else:
            self._obey(space, box)
        self.classes = classes_of(estimator)
        genuine = genuine_classes_of(estimator)
        self.genuine_classes = genuine
        self.genuine = np.isin(self.classes, genuine)
        if self.reject and (
            self.targeted or (self.detector is None and self.genuine.all())
        ):
            raise ValueError(
                f'goal="reject" of {type(attack).__name__} needs an estimator that '
                "rejects or has an adversarial class, and no target."
            )
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
        self.columns = _columns_of(self.y, self.classes)
        if self.targeted and (self.columns < 0).any():
            unknown = np.unique(self.y[self.columns < 0])
            raise ValueError(
                f"The targets {unknown.tolist()} are no classes of the model: "
                f"{self.classes.tolist()}."
            )

    def _obey(self, space: Any, box: Any) -> None:
        from sk_advdef.attacks._space_rules import Rules

        if space.eps is not None and getattr(self.attack, "eps", None) is not None:
            raise ValueError(
                f"Both {type(self.attack).__name__} and its space bring eps. Set "
                "eps=None on the attack, or leave eps out of the FeatureSpace."
            )
        self.rules = Rules(space, self.table, eps=self.eps, box=box, norm=self.norm)
        self.lower, self.upper = self.rules.lower, self.rules.upper
        self.eps = self.rules.reach
        if not (np.isfinite(self.eps).all() or self.attack._eps_optional):
            raise ValueError(
                "An infinite eps of a FeatureSpace needs finite bounds of the feature."
            )

    def never_moved(self) -> list[Any]:
        """Return the columns of whole numbers that the ball ends too near to change."""
        if self.X.ndim != 2:
            return []
        width = self.X.shape[1]
        free = np.broadcast_to(self.eps > 0, width)
        whole = self.table.whole if self.rules is None else self.rules.whole
        room = np.maximum(self.upper - self.X, self.X - self.lower).max(axis=0)
        at = np.flatnonzero(whole & free & (room < 1))
        names = self.table.names
        places = [self.table.numeric[i] for i in at]
        return places if names is None else [names[i] for i in places]

    def predict(self, values: np.ndarray, rows: Any = slice(None)) -> np.ndarray:
        """Return what the estimator's own ``predict`` says of ``values``."""
        return predict(self.estimator, self.table.restore(values, rows))

    def is_fooled(self, values: np.ndarray, rows: Any = slice(None)) -> np.ndarray:
        """Whether the attacker has what he wants, by the estimator's ``predict``."""
        answers = self.predict(values, rows)
        if self.reject:
            return ~np.isin(answers, self.genuine_classes)
        if self.targeted:
            return answers == self.y[rows]
        return (answers != self.y[rows]) & np.isin(answers, self.genuine_classes)

    def margin(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """How far the attacker is ahead, by the estimator's scores; above 0 he won."""
        given = self.table.restore(values, rows)
        if self.detector is not None and self.reject:
            return -self.detector.decision_function(given) / self.detector.scale_
        ahead = margin_of(
            self._scores(given),
            self.columns[rows],
            ~self.genuine if self.reject else self.genuine,
            targeted=self.targeted,
        )
        if self.detector is None:
            return ahead
        accepted = self.detector.decision_function(given) / self.detector.scale_
        # in the same units, so that the smaller of the two is worth working on
        return np.minimum(ahead, np.nextafter(accepted, np.inf))

    def _scores(self, given: Any) -> np.ndarray:
        """Return a score for each class: of a net the logits, where there are any.

        The softmax of skorch is one of float32, which is exactly 0 for classes far
        behind: asked for it, one would not know which way is up.
        """
        if self._asked is None:
            self._asked = logits_of(self.model) or partial(class_scores, self.model)
        return self._asked(given)

    def rows_to_resemble(self) -> np.ndarray:
        """For each row, the nearest one that is accepted and of a class wanted."""
        from sk_advdef.attacks._accepted import nearest_of_wrong_class

        given = self.table.restore(self.X)
        answers = self.predict(self.X)
        usable = np.isin(answers, self.genuine_classes)
        if self.detector is not None:
            usable &= self.detector.predict(given) == 1
        return nearest_of_wrong_class(
            self.X, answers, self.y, usable, same=self.targeted
        )

    def settle(
        self, values: np.ndarray, rows: Any = slice(None), gain: Any = None
    ) -> np.ndarray:
        """Bring ``values`` into ball, box and space exactly, in the returned dtype.

        ``gain`` tells what a rise of each feature is worth, for a space that has to
        choose.
        """
        if self.rules is not None:
            return self.rules.settle(values, rows, gain)
        values = np.clip(values, self.lower[rows], self.upper[rows])
        values = values.astype(self.X.dtype, copy=False)
        pulled = into_ball(values, self.X[rows], self.eps, self.norm)
        if self.table.whole.any():
            pulled = self._rounded(pulled, rows)
        return self.table.settle(pulled, rows)

    def _rounded(self, values: np.ndarray, rows: Any) -> np.ndarray:
        """Round whole numbers to the nearest inside ball and box."""
        start, whole = self.X[rows].astype(np.float64), self.table.whole
        low, high = self.lower[rows], self.upper[rows]
        if self.norm == "linf":
            low = np.maximum(low, start - self.eps)
            high = np.minimum(high, start + self.eps)
        delta = values - start
        to = np.clip(np.rint(values), np.ceil(low), np.floor(high)) - start
        to = np.where(whole, to, delta)
        if self.norm == "l2" and np.isfinite(self.eps).any():
            to = shortened_to_ball(to, delta, self.eps)
        return np.where(whole, start + to, values).astype(values.dtype)

    def result(
        self, values: np.ndarray, fooled: np.ndarray, n_queries: np.ndarray
    ) -> AttackResult:
        """Pack what was found."""
        distortion = lengths(values.astype(np.float64) - self.X, self.norm)
        return AttackResult(self.table.restore(values), fooled, n_queries, distortion)


def _columns_of(y: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the column of each label, -1 for one that the model does not know."""
    try:
        if len(y) and _is_text(classes) != _is_text(y):
            raise TypeError  # NumPy would compare numbers as text
        order = np.argsort(classes, kind="stable")  # not everybody sorts them
        at = np.searchsorted(classes, y, sorter=order).clip(0, len(classes) - 1)
    except TypeError:
        raise TypeError(
            "The labels in y must be of the kind of the model's classes, "
            f"{classes[:5].tolist()}. Got {kinds_in(y)} instead."
        ) from None
    return np.where(classes[order[at]] == y, order[at], -1)


def _is_text(labels: np.ndarray) -> bool:
    return labels.dtype.kind in "US" or (
        labels.dtype.kind == "O" and isinstance(labels[0], str)
    )


def space_of(attack: Any) -> Any:
    """Return the space of an attack, None where it has none."""
    from sk_advdef.attacks._space import FeatureSpace

    space = getattr(attack, "space", None)
    if space is not None and not isinstance(space, FeatureSpace):
        raise invalid(attack, "space", "a FeatureSpace or None", space)
    return space


def _brings(space: Any, name: str) -> bool:
    return space is not None and getattr(space, name) is not None


def margin_of(
    scores: np.ndarray, columns: np.ndarray, genuine: np.ndarray, *, targeted: bool
) -> np.ndarray:
    """Best score that serves the attacker minus the best that does not."""
    label = np.zeros(scores.shape, dtype=bool)
    label[np.arange(len(scores)), columns] = True
    wanted = label if targeted else genuine & ~label
    best = np.where(wanted, scores, -np.inf).max(axis=1)
    return best - np.where(wanted, -np.inf, scores).max(axis=1)


class Attack(Documented):
    """A way to change rows within a ball so that a model answers wrongly.

    Attacks are parameter objects: they hold no fitted state, and running one changes
    neither it nor the model.
    """

    #: whether the attack works without a ball, in the box alone
    _eps_optional = False
    _norms: tuple[str, ...] = NORMS
    #: what the attacker knows of the estimator
    _knows = "all"

    @with_gradients
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

    @with_gradients
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
            known = np.flatnonzero(problem.columns >= 0)
            if len(known) == len(problem.X):
                return problem.table.restore(self._train_on(problem))
            # what the model does not know it answers wrong, whatever is done
            values = problem.X.copy()
            if len(known):
                part = _safe_indexing(as_rows(X), known), problem.y[known]
                values[known] = self._train_on(Problem(self, estimator, *part))
            return problem.table.restore(values)

    def _train_on(self, problem: Problem) -> np.ndarray:
        return self._search(problem, np.arange(len(problem.X)))[0]

    def _search(
        self, problem: Problem, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Attack ``rows``; return their values, who is fooled, and queries spent."""
        raise NotImplementedError
