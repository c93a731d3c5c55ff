"""What is seen of training while it runs: accuracies, progress, collapse."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import clone

from sk_advdef._validation import with_seed
from sk_advdef.attacks._base import Attack
from sk_advdef.attacks._fgsm import FGSM
from sk_advdef.attacks._pgd import PGD

#: Rows of the training set on which the accuracy under attack is watched, and of those
#: held out; and steps of PGD on each.
WATCHED_ROWS, WATCHED_STEPS = 256, 5
HELD_ROWS, HELD_STEPS = 1024, 10

#: Fall of the watched accuracy below its best that is called a collapse, and the same
#: in standard deviations, lest a few rows raise the alarm.
COLLAPSE = 0.2
COLLAPSE_DEVIATIONS = 3.0


def has_radius(attack: Attack) -> bool:
    """Whether an attack says how far rows may move."""
    return any(getattr(attack, name, None) is not None for name in ("eps", "space"))


def probe(attack: Attack, seed: int, steps: int) -> Attack:
    """Make the attack that watches training: a few steps of PGD of the same reach."""
    if not has_radius(attack):
        return with_seed(clone(attack), seed)
    return PGD(
        attack.eps,
        steps=steps,
        norm=attack.norm,
        bounds=attack.bounds,
        random_state=seed,
        space=getattr(attack, "space", None),
    )


def single_step(attack: Attack) -> Attack:
    """Make the attack of one step of the same reach, which a net may learn by heart."""
    return FGSM(
        attack.eps,
        norm=attack.norm,
        bounds=attack.bounds,
        space=getattr(attack, "space", None),
    )


def accuracies(
    model: Any,
    X: np.ndarray,
    codes: np.ndarray,
    probes: list[Attack],
    flagged: Callable[[np.ndarray], np.ndarray],
) -> dict[str, float]:
    """Share of rows that are right, and right or flagged under every probe.

    ``flagged`` tells by the probabilities which rows the model takes for adversarial.
    """
    proba = model.predict_proba(X)
    known, alarmed = proba.argmax(axis=1) == codes, flagged(proba)
    held = known | alarmed
    for attack in probes:
        proba = model.predict_proba(attack.rows_to_train_on(model, X, codes))
        held &= (proba.argmax(axis=1) == codes) | flagged(proba)
    return {
        "clean_accuracy": float((known & ~alarmed).mean()),
        "attacked_accuracy": float(held.mean()),
    }


def uniform_share(proba: np.ndarray) -> np.ndarray:
    """Part of each answer that is uniform over the classes, by the largest entry."""
    k = proba.shape[1]
    return k / (k - 1) * (1 - proba.max(axis=1))


class Best:
    """The epoch that was best so far by accuracy under attack, then clean.

    One that takes every row for adversarial holds all of them, and none is right: what
    is held beyond what is right counts for nothing.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.score = (-1.0, -1.0)
        self.waited = 0

    @property
    def reached(self) -> dict[str, float]:
        """Accuracies of that epoch; under attack no more than counts."""
        names = "attacked_accuracy", "clean_accuracy"
        return dict(zip(names, self.score, strict=True))

    def is_new(self, reached: dict[str, float]) -> bool:
        """Take an epoch in; return whether none was as good."""
        clean = reached["clean_accuracy"]
        score = min(reached["attacked_accuracy"], clean), clean
        better = score > self.score
        self.waited = 0 if better else self.waited + 1
        if better:
            self.score = score
        return better

    @property
    def is_over(self) -> bool:
        """Whether nothing better came for as long as one waits."""
        return self.waited >= self.patience


def warn_of_collapse(
    watched: list[dict[str, float]], rows: int, cure: str, single: float | None = None
) -> None:
    """Warn where accuracy under attack has fallen, or holds a single step alone.

    ``single`` is the accuracy under one step, of a net that was trained by such.
    """
    found = [row["attacked_accuracy"] for row in watched]
    # to call every row adversarial is no feat to fall from
    best = max((min(row.values()) for row in watched), default=0.0)
    fall = max(COLLAPSE, COLLAPSE_DEVIATIONS * (0.5 / rows) ** 0.5)
    if found and found[-1] < best - fall:
        seen = f"fell from {best:.0%} to {found[-1]:.0%} in training"
    elif found and single is not None and found[-1] < min(single / 2, single - fall):
        seen = f"is {found[-1]:.0%}, and {single:.0%} under a single step of it"
    else:
        return
    warnings.warn(
        f"Accuracy under attack {seen} (catastrophic overfitting): the net has learned "
        f"to mask its gradients from this attack. {cure}, and see history_.",
        UserWarning,
        stacklevel=5,
    )
