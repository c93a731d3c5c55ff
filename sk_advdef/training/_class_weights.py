"""Weights of classes that a student, or who teaches it, brings along."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils.class_weight import compute_class_weight

from sk_advdef._torch._models import is_skorch, last_step, unfrozen

#: Parameters that weigh classes by a rule or a dict, and by how frequent they shall be.
WEIGHTS, PRIORS = ("class_weight",), ("priors", "class_prior")

#: Parameters of a net's criterion that do.
OF_CRITERIA = ("criterion__weight", "criterion__pos_weight")


def brought(model: Any) -> dict[str, Any]:
    """Return the parameters of a classifier, and of those within, that weigh classes.

    By their names, as ``get_params`` of the last step has them.
    """
    last = unfrozen(last_step(model))
    given = last.get_params() if hasattr(last, "get_params") else {}
    if is_skorch(last):
        named = {name: given.get(name) for name in OF_CRITERIA}
    else:
        named = {
            name: value
            for name, value in given.items()
            if name.rpartition("__")[2] in (*WEIGHTS, *PRIORS)
            or name.endswith(OF_CRITERIA)
        }
    return {name: value for name, value in named.items() if value is not None}


def without(model: Any) -> Any:
    """Return a clone of a classifier whose last step weighs no classes by itself."""
    model = clone(model)
    last_step(model).set_params(**dict.fromkeys(brought(model)))
    return model


def weights_asked_for(model: Any, y: np.ndarray) -> np.ndarray | None:
    """Weigh each class of ``y`` as a classifier asks for; None if its parts differ."""
    classes, counts = np.unique(y, return_counts=True)
    found = [
        _weights(name, value, classes, counts, y)
        for name, value in brought(model).items()
    ]
    if not found:
        return np.ones(len(classes))
    first, *others = (one / one.mean() for one in found)
    return found[0] if all(np.allclose(first, one) for one in others) else None


def _weights(
    name: str, value: Any, classes: np.ndarray, counts: np.ndarray, y: np.ndarray
) -> np.ndarray:
    kind = name.rpartition("__")[2]
    if kind in WEIGHTS:
        asked = "balanced" if str(value).startswith("balanced") else value
        if isinstance(asked, dict) and not set(asked) <= set(classes.tolist()):
            # ensembles know classes by their position
            classes, y = np.unique(y, return_inverse=True)
            classes = np.arange(len(classes))
        return compute_class_weight(asked, classes=classes, y=y)
    weights = np.asarray(value, dtype=np.float64).reshape(-1)
    if kind in PRIORS:
        return weights / counts * counts.sum()
    return np.append(1.0, weights) if kind == "pos_weight" else weights
