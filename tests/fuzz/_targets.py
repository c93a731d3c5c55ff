"""What is fuzzed: every public estimator and attack, and what each case asks of it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from sk_advdef import (
    APGD,
    DDN,
    FGSM,
    JSMA,
    PGD,
    CarliniWagnerL2,
    DeepFool,
    FeatureSpace,
    HopSkipJump,
    RandomSearch,
    SigmaZero,
    Transfer,
    TreeExact,
)
from tests._instances import INSTANCES, Instance, make_rows, small_net

ESTIMATORS = {f"{i:02d} {instance}": instance for i, instance in enumerate(INSTANCES)}


def lite(estimator: Any) -> Any:
    """Copy an estimator, with nets that learn for one epoch."""
    short = clone(estimator)
    names = [name for name in short.get_params() if name.endswith("max_epochs")]
    return short.set_params(**dict.fromkeys(names, 1))


@cache
def fitted(name: str) -> tuple[Any, np.ndarray]:
    """Fit an instance, once; with the rows that it was fitted on."""
    instance = ESTIMATORS[name]
    X, y = instance.data()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lite(instance.estimator).fit(X, y), X


def few_rows(instance: Instance) -> tuple[np.ndarray, np.ndarray]:
    """Return as many rows as are enough to fit."""
    X, y = instance.data()
    return X[:60], y[:60]


@cache
def model(kind: str) -> Any:
    """Fit a model to attack, on rows in the unit box."""
    X, y = attacked_rows()
    models = {
        "linear": LogisticRegression(C=10),
        "forest": RandomForestClassifier(3, max_depth=3, random_state=0),
        "net": small_net(max_epochs=3),
    }
    if kind == "net":
        from sk_advdef._torch._net import NetClassifier

        return NetClassifier(models["net"], random_state=0).fit(X, y)
    return models[kind].fit(X, y)


@cache
def attacked_rows() -> tuple[np.ndarray, np.ndarray]:
    """Return rows between 0 and 1, and labels."""
    X, y = make_rows()
    low, high = X.min(axis=0), X.max(axis=0)
    return (X - low) / (high - low), y


@dataclass(frozen=True)
class Attacked:
    """An attack that spends little, and a model that it can attack."""

    attack: Any
    kind: str = "linear"


ATTACKS = {
    "FGSM": Attacked(FGSM(0.2)),
    "FGSM l2 net": Attacked(FGSM(0.5, norm="l2"), "net"),
    "PGD": Attacked(PGD(0.2, steps=3, random_state=0)),
    "PGD l2 net": Attacked(
        PGD(0.5, steps=3, norm="l2", restarts=2, random_state=0), "net"
    ),
    "APGD": Attacked(APGD(0.2, steps=4, random_state=0)),
    "APGD l2 net": Attacked(
        APGD(0.5, steps=4, norm="l2", loss="dlr", random_state=0), "net"
    ),
    "RandomSearch": Attacked(RandomSearch(0.2, max_queries=8, random_state=0)),
    "RandomSearch l2 forest": Attacked(
        RandomSearch(0.5, max_queries=8, norm="l2", random_state=0), "forest"
    ),
    "RandomSearch images": Attacked(
        RandomSearch(0.2, max_queries=8, image_shape=(2, 3), random_state=0)
    ),
    "DeepFool": Attacked(DeepFool(steps=3)),
    "DeepFool linf net": Attacked(DeepFool(steps=3, norm="linf"), "net"),
    "DDN": Attacked(DDN(steps=4), "net"),
    "CarliniWagnerL2": Attacked(CarliniWagnerL2(steps=3, binary_search_steps=2)),
    "JSMA": Attacked(JSMA(gamma=0.5), "net"),
    "SigmaZero": Attacked(SigmaZero(steps=4), "net"),
    "HopSkipJump forest": Attacked(
        HopSkipJump(max_queries=40, init_queries=10, start_queries=10, random_state=0),
        "forest",
    ),
    "HopSkipJump linf": Attacked(
        HopSkipJump(max_queries=40, norm="linf", init_queries=10, random_state=0)
    ),
    "Transfer forest": Attacked(
        Transfer(FGSM(0.2), surrogate=LogisticRegression(), queries=30, random_state=0),
        "forest",
    ),
    "TreeExact": Attacked(TreeExact(0.1, time_limit=1.0), "forest"),
    "PGD space": Attacked(
        PGD(
            eps=None,
            steps=3,
            random_state=0,
            space=FeatureSpace(eps=0.3, immutable=[0], increasing=[1], max_changed=3),
        )
    ),
}
