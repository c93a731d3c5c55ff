"""What every attack shares: the result, the door, and the meaning of success."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils import check_array, column_or_1d

from sk_advdef._base import Documented
from sk_advdef._torch._models import (
    class_scores,
    classes_of,
    genuine_classes_of,
    predict,
    rejection_of,
    torch_generators_kept,
    unfrozen,
)
from sk_advdef._validation import check_flag, check_option, invalid
from sk_advdef.attacks._geometry import (
    NORMS,
    check_bounds,
    check_eps,
    into_ball,
    lengths,
    limits,
)

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


class Table:
    """The input at the door: a NumPy array to work on, and the way back.

    ``values`` is float32 or float64. ``restore`` gives rows back in the type and dtype
    that came in; integers are reached by rounding toward the original value, which
    keeps the result in the ball.
    """

    def __init__(self, X: Any, *, keep_text: bool = False) -> None:
        self._given: Any = X if _is_frame(X) else None
        #: positions of the numeric columns among all; the others are kept aside
        self.numeric: Any = _numeric_columns(X, keep_text) if _is_frame(X) else None
        #: names of all columns, None where there are none
        self.names: Any = list(X.columns) if _is_frame(X) else None
        given = X if self.numeric is None else _frame_values(X, self.numeric)
        given = check_array(given, allow_nd=True, dtype="numeric", input_name="X")
        self.dtype = given.dtype
        small = given.dtype in (np.float32, np.float16, np.uint8, np.int8)
        self.values = given.astype(np.float32 if small else np.float64)
        # the dtype of each column of a frame, or the one of an array
        kinds = [self.dtype] if self.numeric is None else _kinds(X, self.numeric)
        self._kinds = kinds
        if self.numeric is None:
            self.numeric = list(range(self.width))
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
        return _like_frame(self._given, values, rows, self.numeric)

    @property
    def width(self) -> int:
        """Number of columns, with those that are kept aside."""
        return self.values.shape[1] if self._given is None else len(self.names)

    @property
    def whole(self) -> np.ndarray:
        """Which numeric columns are of an integer or bool dtype."""
        return np.broadcast_to(self._whole, self.values.shape[1:])

    def kind(self, at: int) -> np.dtype:
        """Return the dtype that a numeric column came in."""
        return self._kinds[at if len(self._kinds) > 1 else 0]

    def cast(self, values: np.ndarray, at: int) -> np.ndarray:
        """Round float64 values of one column to what its dtype holds."""
        kind = self.kind(at)
        cast = values.astype(kind) if kind.kind == "f" else values
        return cast.astype(self.values.dtype)

    def same_text(self, other: Table) -> np.ndarray:
        """Tell for each row whether what is kept aside is the same in both."""
        same = np.ones(len(self), dtype=bool)
        if self._given is None:
            return same
        for i in set(range(len(self.names))) - set(self.numeric):
            name = self.names[i]
            mine, theirs = np.asarray(self._given[name]), np.asarray(other._given[name])
            same &= np.equal(mine, theirs, dtype=object).astype(bool)
        return same


def _is_frame(X: Any) -> bool:
    return hasattr(X, "columns") and hasattr(X, "to_numpy")


def _toward(start: np.ndarray, values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    cast = values.astype(dtype)
    far = np.abs(cast.astype(np.float64) - start) > np.abs(
        values.astype(np.float64) - start
    )
    return np.where(far, np.nextafter(cast, start.astype(dtype)), cast)


def _numeric_columns(X: Any, keep_text: bool) -> list[int]:
    numeric = [i for i, t in enumerate(_dtypes(X)) if _numeric(t)]
    if len(numeric) < len(X.columns) and not keep_text:
        bad = [c for i, c in enumerate(X.columns) if i not in numeric]
        raise ValueError(
            f"The columns {bad} of X are not numeric. An attack changes numbers: "
            "encode them first, and attack the model behind the encoder, or pass a "
            "FeatureSpace as space, which keeps them as they are."
        )
    return numeric


def _frame_values(X: Any, numeric: list[int]) -> np.ndarray:
    if len(numeric) < len(X.columns):
        X = X.iloc[:, numeric] if hasattr(X, "iloc") else X[:, numeric]
    return np.asarray(X.to_numpy())


def _dtypes(X: Any) -> list[Any]:
    return list(X.dtypes)


def _numeric(dtype: Any) -> bool:
    try:
        return _kind(dtype).kind in "iufb"
    except TypeError:
        return False


def _kind(dtype: Any) -> np.dtype:
    name = str(dtype).lower()
    return np.dtype("bool" if name == "boolean" else name)


def _kinds(X: Any, numeric: list[int]) -> list[np.dtype]:
    dtypes = _dtypes(X)
    return [_kind(dtypes[i]) for i in numeric]


def _like_frame(X: Any, values: np.ndarray, rows: Any, numeric: list[int]) -> Any:
    if hasattr(X, "iloc"):
        first = X.dtypes.iloc[0]
        # one block of NumPy's is made at once: a call for each column takes far longer
        if isinstance(first, np.dtype) and (X.dtypes == first).all():
            index = X.index[rows]
            return type(X)(values.astype(first), index=index, columns=X.columns)
        part = X.iloc[rows].copy()
        for at, i in enumerate(numeric):
            part.isetitem(i, values[:, at].astype(X.dtypes.iloc[i]))
        return part
    columns = [X[name][rows] for name in X.columns]
    for at, i in enumerate(numeric):
        old = columns[i]
        columns[i] = type(old)(old.name, values[:, at]).cast(old.dtype)
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
        space = space_of(attack)
        self.table = Table(X) if space is None else space._table(X)
        self.X = self.table.values
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
            self.lower, self.upper = limits(self.X, self.eps, *box)
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
        at = np.searchsorted(self.classes, self.y).clip(0, len(self.classes) - 1)
        self.columns = np.where(self.classes[at] == self.y, at, -1)
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
            class_scores(self.model, given),
            self.columns[rows],
            ~self.genuine if self.reject else self.genuine,
            targeted=self.targeted,
        )
        if self.detector is None:
            return ahead
        accepted = self.detector.decision_function(given) / self.detector.scale_
        # in the same units, so that the smaller of the two is worth working on
        return np.minimum(ahead, np.nextafter(accepted, np.inf))

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
        return self.table.settle(pulled, rows)

    def result(
        self, values: np.ndarray, fooled: np.ndarray, n_queries: np.ndarray
    ) -> AttackResult:
        """Pack what was found."""
        distortion = lengths(values.astype(np.float64) - self.X, self.norm)
        return AttackResult(self.table.restore(values), fooled, n_queries, distortion)


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
