from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from sk_advdef._torch._net import NetClassifier
from tests._instances import small_net


@pytest.fixture(scope="session")
def digits():
    """Digits in [0, 1] in an order of no meaning, and a net of the first 600."""
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = (X[order] / 16).astype(np.float32), y[order]
    net = small_net(module__n_classes=10, module__hidden=(40,), max_epochs=12)
    model = NetClassifier(net, random_state=0).fit(X[:600], y[:600])
    return SimpleNamespace(X=X, y=y, net=net, model=model)
