"""Attacks to test, each as a user would set it, and what is checked of all of them."""

import numpy as np
import torch
from skorch import NeuralNetClassifier
from torch import nn

from sk_advdef import APGD, FGSM, PGD, RandomSearch

GRADIENT = {
    "fgsm": FGSM(0.15),
    "fgsm-l2": FGSM(1.0, norm="l2", loss="margin"),
    "pgd": PGD(0.15, steps=8, random_state=0),
    "pgd-margin": PGD(0.15, steps=8, restarts=2, loss="margin", random_state=0),
    "apgd": APGD(0.15, steps=8, random_state=0),
    "apgd-l2-dlr": APGD(1.0, steps=8, norm="l2", loss="dlr", random_state=0),
    "pgd-l2": PGD(1.0, steps=8, norm="l2", random_state=0),
    "pgd-l2-margin": PGD(
        1.0, steps=8, step_size=0.3, norm="l2", loss="margin", random_state=0
    ),
}
QUERIES = {
    "search": RandomSearch(0.15, max_queries=40, random_state=0),
    "search-l2": RandomSearch(1.0, max_queries=40, norm="l2", random_state=0),
    "square": RandomSearch(0.15, max_queries=40, image_shape="square", random_state=0),
    "square-l2": RandomSearch(
        1.0, max_queries=40, norm="l2", image_shape=(8, 8), random_state=0
    ),
}
ATTACKS = GRADIENT | QUERIES


def net(module, **params):
    """Make a skorch net as our users do."""
    given = {
        "criterion": nn.CrossEntropyLoss,
        "optimizer": torch.optim.Adam,
        "lr": 0.01,
        "max_epochs": 12,
        "train_split": None,
        "verbose": 0,
    }
    return NeuralNetClassifier(module, **given | params)


def fitted(estimator, X, y):
    """Fit under a seed of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return estimator.fit(X, y)


def assert_within(X_adv, X, eps, norm, bounds):
    """The rows are inside ball and box, to the last bit."""
    X_adv, X = np.asarray(X_adv), np.asarray(X)
    delta = X_adv.astype(np.float64) - X.astype(np.float64)
    if norm == "linf":
        assert (np.abs(delta) <= eps).all()
        if X.dtype.kind == "f":
            assert (np.abs(X_adv - X) <= np.asarray(eps, X.dtype)).all()
    else:
        unit = np.divide(
            delta, eps, out=np.zeros_like(delta), where=np.asarray(eps) > 0
        )
        limit = 1 if np.ndim(eps) else eps
        length = np.linalg.norm(
            (unit if np.ndim(eps) else delta).reshape(len(X), -1), axis=1
        )
        # another order of summation than ours
        assert (length <= limit * (1 + 1e-14)).all()
    assert (delta[np.broadcast_to(np.asarray(eps) == 0, delta.shape)] == 0).all()
    if bounds is not None:
        assert (X_adv >= np.asarray(bounds[0])).all()
        assert (X_adv <= np.asarray(bounds[1])).all()
