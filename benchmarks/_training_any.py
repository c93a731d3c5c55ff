"""Adversarial training of classifiers that are no nets, before and after."""

import contextlib
import functools
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import MinMaxScaler
from sklearn.svm import SVC

from benchmarks import _robust_trees
from benchmarks._harness import load_mnist
from benchmarks._pictures import short
from sk_advdef import PGD, AdversariallyAugmentedClassifier, RandomSearch, TreeExact

MODELS = {
    "logistic": LogisticRegression(max_iter=3000),
    "svc": SVC(C=10.0),
    "mlp": MLPClassifier((100,), max_iter=300, early_stopping=True, random_state=0),
    "forest": RandomForestClassifier(30, random_state=0),
    "boosting": HistGradientBoostingClassifier(max_iter=30, random_state=0),
    "neighbors": KNeighborsClassifier(5),
}
WITH_GRADIENT = ("logistic", "svc", "mlp")
TREES = ("forest", "boosting")
#: Radius (Linf, features in [0, 1]) and rows to train on and to test.
SETTINGS = {
    "digits": (0.1, 1200, 300),
    "cancer": (0.05, 400, 169),
    "mnist": (0.1, 2000, 300),
}


@functools.cache
def rows_of(name: str, folder: Path | None, n_train: int, n_test: int) -> Any:
    """Return X, y to train on and X, y to test on, features in [0, 1]."""
    if name == "mnist":
        X, y, X_test, y_test = load_mnist(folder)
        order = np.random.default_rng(0).permutation(len(X))[:n_train]
        last = np.random.default_rng(1).permutation(len(X_test))[:n_test]
        flat = X.reshape(len(X), -1), X_test.reshape(len(X_test), -1)
        return flat[0][order], y[order], flat[1][last], y_test[last]
    X, y = (load_digits if name == "digits" else load_breast_cancer)(return_X_y=True)
    X, X_test, y, y_test = train_test_split(
        X, y, test_size=n_test, stratify=y, random_state=0
    )
    X, y = X[:n_train], y[:n_train]
    if name == "digits":
        X, X_test = X / 16, X_test / 16
    else:
        scaler = MinMaxScaler(clip=True).fit(X)
        X, X_test = scaler.transform(X), scaler.transform(X_test)
    return X, y, X_test, y_test


def attacks(kind: str, eps: float, budget: int, seed: int) -> Any:
    """Return the attack of a budget: gradient steps, or queries without any."""
    if kind in WITH_GRADIENT:
        return PGD(eps, steps=budget, random_state=seed)
    return RandomSearch(eps, max_queries=budget, random_state=seed)


class Pool:
    """Test rows, and every change of them that fooled one of the models."""

    def __init__(self, X: np.ndarray, y: np.ndarray) -> None:
        self.X, self.y = X, y
        self.found: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, model: Any, attack: Any) -> None:
        result = attack.run(model, self.X, self.y)
        rows = np.flatnonzero(result.fooled)
        if len(rows):
            self.found.append((rows, result.X_adv[rows]))

    def held(self, model: Any) -> np.ndarray:
        holds = model.predict(self.X) == self.y
        for rows, changed in self.found:
            holds[rows] &= model.predict(changed) == self.y[rows]
        return holds


def in_rounds(
    kind: str, eps: float, budget: int, rounds: int
) -> AdversariallyAugmentedClassifier:
    """Return a model that is trained in rounds, for as long as they help."""
    return AdversariallyAugmentedClassifier(
        MODELS[kind],
        attack=attacks(kind, eps, budget, 0),
        ratio=1.0,
        rounds=rounds,
        early_stopping=True,
        validation_fraction=0.2,
        n_iter_no_change=5,
        random_state=0,
    )


def before_and_after(
    *,
    data: str,
    model: str,
    eps: float,
    n_train: int,
    n_test: int,
    budget: int,
    rounds: int,
    exact_rows: int,
    folder: Any,
) -> dict[str, Any]:
    """Accuracy, clean and attacked, of a model as it is and after rounds."""
    X, y, X_test, y_test = rows_of(data, folder, n_train, n_test)
    plain = clone(MODELS[model]).fit(X, y)
    trained = in_rounds(model, eps, budget, rounds).fit(X, y)
    return {
        "rounds": len(trained.history_),
        "held_out": [short(r["held_out_accuracy"]) for r in trained.history_],
        "rows": len(y_test),
        **judged(
            {"before": plain, "after": trained},
            *(X_test, y_test, model, eps, budget, exact_rows),
        ),
    }


def judged(
    models: dict[str, Any],
    X: np.ndarray,
    y: np.ndarray,
    kind: str,
    eps: float,
    budget: int,
    exact_rows: int,
) -> dict[str, dict[str, Any]]:
    """Accuracy of each model, clean and under all that was found against any."""
    pool = Pool(X, y)
    for found in models.values():
        for seed, times in ((1, 1), (2, 10)):  # unseen seeds; ten times the budget
            pool.add(found, attacks(kind, eps, times * budget, seed))
        if kind in WITH_GRADIENT:
            last = PGD(eps, steps=budget, loss="margin", restarts=10, random_state=3)
            pool.add(found, last)
    few = slice(exact_rows)
    exact: dict[str, dict[str, Any]] = {name: {} for name in models}
    if kind in TREES:
        for name, found in models.items():
            answer = TreeExact(eps, time_limit=5.0).run(found, X[few], y[few])
            exact[name] = {
                "exact": short(1 - answer.fooled.mean()),
                "certified": short(answer.certified.mean()),
                "exact_rows": len(answer.fooled),
            }
            rows = np.flatnonzero(answer.fooled)
            pool.found.append((rows, answer.X_adv[rows]))
    figures = {}
    for name, found in models.items():
        held = pool.held(found)
        figures[name] = {
            "clean": short((found.predict(X) == y).mean()),
            "attacked": short(held.mean()),
            **exact[name],
        }
        if kind in TREES:
            figures[name]["attacked_same_rows"] = short(held[few].mean())
    return figures


def forests(
    *,
    data: str,
    eps: float,
    n_train: int,
    n_test: int,
    budget: int,
    rounds: int,
    exact_rows: int,
    folder: Any,
) -> dict[str, Any]:
    """Accuracy of a forest as it is, after rounds, and made robust by others."""
    X, y, X_test, y_test = rows_of(data, folder, n_train, n_test)
    plain = clone(MODELS["forest"]).fit(X, y)
    models = {
        "plain": plain,
        "rounds": in_rounds("forest", eps, budget, rounds).fit(X, y),
        "relabelled": _robust_trees.relabelled(plain, X, y, eps),
    }
    with contextlib.suppress(ImportError):
        models["GROOT"] = _robust_trees.groot_forest(X, y, eps, plain.n_estimators)
    return judged(models, X_test, y_test, "forest", eps, budget, exact_rows)
