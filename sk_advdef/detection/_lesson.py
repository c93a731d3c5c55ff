"""Rows that a detector learns from: genuine, noisy and attacked."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.utils import _safe_indexing

from sk_advdef._torch._fingerprint import fingerprint, remembered
from sk_advdef._torch._registry import has_view
from sk_advdef._validation import with_seed
from sk_advdef.attacks._base import Attack
from sk_advdef.attacks._pgd import PGD
from sk_advdef.attacks._random_search import RandomSearch
from sk_advdef.attacks._table import Table

#: Successes of an attack from which on its failures are left out.
FEWEST = 10

#: Largest stretch of noise that a box keeps short.
LONGEST = 64.0

#: Halvings of the stretch that gives noise its length.
HALVINGS = 25

#: What a row is, beside the number of the attack that made it (from 0 on).
GENUINE, NOISY = -2, -1


def default_attacks(model: Any, X: Any) -> list[Attack]:
    """Make the attacks that stand for None, in the units and the range of rows."""
    values = Table(X).values.astype(np.float64)
    axes = None if values.ndim > 2 else 0  # an image's pixels share one range
    low, high = values.min(axis=axes), values.max(axis=axes)
    eps, box = 0.1 * (high - low), (low, high)
    if not has_view(model):
        return [RandomSearch(eps, max_queries=100, bounds=box)]
    return [
        PGD(eps, steps=20, bounds=box, early_stop=early_stop)
        for early_stop in (True, False)
    ]


def shuffled_noise(
    X: np.ndarray, X_adv: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Rows with changes like those of an attack, and as long, but without aim.

    Each feature changes by what the attack changed of it in some other row, up or down
    by chance: as large, in as few features, in the same units. What leaves the range of
    the feature is cut, and all is stretched until the mean L2 length is the attack's.
    """
    given, attacked = (a.reshape(len(X), -1).astype(np.float64) for a in (X, X_adv))
    delta = attacked - given
    noise = rng.permuted(delta, axis=0) * rng.choice([-1.0, 1.0], size=delta.shape)
    low = np.minimum(given.min(axis=0), attacked.min(axis=0))
    high = np.maximum(given.max(axis=0), attacked.max(axis=0))

    def at(stretch: float) -> np.ndarray:
        return np.clip(given + stretch * noise, low, high)

    def length(rows: np.ndarray) -> float:
        return float(np.linalg.norm(rows - given, axis=1).mean())

    wanted = length(attacked)
    short, long = 0.0, 1.0
    while length(at(long)) < wanted and long < LONGEST:
        short, long = long, 2 * long
    for _ in range(HALVINGS):
        middle = (short + long) / 2
        short, long = (middle, long) if length(at(middle)) < wanted else (short, middle)
    return at(long).reshape(X.shape)


class Lesson(NamedTuple):
    """Blocks of rows, and of each row what it is and which row it was made from."""

    blocks: list[Any]
    kind: np.ndarray
    source: np.ndarray
    fooled: np.ndarray
    attack_l2: np.ndarray
    noise_l2: np.ndarray


def make_lesson(
    model: Any, attacks: Sequence[Attack], X: Any, seed: int, memory: Any = None
) -> Lesson:
    """Attack the model on every row, and make noise as large as what was changed.

    An attack starts from what the model answers. Of its rows those count that changed
    the answer; where these are too few, all of them do, with a warning. ``memory``
    keeps the rows of each attack.
    """
    table = Table(X, keep_text=True)
    n = len(table)
    blocks, kinds, sources = [X], [np.full(n, GENUINE)], [np.arange(n)]
    fooled, attack_l2, noise_l2 = [], [], []
    for number, attack in enumerate(attacks):
        rng = np.random.default_rng(seed)
        attack = with_seed(clone(attack), seed)
        result = remembered(
            memory,
            partial(fingerprint, "attacked from the answers", model, attack, X),
            partial(attack.run, model, X),
        )
        rows = np.flatnonzero(result.fooled)
        fooled.append(len(rows) / n)
        if len(rows) < min(FEWEST, n):
            warnings.warn(
                f"{attack!r} fooled the model on {len(rows)} of {n} rows: too few to "
                "learn from, so that all rows that it tried count as adversarial. "
                "Take a larger eps, a stronger attack or more rows.",
                UserWarning,
                stacklevel=2,
            )
            rows = np.arange(n)
        attacked = _safe_indexing(result.X_adv, rows)
        start, end = table.values[rows], Table(attacked, keep_text=True).values
        noisy = table.settle(shuffled_noise(start, end, rng), rows)
        for kind, values in ((NOISY, table.restore(noisy, rows)), (number, attacked)):
            blocks.append(values)
            kinds.append(np.full(len(rows), kind))
            sources.append(rows)
        attack_l2.append(_mean_length(end, start))
        noise_l2.append(_mean_length(noisy, start))
    found = map(np.array, (fooled, attack_l2, noise_l2))
    return Lesson(blocks, np.concatenate(kinds), np.concatenate(sources), *found)


def _mean_length(X: np.ndarray, other: np.ndarray) -> float:
    delta = (X.astype(np.float64) - other).reshape(len(X), -1)
    return float(np.linalg.norm(delta, axis=1).mean())


def grouped_folds(
    lesson: Lesson, n_folds: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield positions to learn from and to score; all made from a row stay together.

    Rows that were attacked are dealt to the folds evenly, and so are the others.
    """
    rng = np.random.default_rng(seed)
    attacked = np.zeros(lesson.source.max() + 1, dtype=bool)
    attacked[lesson.source[lesson.kind >= 0]] = True
    fold = np.zeros(len(attacked), dtype=int)
    for part in (attacked, ~attacked):
        rows = rng.permutation(np.flatnonzero(part))
        fold[rows] = np.arange(len(rows)) % n_folds
    for number in range(n_folds):
        out = fold[lesson.source] == number
        yield np.flatnonzero(~out), np.flatnonzero(out)
