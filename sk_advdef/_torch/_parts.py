"""What an estimator is made of, and what has no gradient in it. Loads no torch.

A part has a role: it must ``"answer"`` with a score for each class, ``"transform"``
rows, or answer with scores whose softmax is its ``predict_proba`` (``"proba"``).
"""

from __future__ import annotations

from collections import UserList
from collections.abc import Callable, Iterator
from numbers import Real
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

#: A place to name in an error, the part, and its role.
Part = tuple[str, Any, str]


def is_step(part: Any) -> bool:
    """Whether a step or branch is an estimator and not left out or passed through."""
    return part is not None and not isinstance(part, str)


def reads_proba(member: Any) -> bool:
    """Whether an ensemble that prefers decision values must do with probabilities."""
    return not hasattr(member, "decision_function")


def _pipeline(pipeline: Any, role: str) -> Iterator[Part]:
    for i, (_, step) in enumerate(pipeline.steps, start=1):
        if is_step(step):
            yield "", step, role if i == len(pipeline.steps) else "transform"


def fitted_branches(transformer: Any) -> list[tuple[str, Any, Any]]:
    """Return name, part and columns of each branch of a fitted ColumnTransformer.

    scikit-learn 1.6 warns whoever looks into the columns of the remainder.
    """
    return [
        (name, part, columns.data if isinstance(columns, UserList) else columns)
        for name, part, columns in transformer.transformers_
    ]


def is_empty(columns: Any) -> bool:
    """Whether a choice of columns, known by now, has none in it."""
    if columns is None or callable(columns) or isinstance(columns, (slice, str)):
        return False
    columns = np.asarray(columns)
    return not (columns.any() if columns.dtype == bool else columns.size)


def _column_transformer(transformer: Any, role: str) -> Iterator[Part]:
    if hasattr(transformer, "transformers_"):
        branches = fitted_branches(transformer)
    else:
        rest = ("remainder", transformer.remainder, None)
        branches = [*transformer.transformers, rest]
    for name, part, columns in branches:
        if is_step(part) and not is_empty(columns):
            yield f"the branch {name!r} of ColumnTransformer", part, "transform"


def _feature_union(union: Any, role: str) -> Iterator[Part]:
    for name, part in union.transformer_list:
        if is_step(part):
            yield f"the branch {name!r} of FeatureUnion", part, "transform"


def _named(ensemble: Any) -> list[tuple[str, Any]]:
    """Members of a voting or stacking ensemble, fitted ones if there are any."""
    named = [(name, member) for name, member in ensemble.estimators if is_step(member)]
    fitted = getattr(ensemble, "estimators_", [member for _, member in named])
    return [(name, one) for (name, _), one in zip(named, fitted, strict=True)]


def _voting(ensemble: Any, role: str) -> Iterator[Part]:
    for name, member in _named(ensemble):
        role = "proba" if ensemble.voting == "soft" else "answer"
        yield f"the member {name!r} of VotingClassifier", member, role


def _stacking(ensemble: Any, role: str) -> Iterator[Part]:
    members = _named(ensemble)
    methods = getattr(ensemble, "stack_method_", [ensemble.stack_method] * len(members))
    for (name, member), method in zip(members, methods, strict=True):
        of_member = "proba" if method == "predict_proba" else "answer"
        yield f"the member {name!r} of StackingClassifier", member, of_member
    final = getattr(ensemble, "final_estimator_", ensemble.final_estimator)
    where = "the final estimator of StackingClassifier"
    yield where, LogisticRegression() if final is None else final, role


def _calibrated(ensemble: Any, role: str) -> Iterator[Part]:
    member = ensemble.estimator
    if hasattr(ensemble, "calibrated_classifiers_"):
        member = ensemble.calibrated_classifiers_[0].estimator
    member = LinearSVC() if member is None else member
    where = "the estimator of CalibratedClassifierCV"
    yield where, member, "proba" if reads_proba(member) else "answer"


def _searched(search: Any, role: str) -> Iterator[Part]:
    where = f"the estimator of {type(search).__name__}"
    yield where, getattr(search, "best_estimator_", search.estimator), role


def _eliminated(model: Any, role: str) -> Iterator[Part]:
    if role != "transform":
        where = f"the estimator of {type(model).__name__}"
        yield where, getattr(model, "estimator_", model.estimator), role


#: Containers, by their key in the registry -> their parts.
PARTS: dict[str, Callable[[Any, str], Iterator[Part]]] = {
    "sklearn.BaseSearchCV": _searched,
    "sklearn.CalibratedClassifierCV": _calibrated,
    "sklearn.ColumnTransformer": _column_transformer,
    "sklearn.FeatureUnion": _feature_union,
    "sklearn.Pipeline": _pipeline,
    "sklearn.RFE": _eliminated,
    "sklearn.StackingClassifier": _stacking,
    "sklearn.VotingClassifier": _voting,
}


def _not_calibrated(model: Any, role: str) -> str | None:
    if model.method == "isotonic":
        return "isotonic calibration is a staircase, with no gradient"
    return None


def _not_discriminant(model: Any, role: str) -> str | None:
    if role == "transform" and model.solver == "lsqr":
        return "its solver 'lsqr' does not transform"
    return None


def _not_function(transformer: Any, role: str) -> str | None:
    if transformer.func is not None:
        return "only func=None, the identity, has a known gradient"
    return None


def _not_imputed(imputer: Any, role: str) -> str | None:
    statistics = getattr(imputer, "statistics_", ())
    values = [imputer.missing_values, *np.asarray(statistics, dtype=object)]
    if not all(isinstance(value, Real) for value in values):
        return "only numbers that stand for missing numbers have one"
    return None


def _not_mlp(model: Any, role: str) -> str | None:
    if getattr(model, "out_activation_", "") == "logistic" and model.n_outputs_ > 1:
        return "several labels a row"
    return None


def _not_ridge(model: Any, role: str) -> str | None:
    labels = getattr(getattr(model, "_label_binarizer", None), "y_type_", "")
    return "several labels a row" if labels.startswith("multilabel") else None


def _not_sgd(model: Any, role: str) -> str | None:
    if role == "proba" and model.loss == "modified_huber":
        return (
            "predict_proba under loss='modified_huber' is clipped and does not "
            "follow from the scores that predict uses"
        )
    return None


def _not_stacked(ensemble: Any, role: str) -> str | None:
    methods = getattr(ensemble, "stack_method_", [ensemble.stack_method])
    if "predict" in methods:
        return "stack_method 'predict' passes labels on, with no gradient"
    return None


def _not_svc(model: Any, role: str) -> str | None:
    if model.kernel not in ("linear", "poly", "rbf", "sigmoid"):
        return "only the kernels 'linear', 'poly', 'rbf' and 'sigmoid' have one"
    if role == "proba":
        return (
            "its predict_proba is a calibration of its own that may disagree with "
            "predict; wrap an SVC without probability=True in CalibratedClassifierCV"
        )
    return None


#: Key in the registry -> why this one has no view in this role, or None.
REFUSALS: dict[str, Callable[[Any, str], str | None]] = {
    "sklearn.CalibratedClassifierCV": _not_calibrated,
    "sklearn.FunctionTransformer": _not_function,
    "sklearn.LinearDiscriminantAnalysis": _not_discriminant,
    "sklearn.MLPClassifier": _not_mlp,
    "sklearn.NuSVC": _not_svc,
    "sklearn.RidgeClassifier": _not_ridge,
    "sklearn.RidgeClassifierCV": _not_ridge,
    "sklearn.SGDClassifier": _not_sgd,
    "sklearn.SVC": _not_svc,
    "sklearn.SimpleImputer": _not_imputed,
    "sklearn.StackingClassifier": _not_stacked,
}
