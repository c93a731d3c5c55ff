"""Defensive distillation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from scipy.special import softmax
from sklearn.base import clone
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted

from sk_advdef._torch._models import classes_of, is_frozen, is_net
from sk_advdef._validation import check_number, seed_from
from sk_advdef.training._base import (
    TrainingClassifier,
    fit_net,
    has_sample_weight,
    weight_argument,
)

#: Stands for the log of 0, which stays 0 at any temperature, but gives no NaN.
LOG_OF_ZERO = -1e9

#: Copies of each row that a student without sample weights gets.
COPIES = 10


def log_proba(model: Any, X: Any) -> np.ndarray:
    """Log of the class probabilities, up to a constant a row; of nets, the logits."""
    if is_net(model):
        from sk_advdef._torch._net import locate_net, net_scores, transformed

        before, net, n_classes = locate_net(model)
        return net_scores(net, transformed(before, X), n_classes).astype(np.float64)
    proba = np.asarray(model.predict_proba(X), dtype=np.float64)
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(proba), LOG_OF_ZERO)


def soften(log_probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Class probabilities at a temperature: ``p ** (1 / T)``, made to sum to one."""
    return softmax(log_probabilities / temperature, axis=1)


def draw_labels(soft: np.ndarray, copies: int, rng: np.random.Generator) -> np.ndarray:
    """Draw labels for copies of each row, as near to the soft labels as copies allow.

    Systematic sampling: a class of probability ``p`` gets ``floor(p * copies)`` or one
    more. Returns positions of classes, shape (copies, n_samples).
    """
    points = (np.arange(copies)[:, None] + rng.random(len(soft))) / copies
    edges = np.cumsum(soft, axis=1)
    edges[:, -1] = np.inf
    return (points[:, :, None] >= edges).sum(axis=2)


class DistilledClassifier(TrainingClassifier):
    """Defensive distillation: a student learns a teacher's softened answers.

    A teacher is trained at temperature ``T``, its class probabilities at that
    temperature become the labels of a student, which is trained at ``T`` and used at
    temperature 1 [1]_. For nets the temperature divides the logits, in training. Any
    other classifier has no logits: the teacher's probabilities ``p`` become
    ``p ** (1 / T)`` made to sum to one, the student learns on rows weighted by them,
    and its answers are sharpened by ``p ** T``.

    Parameters
    ----------
    estimator : net or classifier
        The student, and the teacher where there is no other. A skorch net, any
        classifier with ``predict_proba``, or a Pipeline that ends in either.
    temperature : float, default=20.0
        Temperature, in [1, inf). 1 is plain distillation.
    teacher : net, classifier or None, default=None
        Another teacher, to be fitted, or ``FrozenEstimator(model)`` for one that is
        fitted already. None is a clone of ``estimator``.
    random_state : int, RandomState instance or None, default=None
        Seeds the training of nets and the drawing of labels.

    Attributes
    ----------
    estimator_ : estimator
        The fitted student.
    teacher_ : estimator
        The fitted teacher.
    classes_ : ndarray of shape (n_classes,)
        Sorted labels.
    n_features_in_ : int
        Number of features seen in ``fit`` (for stacked images, their first axis).
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen in ``fit``, where ``X`` has names that are all strings.

    Raises
    ------
    ValueError
        If ``estimator`` is frozen, or the teacher does not know a class of ``y``.

    See Also
    --------
    AdversariallyAugmentedClassifier : Train on attacked rows.

    Notes
    -----
    A student that takes no ``sample_weight`` learns on 10 copies of each row with
    labels drawn from the soft ones, which is coarse for high temperatures.

    **What an adaptive attacker does to it**: distillation hides gradients and does not
    make the model harder to fool. At temperature 1 the logits are about ``T`` times
    larger, the softmax saturates, and cross-entropy has no gradient left. One who takes
    the margin of logits instead, or asks for scores only, fools it about as often as
    the undefended model [2]_.

    References
    ----------
    .. [1] N. Papernot, P. McDaniel, X. Wu, S. Jha, A. Swami, "Distillation as a Defense
       to Adversarial Perturbations against Deep Neural Networks", S&P 2016,
       arXiv:1511.04508.
    .. [2] N. Carlini, D. Wagner, "Defensive Distillation is Not Robust to Adversarial
       Examples", 2016, arXiv:1607.04311.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sk_advdef import DistilledClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> student = LogisticRegression(C=100, max_iter=1000)
    >>> model = DistilledClassifier(student, temperature=5).fit(X, y)
    >>> model.score(X, y) > 0.9
    True
    """

    def __init__(
        self,
        estimator: Any,
        *,
        temperature: float = 20.0,
        teacher: Any = None,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.temperature = temperature
        self.teacher = teacher
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> DistilledClassifier:
        """Train the teacher, then the student on its softened answers.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.
        y : array-like of shape (n_samples,)
            Labels.

        Returns
        -------
        self : DistilledClassifier
            The fitted classifier.
        """
        check_number(self, "temperature", self.temperature, low=1)
        X, y = self._checked(X, y)
        seed = seed_from(self.random_state)
        self.teacher_ = self._fitted_teacher(X, y, seed)
        classes = np.unique(y)
        soft = self._soft_labels(X, classes)
        self.estimator_ = self._fitted_student(X, y, soft, classes, seed)
        self.classes_ = classes_of(self.estimator_)
        return self

    def _fitted_teacher(self, X: Any, y: np.ndarray, seed: int) -> Any:
        teacher = self.estimator if self.teacher is None else self.teacher
        if is_frozen(teacher):
            return teacher
        if is_net(teacher):
            hot = partial(_at_temperature, temperature=self.temperature)
            return fit_net(teacher, X, y, seed, hot)
        return clone(teacher).fit(X, y)

    def _soft_labels(self, X: Any, classes: np.ndarray) -> np.ndarray:
        known = classes_of(self.teacher_)
        unknown = np.setdiff1d(classes, known)
        if len(unknown):
            raise ValueError(
                f"y has the classes {unknown.tolist()}, which the teacher does not "
                f"know: {known.tolist()}. Use a teacher that was fitted on all classes."
            )
        columns = np.searchsorted(known, classes)
        return soften(log_proba(self.teacher_, X)[:, columns], self.temperature)

    def _fitted_student(
        self, X: Any, y: Any, soft: np.ndarray, classes: np.ndarray, seed: int
    ) -> Any:
        if is_net(self.estimator):
            hot = partial(_at_temperature, temperature=self.temperature, soft=soft)
            return fit_net(self.estimator, X, y, seed + 1, hot)
        student = clone(self.estimator)
        n, k = soft.shape
        if has_sample_weight(student):
            rows, labels = np.tile(np.arange(n), k), np.repeat(classes, n)
            weights = {weight_argument(student): soft.T.ravel()}
        else:
            rows, weights = np.tile(np.arange(n), COPIES), {}
            drawn = draw_labels(soft, COPIES, np.random.default_rng(seed))
            labels = classes[drawn.ravel()]
        return student.fit(_safe_indexing(X, rows), labels, **weights)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return class probabilities of the student at temperature 1.

        They saturate: most are within rounding of 0 or 1.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            Rows sum to one; columns as in ``classes_``.
        """
        check_is_fitted(self)
        X = self._rows(X)
        if is_net(self.estimator):
            return self.estimator_.predict_proba(X)
        return soften(log_proba(self.estimator_, X), 1 / self.temperature)

    def predict(self, X: Any) -> np.ndarray:
        """Return the student's answers.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            Labels.
        """
        check_is_fitted(self)
        return self.estimator_.predict(self._rows(X))

    def _as_module(self) -> Any:
        from sk_advdef._torch._registry import build
        from sk_advdef._torch._views import times

        view = build(self.estimator_)
        return view if is_net(self.estimator) else times(view, self.temperature)


@contextmanager
def _at_temperature(
    net: Any,
    X: np.ndarray,
    codes: np.ndarray,
    *,
    temperature: float,
    before: list[Any],
    soft: np.ndarray | None = None,
) -> Iterator[Any]:
    """Let a net train with its logits divided by ``temperature``.

    With ``soft``, on these labels: rows then carry their number, by which the loss
    finds the soft label, while what callbacks score goes on with the hard one.
    """
    import torch

    from sk_advdef._torch._net import hooked, output_kind, view_of_net

    kind = output_kind(net)
    scores_of = view_of_net(net).scores
    targets = None if soft is None else torch.tensor(soft, dtype=torch.float32)

    def infer(original: Any, x: Any, **params: Any) -> Any:
        return original(x["x"] if isinstance(x, dict) else x, **params)

    def get_loss(
        original: Any, y_pred: Any, y_true: Any, X: Any = None, **more: Any
    ) -> Any:
        target, many = y_true, isinstance(y_pred, tuple)
        logits = y_pred[0] if many else y_pred
        if targets is not None:
            target = targets[X["row"].cpu()]
            spare = logits.shape[1] - target.shape[1] if kind == "logits" else 0
            target = torch.nn.functional.pad(target, (0, spare))
        if kind == "logits":
            cooled = logits / temperature
            y_pred = (cooled, *y_pred[1:]) if many else cooled
            return original(y_pred, target.to(cooled.device), X=X, **more)
        scores = scores_of(logits)
        if target.ndim == 1:
            target = target.long()
        return torch.nn.functional.cross_entropy(
            scores / temperature, target.to(scores.device)
        )

    with hooked(net, infer=infer, get_loss=get_loss):
        yield X if soft is None else {"x": X, "row": np.arange(len(X))}
