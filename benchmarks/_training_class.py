"""A class of its own for attacked rows, and confidence calibration, under attack."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks._pictures import StrideNet, pictures, short, trained
from benchmarks._training_nets import WithClass, fitted
from sk_advdef import PGD, CarliniWagnerL2, RandomSearch, as_module
from sk_advdef.attacks._base import Attack

N_CLASSES = 10
#: A way to make rows from rows and labels, of who knows the model that is aimed at.
Attacker = Callable[[Any, np.ndarray, np.ndarray], np.ndarray]


class _Threshold(nn.Module):
    """Log-probabilities, and one column more that leads where none is large enough."""

    def __init__(self, view: nn.Module, least: float) -> None:
        super().__init__()
        self.view, self.least = view, least

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores of shape (n_samples, 11)."""
        scores = self.view(x).log_softmax(dim=1)
        bar = torch.full_like(scores[:, :1], float(np.log(self.least)))
        return torch.cat([scores, bar], dim=1)


class Accepting:
    """A model that answers 10 where its probability is below a threshold.

    So attacks know the threshold: success is an answer that is wrong and accepted.
    """

    def __init__(self, model: Any, least: float) -> None:
        self.model, self.least = model, least
        self.classes_ = np.arange(N_CLASSES + 1)
        self.genuine_classes_ = np.arange(N_CLASSES)

    def _as_module(self) -> nn.Module:
        return _Threshold(as_module(self.model), self.least)

    def _missing_view(self) -> None:
        return None

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return what is in the ratio of the probabilities to the threshold."""
        proba = self.model.predict_proba(X)
        proba = np.concatenate([proba, np.full((len(X), 1), self.least)], axis=1)
        return proba / (1 + self.least)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the class, or 10."""
        return self.predict_proba(X).argmax(axis=1)


@functools.cache
def undefended(rows: tuple[int, ...], source: str, folder: Any) -> Any:
    X, y, _, _ = pictures(source, folder, *rows)
    return trained(StrideNet, X, y, 3)


def accepted(model: Any, X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Tell which rows get a wrong answer that is not 10."""
    answers = model.predict(X)
    return (answers != y) & (answers != N_CLASSES)


def by(attack: Attack) -> Attacker:
    return lambda aim, X, y: attack.run(aim, X, y).X_adv


def toward_each(attack: PGD) -> Attacker:
    """Aim at each wrong class in turn, with what has not come there yet."""

    def run(aim: Any, X: np.ndarray, y: np.ndarray) -> np.ndarray:
        found, left = X.copy(), np.arange(len(X))
        for k in range(1, N_CLASSES):
            if len(left):
                wanted = (y[left] + k) % N_CLASSES
                moved = attack.run(aim, X[left], wanted).X_adv
                there = accepted(aim, moved, y[left])
                found[left[there]] = moved[there]
                left = left[~there]
        return found

    return run


def within(attack: Attack, length: float) -> Attacker:
    """Take what an attack of any length finds within one (L2)."""

    def run(aim: Any, X: np.ndarray, y: np.ndarray) -> np.ndarray:
        result = attack.run(aim, X, y)
        near = result.distortion <= length
        return np.where(near.reshape(-1, *(1,) * (X.ndim - 1)), result.X_adv, X)

    return run


def threats(
    eps: float, queries: int, steps: int
) -> dict[str, tuple[Attack, dict[str, Attacker]]]:
    """Return, by reach, who ignores the defence, and those who know it."""

    def climbing(reach: float, **norm: Any) -> dict[str, Attacker]:
        more: dict[str, Any] = norm | {"random_state": 1}
        longer = more | {"steps": 5 * steps, "loss": "margin"}
        each = more | {"steps": 5 * steps // 2, "targeted": True}
        return {
            "PGD (ce)": by(PGD(reach, steps=steps, **more)),
            "PGD (margin)": by(PGD(reach, **longer)),
            "PGD toward each class": toward_each(PGD(reach, **each)),
        }

    found: dict[str, tuple[Attack, dict[str, Attacker]]] = {}
    for name, reach in (("as trained", eps), ("half", eps / 2), ("more", 0.4)):
        ask = RandomSearch(reach, max_queries=queries, random_state=1)
        ignores = PGD(reach, steps=steps, early_stop=False, random_state=1)
        knows = climbing(reach) | {"RandomSearch": by(ask)}
        found[f"Linf {reach:g}, {name}"] = (ignores, knows)
    ignores = PGD(2.0, norm="l2", steps=steps, early_stop=False, random_state=1)
    ask = RandomSearch(2.0, norm="l2", max_queries=queries, random_state=1)
    knows = climbing(2.0, norm="l2") | {"RandomSearch": by(ask)}
    found["L2 2"] = (ignores, knows)
    far = {"initial_const": 1.0, "binary_search_steps": 5, "learning_rate": 0.05}
    attack = CarliniWagnerL2(steps=5 * steps, **far)
    found["L2 2"][1]["Carlini and Wagner"] = within(attack, 2.0)
    found["L2, as far as it takes"] = (attack, {"Carlini and Wagner": by(attack)})
    return found


def own_class(
    *,
    kind: str,
    net: dict,
    eps: float,
    steps: int,
    rows: list,
    judged: int,
    attacked: int,
    queries: int,
    attack_steps: int,
    source: str,
    folder: Any,
) -> dict[str, Any]:
    """Share of rows that each attack gets past a class of its own, or past ccat."""
    X, y, X_test, y_test = pictures(source, folder, *rows)
    training: dict[str, Any] = {"eps_warmup": 0.3 * net["epochs"]}
    more: dict[str, Any] = {}
    if kind == "label":
        training |= {"adversarial_label": N_CLASSES}
        more["module"] = WithClass
    else:
        training |= {"method": "ccat", "steps": steps}
    schedule = {"net": net, "attack": {"eps": eps, "steps": steps}}
    model = fitted(X, y, 0, schedule | {"training": training}, **more)
    genuine = X_test[attacked:][:judged]
    if kind == "ccat":
        # above the share of uniform answers that flags 5 %
        share = float(np.quantile(model.adversarial_proba(genuine), 0.95))
        model = Accepting(model, 1 - share * (N_CLASSES - 1) / N_CLASSES)
    X, y = X_test[:attacked], y_test[:attacked]
    figures: dict[str, Any] = {
        "clean": short((model.predict(X) == y).mean()),
        "clean_flagged": short((model.predict(genuine) == N_CLASSES).mean()),
        "rows": len(y),
    }
    plain = undefended(tuple(rows), source, folder)
    for name, (ignores, knowing) in threats(eps, queries, attack_steps).items():
        moved = ignores.run(plain, X, y).X_adv
        fooled = plain.predict(moved) != y
        alarmed = model.predict(moved) == N_CLASSES
        evades = {
            who: accepted(model, attacker(model, X, y), y)
            for who, attacker in knowing.items()
        }
        figures[name] = {
            "ignores": short(accepted(model, moved, y).mean()),
            "found": short(alarmed[fooled].mean()) if fooled.any() else None,
            "knows": short(np.any(list(evades.values()), axis=0).mean()),
            "by": {who: short(got.mean()) for who, got in evades.items()},
        }
    return figures
