"""Who teaches a student: one model or several, and what each of them answers."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.ensemble import VotingClassifier

from sk_advdef._torch._models import classes_of, is_frozen, is_net, unfrozen
from sk_advdef._validation import check_classifier, invalid, with_seed
from sk_advdef.training._base import fit_net
from sk_advdef.training._temperature import at_temperature, log_proba, soften


class Teachers(NamedTuple):
    """Models that teach together, fitted or not, and the weight of each."""

    models: list[Any]
    weights: np.ndarray
    several: bool

    @property
    def hang_on_temperature(self) -> bool:
        """Whether one of them is yet to be trained at the temperature."""
        return any(is_net(m) and not is_frozen(m) for m in self.models)


def teachers_of(owner: object, teacher: Any) -> Teachers:
    """Take apart what stands for a teacher: a model, a list, or a vote to be fitted."""
    models, weights = [teacher], None
    if isinstance(teacher, VotingClassifier):
        models, weights = _voices(teacher)
    elif isinstance(teacher, (list, tuple)):
        models = list(teacher)
    if not models:
        allowed = "a classifier, a list of classifiers that is not empty, or None"
        raise invalid(owner, "teacher", allowed, teacher)
    for model in models:
        vote = unfrozen(model)
        asked = _voices(vote)[0] if isinstance(vote, VotingClassifier) else [model]
        for one in asked:
            if not (is_net(one) or hasattr(one, "predict_proba")):
                raise TypeError(
                    f"{type(owner).__name__} needs the probabilities of its teacher, "
                    f"and {one!r} has no predict_proba."
                )
            check_classifier(owner, "teacher", one)
    shares = np.ones(len(models)) if weights is None else np.asarray(weights, float)
    several = isinstance(teacher, (VotingClassifier, list, tuple))
    return Teachers(models, shares / shares.sum(), several)


def fit_teacher(model: Any, X: Any, y: Any, seed: int, temperature: float) -> Any:
    """Fit a clone of a model, a net at the temperature; a frozen one is left alone."""
    if is_frozen(model):
        return model
    if is_net(model):
        hot = partial(at_temperature, temperature=temperature)
        return fit_net(model, X, y, seed, hot)
    return with_seed(clone(model), seed).fit(X, y)


def answers(model: Any, X: Any, classes: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """Log probabilities of ``classes`` by a fitted model: (share, log) of each voice.

    A frozen VotingClassifier has as many voices as estimators, another model one.
    """
    vote = unfrozen(model)
    if not isinstance(vote, VotingClassifier):
        return [(1.0, log_proba(model, X)[:, _columns(classes_of(model), classes)])]
    _, weights = _voices(vote)
    voices = []
    for member, weight in zip(vote.estimators_, weights, strict=True):
        known = vote.classes_[classes_of(member)]  # members know classes by position
        found = log_proba(member, X)[:, _columns(known, classes)]
        voices.append((weight / sum(weights), found))
    return voices


def _voices(vote: VotingClassifier) -> tuple[list[Any], list[float]]:
    """Return the estimators that a VotingClassifier has, and their weights."""
    weights = vote.weights if vote.weights is not None else [1] * len(vote.estimators)
    pairs = [
        (model, weight)
        for (_, model), weight in zip(vote.estimators, weights, strict=True)
        if not isinstance(model, str)  # "drop"
    ]
    return [model for model, _ in pairs], [float(weight) for _, weight in pairs]


def _columns(known: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return where ``classes`` are among those that a teacher knows."""
    unknown = np.setdiff1d(classes, known)
    if len(unknown):
        raise ValueError(
            f"y has the classes {unknown.tolist()}, which the teacher does not "
            f"know: {known.tolist()}. Use a teacher that was fitted on all classes."
        )
    return np.searchsorted(known, classes)


def soft_labels(
    teachers: Teachers,
    voices: list[list[tuple[float, np.ndarray]]],
    temperature: float,
    class_weight: np.ndarray,
    weighed: list[bool],
) -> np.ndarray:
    """Mean of the teachers' softened probabilities, with classes weighed.

    What a net learned at the temperature are the softened ones, which are weighed as
    they are; those of others are weighed before they are softened. ``weighed`` tells
    for each teacher that it weighs classes itself.
    """
    given = zip(teachers.models, teachers.weights, voices, weighed, strict=True)
    parts = []
    log_weight = np.log(np.maximum(class_weight, np.finfo(np.float64).tiny))
    for model, weight, own, already in given:
        hot = is_net(model) and not is_frozen(model)
        more = 0.0 if already else log_weight * (temperature if hot else 1)
        parts += [
            weight * share * soften(log + more, temperature) for share, log in own
        ]
    return np.sum(parts, axis=0)
