"""Our attacks beside those of foolbox, ART, torchattacks and pyautoattack.

Victims: on MNIST a net of two convolutions of stride 2 (16 and 32 channels) and 100
hidden units, trained as it is and by PGD; on digits logistic regression, scikit-learn's
MLPClassifier and a random forest. Rows are test rows, the same for all.

- *Linf*: share of rows right under the worst case per row. "standard" is pyautoattack's
  standard suite (APGD-CE, targeted APGD, targeted FAB, Square with 5,000 queries; on
  flat rows without Square, which takes images only). "ours" are PGD (cross-entropy,
  margin), APGD (cross-entropy, targeted DLR) and RandomSearch with 5,000 queries, on
  the rows that still hold; the defaults of `robust_accuracy_score` and
  `evaluate_robustness` stand beside. Each is an upper bound.
- *Forest*: RandomSearch with 1,000 queries beside the exact answer.
- *L2*: medians of DDN (100 steps) and of the attack of Carlini and Wagner (9 constants
  of at most 1,000 steps, step size 0.01, first constant 0.001), ours and foolbox's; a
  row that is not fooled counts as infinitely far.
- *JSMA*: theta 1, gamma 0.1, untargeted, beside ART's.
- *Time*: candidates in turn, round by round; a ratio compares two of the same round.
  PGD takes 40 steps of 2.5 eps / 40 from a random start, in batches of 500; strength is
  the share of rows that each leaves.
"""

import functools
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from skorch import NeuralNetClassifier
from torch import nn

from benchmarks import _others
from benchmarks._attack_tables import table
from benchmarks._harness import (
    arguments,
    load_mnist,
    ratios,
    spread,
    time_in_turn,
    unit,
)
from benchmarks._others import AsNet, seeded
from sk_advdef import (
    APGD,
    DDN,
    JSMA,
    PGD,
    AdversariallyAugmentedClassifier,
    CarliniWagnerL2,
    HopSkipJump,
    RandomSearch,
    TreeExact,
    evaluate_robustness,
    robust_accuracy_score,
)

PACKAGES = ("foolbox", "adversarial-robustness-toolbox", "torchattacks", "pyautoattack")
BATCH = 500

__all__ = ["main", "table"]


class SmallCNN(nn.Module):
    """Two convolutions of stride 2 and a hidden layer, on images without a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 16, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x.reshape(-1, 1, 28, 28))


@functools.cache
def mnist(folder: Path | None) -> tuple[Any, ...]:
    parts = load_mnist(folder)
    return tuple(part[:, 0] if part.ndim == 4 else part for part in parts)


@functools.cache
def digits() -> tuple[Any, ...]:
    X, y = load_digits(return_X_y=True)
    return tuple(
        train_test_split((X / 16).astype(np.float32), y, test_size=500, random_state=0)
    )


@functools.cache
def victim(name: str, train_rows: int, epochs: int, folder: Path | None) -> Any:
    """Return a fitted model, the same for the same arguments."""
    if name.startswith("digits"):
        X, _, y, _ = digits()
        model = {
            "digits-logistic": LogisticRegression(max_iter=2000),
            "digits-mlp": MLPClassifier((100,), max_iter=400, random_state=0),
            "digits-forest": RandomForestClassifier(50, random_state=0),
        }[name]
        return model.fit(X, y)
    X, y, _, _ = mnist(folder)
    net = NeuralNetClassifier(
        SmallCNN,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=1e-3,
        batch_size=128,
        max_epochs=epochs,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )
    order = np.random.default_rng(0).permutation(len(X))[:train_rows]
    if name == "mnist-trained":
        attack = PGD(0.2, steps=5, step_size=0.08, random_state=0)
        trained = AdversariallyAugmentedClassifier(net, attack=attack, random_state=0)
        return trained.fit(X[order], y[order])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return net.fit(X[order], y[order])


def rows_of(name: str, rows: int, folder: Path | None) -> tuple[Any, Any]:
    if name.startswith("digits"):
        _, X, _, y = digits()
    else:
        _, _, X, y = mnist(folder)
        order = np.random.default_rng(1).permutation(len(X))
        X, y = X[order], y[order]
    return X[:rows], y[:rows]


def share_right(model: Any, X: np.ndarray, y: np.ndarray) -> float:
    return round(float((model.predict(X) == y).mean()), 4)


def linf(
    *, model: str, train: list[int], rows: int, eps: float, queries: int, folder: Any
) -> dict[str, Any]:
    """Accuracy under each suite."""
    fitted = victim(model, *train, folder)
    X, y = rows_of(model, rows, folder)
    net = AsNet(fitted, X.shape[1:])
    suite = ["apgd-ce", "apgd-t", "fab-t"] + ["square"] * (X.ndim == 3)
    with seeded(0):
        theirs = _others.auto_attack(net, X, y, eps, suite, BATCH)
    assert np.abs(theirs - X).max() <= eps + 1e-5
    ours = [
        *(PGD(eps, loss=loss, random_state=0) for loss in ("ce", "margin")),
        *(APGD(eps, loss=loss, random_state=0) for loss in ("ce", "dlr-t")),
        RandomSearch(eps, max_queries=queries, random_state=0),
    ]
    report = evaluate_robustness(fitted, X, y, eps=eps, random_state=0)
    default = robust_accuracy_score(fitted, X, y, eps=eps, random_state=0)
    return {
        "clean": share_right(fitted, X, y),
        "standard": share_right(fitted, theirs, y),
        "ours": round(robust_accuracy_score(fitted, X, y, attack=ours), 4),
        "evaluate_robustness": round(report.worst_case_accuracy, 4),
        "robust_accuracy_score": round(default, 4),
        "suite": suite,
    }


def forest(*, model: str, rows: int, eps: float, queries: int) -> dict[str, Any]:
    """Accuracy under questions alone, and the exact one."""
    fitted = victim(model, 0, 0, None)
    X, y = rows_of(model, rows, None)
    exact = TreeExact(eps).run(fitted, X, y)
    asked = RandomSearch(eps, max_queries=queries, random_state=0).run(fitted, X, y)
    return {
        "clean": share_right(fitted, X, y),
        "exact": round(float(1 - exact.fooled.mean()), 4),
        "undecided": int((~exact.fooled & ~exact.certified).sum()),
        "ours": round(float(1 - asked.fooled.mean()), 4),
    }


def smallest(
    *, model: str, train: list[int], rows: int, folder: Any, steps: int, searches: int
) -> dict[str, Any]:
    """Median L2 lengths."""
    fitted = victim(model, *train, folder)
    X, y = rows_of(model, rows, folder)
    net = AsNet(fitted, X.shape[1:])
    adapted = {"binary_search_steps": searches, "steps": steps}
    with seeded(0):
        theirs = {
            "DDN": _others.smallest_of_foolbox("DDNAttack", net, X, y, steps=100),
            "CW": _others.smallest_of_foolbox(
                "L2CarliniWagnerAttack",
                *(net, X, y),
                **{**adapted, "stepsize": 0.01, "initial_const": 1e-3},
            ),
        }
    ours = {"DDN": DDN(), "CW": CarliniWagnerL2(**adapted)}
    figures: dict[str, Any] = {}
    for name, attack in ours.items():
        found = attack.run(fitted, X, y).X_adv
        for who, X_adv in (("ours", found), ("foolbox", theirs[name])):
            delta = (X_adv - X).reshape(len(X), -1).astype(np.float64)
            wrong = fitted.predict(X_adv) != y
            lengths = np.where(wrong, np.linalg.norm(delta, axis=1), np.inf)
            figures[f"{name}, {who}"] = {
                "median": round(float(np.median(lengths)), 4),
                "fooled": round(float(wrong.mean()), 4),
            }
    return figures


def jsma(
    *, model: str, train: list[int], rows: int, folder: Any, rounds: int
) -> dict[str, Any]:
    """Success, changed pixels and time of JSMA."""
    fitted = victim(model, *train, folder)
    X, y = rows_of(model, rows, folder)
    net = AsNet(fitted, X.shape[1:])
    flat = X.reshape(len(X), -1)
    theirs = _others.jsma_of_art(net, flat.shape[1:], 1.0, 0.1, BATCH)
    attack = JSMA(theta=1.0, gamma=0.1)
    with seeded(0):
        found = {
            "ours": attack.run(fitted, X, y).X_adv,
            "ART": theirs(flat).reshape(X.shape),
        }
        seconds = time_in_turn(
            {"ours": lambda: attack.run(fitted, X, y), "ART": lambda: theirs(flat)},
            rounds,
            at_least=0.0,
        )
    figures = {}
    for who, X_adv in found.items():
        wrong = fitted.predict(X_adv) != y
        changed = (X_adv != X).reshape(len(X), -1).sum(axis=1)
        was_right = fitted.predict(X) == y
        figures[who] = {
            "fooled": round(float(wrong.mean()), 4),
            "pixels": round(float(changed[wrong & was_right].mean()), 2),
        }
    return figures | timed(seconds, "ours")


def pgd_time(
    *, model: str, train: list[int], rows: int, eps: float, folder: Any, rounds: int
) -> dict[str, Any]:
    """Time of PGD of 40 steps, beside its strength."""
    fitted = victim(model, *train, folder)
    X, y = rows_of(model, rows, folder)
    net, shape = AsNet(fitted, X.shape[1:]), X.shape[1:]
    ours = PGD(eps, batch_size=BATCH, random_state=0)
    ways = {
        "ours": lambda X, y: ours.run(fitted, X, y).X_adv,
        "foolbox": _others.pgd_of_foolbox(net, eps, 40, BATCH),
        "torchattacks": _others.pgd_of_torchattacks(net, eps, 40, BATCH),
        "ART": _others.pgd_of_art(net, eps, 40, BATCH, shape),
    }
    with seeded(0):
        left = {n: share_right(fitted, way(X, y), y) for n, way in ways.items()}
        candidates = {name: partial(way, X, y) for name, way in ways.items()}
        seconds = time_in_turn(candidates, rounds, at_least=0.0)
    return {"left": left} | timed(seconds, "ours")


def labels_time(*, model: str, rows: int, rounds: int, iterations: int) -> Any:
    """Time and length of HopSkipJump at ART's budget."""
    fitted = victim(model, 0, 0, None)
    X, y = rows_of(model, rows, None)
    X, y = X[fitted.predict(X) == y], y[fitted.predict(X) == y]
    asked = [0]

    class Counted:
        @staticmethod
        def predict(rows: np.ndarray) -> np.ndarray:
            asked[0] += len(rows)
            return fitted.predict(rows)

    theirs = _others.hop_skip_jump_of_art(Counted, X.shape[1], iterations)
    with seeded(0):
        found = {"ART": theirs(X)}
        budget = asked[0] // len(X)
        ours = HopSkipJump(max_queries=budget, random_state=0)
        found["ours"] = ours.run(fitted, X, y).X_adv
        seconds = time_in_turn(
            {"ours": lambda: ours.run(fitted, X, y), "ART": lambda: theirs(X)},
            rounds,
            at_least=0.0,
        )
    figures: dict[str, Any] = {"queries": budget}
    for who, X_adv in found.items():
        wrong = fitted.predict(X_adv) != y
        lengths = np.where(wrong, np.linalg.norm(X_adv - X, axis=1), np.inf)
        figures[who] = {"median": round(float(np.median(lengths)), 4)}
    return figures | timed(seconds, "ours")


def timed(seconds: dict[str, list[float]], to: str) -> dict[str, Any]:
    return {
        "seconds": {n: spread(v) for n, v in seconds.items()},
        "ratios": {n: spread(v) for n, v in ratios(seconds, to=to).items()},
    }


def tasks(quick: bool, folder: Path | None) -> list[tuple[str, dict[str, Any], Any]]:
    """Return name, params and function of each unit."""
    known = {"folder": folder}
    if quick:
        train, few = [0, 0], {"model": "digits-logistic", "train": [0, 0], "rows": 20}
        short = {"steps": 20, "searches": 2}
        asked = {"rows": 20, "eps": 0.1, "queries": 30}
        labels = {"rows": 2, "rounds": 1, "iterations": 1}
        return [
            ("linf-quick", {**few, "eps": 0.05, "queries": 50}, partial(linf, **known)),
            ("l2-quick", {**few, **short}, partial(smallest, **known)),
            ("forest-quick", {"model": "digits-forest", **asked}, forest),
            ("hop-skip-jump", {"model": "digits-forest", **labels}, labels_time),
        ]
    found: list[tuple[str, dict[str, Any], Any]] = []
    full = {"steps": 1000, "searches": 9}
    for name, epochs, eps in (("mnist-undefended", 3, 0.1), ("mnist-trained", 6, 0.2)):
        train = [60000, epochs]
        net = {"model": name, "train": train, "rows": 1000}
        found += [
            (
                f"linf-{name}",
                {**net, "eps": eps, "queries": 5000},
                partial(linf, **known),
            ),
            (f"l2-{name}", {**net, "rows": 100, **full}, partial(smallest, **known)),
            (
                f"pgd-time-{name}",
                {**net, "eps": eps, "rounds": 5},
                partial(pgd_time, **known),
            ),
        ]
    net = {"model": "mnist-undefended", "train": [60000, 3], "rows": 100}
    found.append(("jsma", {**net, "rounds": 3}, partial(jsma, **known)))
    for name, eps in (("digits-logistic", 0.05), ("digits-mlp", 0.1)):
        model = {"model": name, "train": [0, 0]}
        found += [
            (
                f"linf-{name}",
                {**model, "rows": 500, "eps": eps, "queries": 5000},
                partial(linf, **known),
            ),
            (f"l2-{name}", {**model, "rows": 200, **full}, partial(smallest, **known)),
        ]
    trees = {"model": "digits-forest"}
    found += [
        (f"forest-{eps}", {**trees, "rows": 500, "eps": eps, "queries": 1000}, forest)
        for eps in (0.05, 0.1)
    ]
    labels = {**trees, "rows": 20, "rounds": 3, "iterations": 5}
    return [*found, ("hop-skip-jump", labels, labels_time)]


def main() -> None:
    given = arguments(__doc__)
    run = partial(unit, "attacks", quick=given.quick, packages=PACKAGES)
    units = [
        run(name, params, function)
        for name, params, function in tasks(given.quick, given.data)
        if name.startswith(given.only)
    ]
    print(table(units))


if __name__ == "__main__":
    main()
