"""Weights of classes that a student, or who teaches it, brings along."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.ensemble import BaggingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import Pipeline

from sk_advdef._torch._models import is_skorch

#: Parameters that weigh classes by a rule or a dict, and by how frequent they shall be.
WEIGHTS, PRIORS = ("class_weight",), ("priors", "class_prior")

#: Parameters of a net's criterion that do.
OF_CRITERIA = ("criterion__weight", "criterion__pos_weight")


class Weighing(NamedTuple):
    """A parameter that weighs classes: its name from outside, and its value.

    ``coded`` tells that classes are known by their position there.
    """

    name: str
    value: Any
    coded: bool


def brought(model: Any) -> list[Weighing]:
    """Return the parameters that weigh classes in what a classifier answers.

    Weights within an ensemble that learns from the answers of its members, or
    calibrates them, are its own affair.
    """
    return [one for one in _found(model, "", False) if one.value is not None]


def _found(model: Any, before: str, coded: bool) -> Iterator[Weighing]:
    if isinstance(model, Pipeline):
        name, last = model.steps[-1]
        yield from _found(last, f"{before}{name}__", coded)
    elif isinstance(model, (FrozenEstimator, BaseSearchCV)) or _trains(model):
        yield from _found(model.estimator, f"{before}estimator__", coded)
    elif isinstance(model, BaggingClassifier) and model.estimator is not None:
        yield from _found(model.estimator, f"{before}estimator__", True)
    elif is_skorch(model):
        given = model.get_params()
        for name in OF_CRITERIA:
            yield Weighing(before + name, given.get(name), True)
    elif hasattr(model, "_wraps_net") and hasattr(model, "net"):
        yield from _found(model.net, f"{before}net__", coded)
    elif hasattr(model, "get_params"):
        given = model.get_params(deep=False)
        for name in (*WEIGHTS, *PRIORS):
            yield Weighing(before + name, given.get(name), coded)


def _trains(model: Any) -> bool:
    return hasattr(model, "_wraps_net") and hasattr(model, "estimator")


def without(model: Any) -> Any:
    """Return a clone of a classifier that weighs no classes by itself."""
    return clone(model).set_params(**{one.name: None for one in brought(model)})


def weights_asked_for(model: Any, y: np.ndarray) -> np.ndarray:
    """Weigh each class of ``y`` as a classifier asks for."""
    classes, counts = np.unique(y, return_counts=True)
    weights = np.ones(len(classes))
    for one in brought(model):
        weights = weights * _weights(one, classes, counts)
    return weights


def weighs(model: Any, y: np.ndarray) -> bool:
    """Whether a classifier weighs the classes of ``y`` differently."""
    weights = weights_asked_for(model, y)
    return not np.allclose(weights, weights[0])


def _weights(one: Weighing, classes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    kind, value = one.name.rpartition("__")[2], one.value
    if kind in WEIGHTS:
        if not isinstance(value, dict):  # "balanced", or the same in each sample
            return counts.sum() / (len(classes) * counts)
        keys = range(len(classes)) if one.coded else classes.tolist()
        return np.array([float(value.get(key, 1)) for key in keys])
    weights = np.asarray(value, dtype=np.float64).reshape(-1)
    if kind in PRIORS:
        return weights / counts * counts.sum()
    if kind == "pos_weight":
        return np.append(1.0, weights)
    return weights[: len(classes)]
