"""Public functions and classes that are not estimators, and what they take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from sklearn.base import clone

import sk_advdef
from sk_advdef import (
    FGSM,
    FeatureSpace,
    GuardedClassifier,
    QueryGuardMiddleware,
    RejectingClassifier,
)
from sk_advdef.nets import DropoutCNN, DropoutMLP
from tests._instances import linear, squeezing
from tests.fuzz._targets import attacked_rows, model


@dataclass(frozen=True)
class Function:
    """A function and arguments that it takes; ``rows`` are the names of its rows."""

    call: Callable[..., Any]
    arguments: Callable[[], dict[str, Any]]
    rows: tuple[str, ...] = ()


def scored(**more: Any) -> Callable[[], dict[str, Any]]:
    def arguments() -> dict[str, Any]:
        X, y = attacked_rows()
        given = {"estimator": model("linear"), "X": X[:9], "y": y[:9], "eps": 0.1}
        return given | more

    return arguments


@cache
def rejecting() -> Any:
    X, y = attacked_rows()
    detector = clone(squeezing).set_params(estimator=None, contamination=0.2)
    return RejectingClassifier(linear, detector).fit(X, y)


def of_rejecting() -> dict[str, Any]:
    return scored(attack=FGSM(0.1))() | {"estimator": rejecting(), "eps": None}


def robust_scorer(**params: Any) -> Any:
    X, y = attacked_rows()
    scorer = sk_advdef.make_robust_scorer(**params)
    return scorer(model("linear"), X[:9], y[:9])


def detection_scorer(**params: Any) -> Any:
    X, y = attacked_rows()
    scorer = sk_advdef.make_detection_scorer(**params)
    return scorer(rejecting().detector_, X[:9], y[:9])


def projected(**params: Any) -> Any:
    X, _ = attacked_rows()
    X = np.c_[X[:5, :3], np.rint(X[:5, 3]), X[:5, 4:]]
    return FeatureSpace(**params).project(X + 0.3, X)


def project(X_new: Any, X: Any) -> Any:
    return FeatureSpace(eps=0.1, immutable=[0]).project(X_new, X)


def middleware(**params: Any) -> Any:
    return QueryGuardMiddleware(**params)


def forward(**params: Any) -> Any:
    import torch

    kind = params.pop("kind")
    with torch.random.fork_rng():
        net = kind(**params)
        return net(torch.zeros(2, 6) if kind is DropoutMLP else torch.zeros(2, 36))


def pixels() -> dict[str, Any]:
    return {
        "images": [np.zeros((4, 5, 3)), np.ones((6, 4, 3))],
        "size": (4, 4),
        "channel_axis": -1,
    }


def display(cls: str, maker: str | None = None) -> Callable[..., Any]:
    def call(**params: Any) -> Any:
        import matplotlib.pyplot as plt

        made = getattr(sk_advdef, cls)
        made = made if maker is None else getattr(made, maker)
        try:
            shown = made(**params)
            if maker is None:
                shown.plot()
        finally:
            plt.close("all")

    return call


def curve() -> dict[str, Any]:
    return {
        "epsilons": [0.0, 0.1, 0.2],
        "accuracies": [0.9, 0.5, 0.1],
        "n_samples": 10,
        "name": "model",
        "norm": "linf",
    }


def history() -> dict[str, Any]:
    epochs = [{"epoch": i + 1, "train_loss": 1.0 / (i + 1)} for i in range(3)]
    return {"history": epochs, "unit": "epoch"}


def changed() -> dict[str, Any]:
    X, y = attacked_rows()
    given = {"X": X[:3], "X_adv": X[:3] + 0.1, "labels": y[:3], "labels_adv": y[1:4]}
    return given | {"image_shape": (2, 3), "channel_axis": -1, "feature_names": None}


def space() -> dict[str, Any]:
    return {
        "eps": 0.2,
        "bounds": (0, 1),
        "immutable": [0],
        "increasing": [1],
        "decreasing": [2],
        "integer": [3],
        "one_hot": [],
        "relations": None,
        "max_changed": 2,
        "feature_names": list("abcdef"),
    }


FUNCTIONS = {
    "as_module": Function(
        sk_advdef.as_module, lambda: {"estimator": model("linear")}
    ),
    "as_score_module": Function(
        sk_advdef.as_score_module, lambda: {"detector": rejecting().detector_}
    ),
    "robust_accuracy_score": Function(
        sk_advdef.robust_accuracy_score,
        scored(attack=None, bounds=(0, 1), space=None, random_state=0),
        ("X",),
    ),
    "certified_accuracy_score": Function(
        sk_advdef.certified_accuracy_score,
        scored(norm="linf", bounds=(0, 1)),
        ("X",),
    ),
    "rejection_robust_error": Function(
        sk_advdef.rejection_robust_error,
        lambda: of_rejecting() | {"clean_rejection": (0.1, 0.5), "random_state": 0},
        ("X",),
    ),
    "evaluate_robustness": Function(
        sk_advdef.evaluate_robustness,
        scored(
            attacks={"fgsm": FGSM(0.1)},
            eps=None,
            baseline=None,
            space=None,
            random_state=0,
            n_jobs=None,
            time_budget=None,
            verbose=0,
        ),
        ("X",),
    ),
    "attack_strength_test": Function(
        sk_advdef.attack_strength_test,
        lambda: {
            "estimator": model("linear"),
            "attack": FGSM(0.1),
            "X": attacked_rows()[0][:9],
            "eps": 0.1,
            "n_rows": 3,
            "n_inner": 20,
            "n_boundary": 8,
            "n_random": 8,
            "random_state": 0,
        },
        ("X",),
    ),
    "make_robust_scorer": Function(
        robust_scorer,
        lambda: {
            "attack": FGSM(0.1),
            "eps": None,
            "bounds": (0, 1),
            "space": None,
            "random_state": 0,
        },
    ),
    "make_detection_scorer": Function(
        detection_scorer,
        lambda: {"attack": FGSM(0.5), "metric": "roc_auc", "memory": None},
    ),
    "stack_images": Function(sk_advdef.stack_images, pixels),
    "FeatureSpace": Function(projected, space),
    "FeatureSpace.project": Function(
        project,
        lambda: {"X_new": attacked_rows()[0][:5], "X": attacked_rows()[0][5:10]},
        ("X", "X_new"),
    ),
    "QueryGuardMiddleware": Function(
        middleware,
        lambda: {
            "app": print,
            "guard": GuardedClassifier(linear).fit(*attacked_rows()),
            "account": None,
            "decode": None,
            "max_bytes": 100,
            "max_rows": 10,
            "body_timeout": 1.0,
            "max_pending": 2,
            "threads": 1,
            "max_total_bytes": None,
        },
    ),
    "DropoutMLP": Function(
        forward,
        lambda: {
            "kind": DropoutMLP, "n_classes": 3, "hidden": (4,), "dropout": 0.5
        },
    ),
    "DropoutCNN": Function(
        forward, lambda: {
            "kind": DropoutCNN, "n_classes": 3, "image_shape": (6, 6),
            "channel_axis": -1, "channels": (2, 2), "hidden": 4, "dropout": 0.5,
        },
    ),
    "RobustnessCurveDisplay": Function(display("RobustnessCurveDisplay"), curve),
    "TrainingHistoryDisplay": Function(display("TrainingHistoryDisplay"), history),
    "PerturbationDisplay": Function(display("PerturbationDisplay"), changed),
    "DetectionCurveDisplay": Function(
        display("DetectionCurveDisplay"),
        lambda: {
            "genuine": [1.0, 2.0, 3.0],
            "attacked": [0.0, 1.5],
            "threshold": 1.0,
            "name": "detector",
        },
    ),
}  # fmt: skip
