from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from sk_advdef.nets import DropoutCNN, DropoutMLP
from tests.attacks.common import fitted, net


@pytest.fixture(scope="session")
def digits():
    """Digits in [0, 1], float64, with a part to train on and a part to attack."""
    X, y = load_digits(return_X_y=True)
    X = X / 16
    return SimpleNamespace(
        X_fit=X[:1300], y_fit=y[:1300], X=X[1300:1400], y=y[1300:1400], all=(X, y)
    )


@pytest.fixture(scope="session")
def linear(digits):
    return LogisticRegression(C=0.1, max_iter=1000).fit(digits.X_fit, digits.y_fit)


@pytest.fixture(scope="session")
def forest(digits):
    model = RandomForestClassifier(20, max_depth=8, random_state=0)
    return model.fit(digits.X_fit, digits.y_fit)


@pytest.fixture(scope="session")
def mlp(digits):
    model = net(DropoutMLP, module__n_classes=10, module__dropout=0.2)
    return fitted(model, digits.X_fit.astype(np.float32), digits.y_fit)


@pytest.fixture(scope="session")
def cnn(digits):
    model = net(DropoutCNN, module__n_classes=10, max_epochs=6, module__dropout=0.2)
    images = digits.X_fit.astype(np.float32).reshape(-1, 8, 8)
    return fitted(model, images, digits.y_fit)
