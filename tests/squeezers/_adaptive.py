"""Accuracy of a squeezer's Pipeline under who ignores it and under who knows it."""

from typing import NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

N_FIT, N_TEST = 1200, 150


class Accuracies(NamedTuple):
    clean: float
    ignores: float
    knows: float
    undefended: float


def digits():
    """Return rows of 64 pixels in [0, 1] and their labels."""
    X, y = load_digits(return_X_y=True)
    return X[: N_FIT + N_TEST] / 16, y[: N_FIT + N_TEST]


def tinted_digits():
    """Return rows of 8 x 8 x 3 values: each digit in a color of its own."""
    X, y = digits()
    tints = np.random.default_rng(0).uniform(0.3, 1, (len(X), 1, 3))
    return (X[..., None] * tints).reshape(len(X), -1), y


def accuracies(squeezer, X, y, attack):
    """Attack a model without the squeezer, and one with it, both of the same kind."""
    model = LogisticRegression(max_iter=500)
    plain = clone(model).fit(X[:N_FIT], y[:N_FIT])
    defended = make_pipeline(squeezer, model).fit(X[:N_FIT], y[:N_FIT])
    X, y = X[N_FIT:], y[N_FIT:]
    ignores, knows = (attack.perturb(target, X, y) for target in (plain, defended))
    return Accuracies(
        defended.score(X, y),
        defended.score(ignores, y),
        defended.score(knows, y),
        plain.score(ignores, y),
    )
