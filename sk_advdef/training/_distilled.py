"""Defensive distillation."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import issparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC, NuSVC
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted

from sk_advdef._base import all_or_nothing
from sk_advdef._torch._fingerprint import (
    check_memory_parameter,
    fingerprint,
    remembered,
)
from sk_advdef._torch._models import (
    classes_of,
    is_frozen,
    is_net,
    last_step,
)
from sk_advdef._validation import check_number, seed_from, with_seed
from sk_advdef.training._base import (
    TrainingClassifier,
    fit_net,
    has_sample_weight,
    kept_together,
)
from sk_advdef.training._class_weights import (
    brought,
    weighs,
    weights_asked_for,
    without,
)
from sk_advdef.training._teachers import (
    Teachers,
    answers,
    fit_teacher,
    soft_labels,
    teachers_of,
)
from sk_advdef.training._temperature import at_temperature, log_proba, soften

#: Copies of each row that a student without sample weights gets.
COPIES = 10

#: Smallest weight of a row: no label of a student's is without one.
LEAST_WEIGHT = 1e-12

#: Rows of the training set on which what was learned is looked at.
WATCHED_ROWS = 1000

#: Share of a class from which on always to answer it is no sign of a failure.
MOSTLY_ONE = 0.9

#: Rows that can tell whether anything was learned.
ENOUGH_ROWS = 200


def draw_labels(
    soft: np.ndarray, copies: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw labels for copies of each row, as near to the soft labels as copies allow.

    Systematic sampling: a class of probability ``p`` gets ``floor(p * copies)`` or one
    more. Returns for each copy the position of its row and of its class.
    """
    rows = np.repeat(np.arange(len(soft)), copies)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(copies) - copies, copies)
    points = (place + rng.random(len(soft))[rows]) / copies[rows]
    edges = np.cumsum(soft, axis=1)
    edges[:, -1] = np.inf
    return rows, (points[:, None] >= edges[rows]).sum(axis=1)


def copies_of(weight: np.ndarray) -> np.ndarray:
    """Return how many copies a row of this weight gets, at least one."""
    share = np.cumsum(COPIES * weight / weight.mean())
    return np.maximum(np.diff(np.round(share), prepend=0), 1).astype(int)


class SoftLabels(NamedTuple):
    """What a student is to learn of each row, as the weight of each of ``classes``."""

    classes: np.ndarray
    weights: np.ndarray


def fit_on_soft(
    student: Any, X: Any, y: np.ndarray, labels: SoftLabels, rng: np.random.Generator
) -> Any:
    """Fit a classifier, or the last step of a Pipeline, on soft labels, in place.

    The steps before are fitted on the rows as they are.
    """
    if isinstance(student, Pipeline):
        if len(student) > 1:
            before = student[:-1]
            X = before.fit_transform(X, y)
            X = X.tocsr() if issparse(X) else X
            student.steps = [*before.steps, student.steps[-1]]
        fit_on_soft(student.steps[-1][1], X, y, labels, rng)
        return student
    classes, weights = labels.classes, labels.weights
    if not has_sample_weight(student):
        whole = weights.sum(axis=1)
        copies = copies_of(whole)
        rows, columns = draw_labels(weights / whole[:, None], copies, rng)
        again, untold = _untold(columns, y, classes)
        columns[(np.cumsum(copies) - copies)[again]] = untold
        at = kept_together(student, rows, rng)
        return student.fit(_safe_indexing(X, rows[at]), classes[columns[at]])
    # a row of weight 0 would still count, as one of a leaf for instance
    rows, columns = np.nonzero(weights)
    more = _untold(columns, y, classes)
    rows, columns = np.append(rows, more[0]), np.append(columns, more[1])
    at = kept_together(student, rows, rng)
    rows, columns = rows[at], columns[at]
    weight = np.maximum(weights[rows, columns], LEAST_WEIGHT)
    return student.fit(_safe_indexing(X, rows), classes[columns], sample_weight=weight)


def _untold(
    columns: np.ndarray, y: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of classes that no soft label has, and these classes.

    A student that never saw one of them would not know it.
    """
    untold = np.setdiff1d(np.arange(len(classes)), columns)
    codes = np.searchsorted(classes, y)
    rows = np.flatnonzero(np.isin(codes, untold))
    return rows, codes[rows]


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
    teacher : net, classifier, list of them, or None, default=None
        Another teacher, to be fitted, or ``FrozenEstimator(model)`` for one that is
        fitted already. Several in a list, or in a VotingClassifier with its weights,
        teach by the mean of their softened probabilities, each fitted by itself. An
        ensemble of another kind is one classifier. None is a clone of ``estimator``.
    alpha : float, default=1.0
        Part of the teacher in the labels of the student, in [0, 1]; the rest is the
        true label. 1 is the paper's.
    memory : str, joblib.Memory or None, default=None
        Where to keep fitted teachers and their answers, as a folder or a Memory, so
        that a search over the student or ``alpha`` fits them once. They are found
        again by what they are, their weights, the rows and the labels.
    random_state : int, RandomState instance or None, default=None
        Seeds the training of nets, the drawing of labels and, in classifiers that are
        no nets, each ``random_state`` that is None.

    Attributes
    ----------
    estimator_ : estimator
        The fitted student.
    teacher_ : estimator or list
        The fitted teacher; a list where ``teacher`` is one, or a VotingClassifier that
        was not fitted.
    history_ : list of dict
        How training went. "model" says whose entry it is: "teacher", or "teacher 0",
        "teacher 1" and so on, then "student". A net has an entry an epoch, with all
        that it recorded; another classifier has one, with its accuracy on up to 1,000
        rows of the training set; a frozen one has none.
    saturated_ : float
        Share of up to 1,000 rows of the training set whose largest probability rounds
        to 1 in float32: there ``predict_proba`` says no more than ``predict``, and
        cross-entropy has no gradient.
    temperature_ : float
        Temperature that the student was trained at.
    classes_ : ndarray of shape (n_classes,)
        Sorted labels.
    n_features_in_ : int
        Number of features seen in ``fit`` (for stacked images, their first axis).
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen in ``fit``, where ``X`` has names that are all strings.

    Raises
    ------
    ValueError
        If ``estimator`` is frozen, sets a threshold of its own or is an SVC with
        ``probability=True``, a teacher does not know a class of ``y``, or a net has a
        criterion that takes no soft labels, such as a subclass of ``NLLLoss``.
    TypeError
        If the student or a teacher is no net and has no ``predict_proba``.

    See Also
    --------
    AdversariallyAugmentedClassifier : Train on attacked rows.

    Notes
    -----
    A student that takes ``sample_weight`` learns on each row once a class of a weight
    above 0; limits such as ``min_samples_leaf`` count these. Class weights and priors
    of its own, and of what a Pipeline, a search or BaggingClassifier ends in, are those
    of ``y`` and weigh the labels; they are not counted again where a teacher has some.
    One that takes none learns on 10 copies of each row with labels drawn from the soft
    ones, which is coarse for high temperatures; among nearest neighbours a row's own
    copies are the nearest, so that 10 times as many are needed. Either way a search
    belongs around this classifier, not into ``estimator``, where copies of a row could
    fall on both sides of a split. Steps of a Pipeline before the last learn on the rows
    as they are.

    Gradients of logits that are divided by ``T`` are ``T`` times smaller, and so is
    what plain SGD learns in an epoch: give a net a larger ``lr``, more epochs, or Adam.
    One that is right no more often than the most frequent class alone, on 200 rows or
    more of the training set, gets a UserWarning, unless nine of ten rows are of that
    class: look at ``history_`` there.

    A teacher that is nearly sure of its own training rows has little to tell at low
    temperatures, and one whose probabilities are 0 or 1 (a full-grown tree) nothing at
    any: 0 stays 0.

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
        alpha: float = 1.0,
        memory: Any = None,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.temperature = temperature
        self.teacher = teacher
        self.alpha = alpha
        self.memory = memory
        self.random_state = random_state

    @all_or_nothing
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
        check_number(self, "alpha", self.alpha, low=0, high=1)
        check_memory_parameter(self, self.memory)
        X, y = self._checked(X, y)
        self._refuse_student()
        given = copy.deepcopy(self.random_state)  # drawing a seed may move it on
        seed = seed_from(self.random_state)
        classes = np.unique(y)
        teachers = teachers_of(self, self._teacher())
        fitted, voices = self._taught(teachers, X, y, classes, given, seed)
        self.teacher_ = fitted if teachers.several else fitted[0]
        labels = self._labels_to_learn(teachers, voices, y, classes)
        self.estimator_ = self._fitted_student(X, y, labels, seed)
        self.temperature_ = float(self.temperature)
        self.classes_ = classes_of(self.estimator_)
        self._look_back(X, y, fitted, voices, classes, seed)
        return self

    def _teacher(self) -> Any:
        return self.estimator if self.teacher is None else self.teacher

    def _taught(
        self,
        teachers: Teachers,
        X: Any,
        y: np.ndarray,
        classes: np.ndarray,
        given: Any,
        seed: int,
    ) -> tuple[list[Any], Any]:
        """Return fitted teachers and their answers on the rows."""
        frozen = [is_frozen(model) for model in teachers.models]

        def key() -> str:
            # of what only the labels hang on, nothing
            temperature = self.temperature if teachers.hang_on_temperature else None
            models = list(zip(frozen, teachers.models, strict=True))
            return fingerprint("teachers", models, temperature, given, X, y)

        def compute() -> tuple[list[Any], Any]:
            # the student has the seed after the first
            seeds = [seed, *range(seed + 2, seed + 1 + len(frozen))]
            fitted = [
                fit_teacher(model, X, y, own, self.temperature)
                for model, own in zip(teachers.models, seeds, strict=True)
            ]
            voices = [answers(model, X, classes) for model in fitted]
            kept = [None if f else m for f, m in zip(frozen, fitted, strict=True)]
            return kept, voices

        kept, voices = remembered(self.memory, key, compute)
        fitted = [
            model if is_frozen(model) else own
            for model, own in zip(teachers.models, kept, strict=True)
        ]
        return fitted, voices

    def _labels_to_learn(
        self, teachers: Teachers, voices: Any, y: np.ndarray, classes: np.ndarray
    ) -> SoftLabels:
        """Mix soft and true labels, each with the classes weighed once."""
        weight = weights_asked_for(self.estimator, y)
        weighed = [weighs(model, y) for model in teachers.models]
        soft = soft_labels(teachers, voices, self.temperature, weight, weighed)
        true = (y[:, None] == classes) * weight
        # together they count as much as with the true labels alone
        soft *= true.sum(axis=1).mean()
        return SoftLabels(classes, self.alpha * soft + (1 - self.alpha) * true)

    def _refuse_student(self) -> None:
        last = last_step(self.estimator)
        parts = [last, *last.get_params().values()]
        if isinstance(last, CalibratedClassifierCV):
            parts = []  # it reads their decision values
        if any(isinstance(one, (SVC, NuSVC)) and _scales(one) for one in parts):
            raise ValueError(
                f"{type(self).__name__} cannot teach probabilities to SVC or NuSVC "
                "with probability=True: libsvm scales scores by folds of its own, in "
                "which what belongs to one row stands on both sides, and takes no "
                "weights. Use CalibratedClassifierCV(SVC())."
            )
        if isinstance(last, (FixedThresholdClassifier, TunedThresholdClassifierCV)):
            name = type(last).__name__
            raise ValueError(
                f"The threshold of {name} within {type(self).__name__} would part "
                "probabilities at the temperature, not those that predict_proba "
                f"returns. Put {name} around {type(self).__name__}."
            )

    def _fitted_student(self, X: Any, y: Any, labels: SoftLabels, seed: int) -> Any:
        own = brought(self.estimator)
        # its weights are in the labels
        student = without(self.estimator) if own else self.estimator
        if is_net(student):
            soft = labels.weights / labels.weights.sum(axis=1).mean()
            hot = partial(at_temperature, temperature=self.temperature, soft=soft)
            return fit_net(student, X, y, seed + 1, hot)
        student = with_seed(clone(student), seed + 1)
        rng = np.random.default_rng(seed)
        # the weights are ours, whatever the steps of a Pipeline ask to be routed
        with config_context(enable_metadata_routing=False):
            student = fit_on_soft(student, X, y, labels, rng)
        return student.set_params(**{one.name: one.value for one in own})

    def _look_back(
        self,
        X: Any,
        y: np.ndarray,
        fitted: list[Any],
        voices: Any,
        classes: np.ndarray,
        seed: int,
    ) -> None:
        """Note how training went, and where the answers saturate."""
        rows = np.random.default_rng(seed).permutation(len(y))[:WATCHED_ROWS]
        proba = self._proba(_safe_indexing(X, rows))
        self.saturated_ = float((proba.max(axis=1).astype(np.float32) == 1).mean())
        self.history_: list[dict[str, Any]] = []
        several = isinstance(self.teacher_, list)
        for i, (model, own) in enumerate(zip(fitted, voices, strict=True)):
            if not is_frozen(model):
                said = classes[own[0][1][rows].argmax(axis=1)]
                name = f"teacher {i}" if several else "teacher"
                self._look_at(name, model, said, y[rows])
        said = self.estimator_.predict(_safe_indexing(X, rows))
        self._look_at("student", self.estimator_, said, y[rows])

    def _look_at(self, name: str, model: Any, said: np.ndarray, y: np.ndarray) -> None:
        self.history_ += _entries(name, model, said == y)
        shares = np.unique(y, return_counts=True)[1] / len(y)
        right, often = float((said == y).mean()), float(shares.max())
        told = is_net(model) and self.temperature > 1 and len(y) >= ENOUGH_ROWS
        # one that weighs classes may be right less often and have learned much
        models = [self.estimator, *teachers_of(self, self._teacher()).models]
        constant = len(np.unique(said)) == 1 or not any(map(brought, models))
        if told and constant and right <= often < MOSTLY_ONE:
            warnings.warn(
                f"The {name} of DistilledClassifier is right on {right:.1%} of its "
                f"training rows, and the most frequent class alone on {often:.1%}. "
                f"Logits divided by temperature={self.temperature:g} make gradients "
                "smaller by as much: train it for longer, raise lr, or use an "
                "optimizer that takes no account of their size, such as Adam.",
                UserWarning,
                stacklevel=5,  # past the decorator of fit
            )

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return class probabilities of the student at temperature 1.

        Of a net they are the softmax of its logits; of another classifier, which has
        none, its probabilities ``p`` become ``p ** T`` made to sum to one. They
        saturate: most are within rounding of 0 or 1 (``saturated_``), say no more than
        ``predict``, and are no measure of how sure the answer is.

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
        return self._proba(self._rows(X))

    def _proba(self, X: Any) -> np.ndarray:
        if is_net(self.estimator_):
            return self.estimator_.predict_proba(X)
        return soften(log_proba(self.estimator_, X), 1 / self._heat())

    def _heat(self) -> float:
        # models that were saved before it was kept have none
        return getattr(self, "temperature_", self.temperature)

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
        return view if is_net(self.estimator_) else times(view, self._heat())


def _scales(machine: Any) -> bool:
    given = getattr(machine, "probability", False)  # of another type where deprecated
    return isinstance(given, (bool, np.bool_)) and bool(given)


def _entries(name: str, model: Any, right: np.ndarray) -> list[dict[str, Any]]:
    """Return the entries of a model in ``history_``."""
    if not is_net(model):
        return [{"model": name, "train_accuracy": float(right.mean())}]
    epochs = last_step(model).net_.history.to_list()
    return [
        {"model": name, **{k: v for k, v in epoch.items() if k != "batches"}}
        for epoch in epochs
    ]
