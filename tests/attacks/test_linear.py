"""Linear models, for which a closed form says which rows fall."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_advdef import FGSM, PGD, RandomSearch

DUAL = {"linf": 1, "l2": 2}


@pytest.fixture(scope="module")
def tumors():
    X, y = load_breast_cancer(return_X_y=True)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(X, y)
    return model, X, y


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("random_start", [None, False, True])
def test_binary_rows_that_fall(random_start, loss, norm, tumors):
    """One step (None) is exact, and so are many; from a random point nearly."""
    model, X, y = tumors
    scale, weights = model[0].scale_, model[1].coef_[0]
    # radii in raw units, a feature each, so that the standardized ball is round
    eps = {"linf": 0.4, "l2": 1.5}[norm]
    margin = np.where(y == 1, 1, -1) * model.decision_function(X)
    reach = eps * np.linalg.norm(weights, DUAL[norm])
    falls = margin < reach
    clear = np.abs(margin - reach) > (0.03 if random_start else 1e-6) * reach
    assert 0.1 < falls.mean() < 0.9 and clear.mean() > 0.95
    attack = FGSM(eps * scale, norm=norm, loss=loss, bounds=None)
    if random_start is not None:
        attack = PGD(**attack.get_params(), random_start=random_start, random_state=0)
    result = attack.run(model, X, y)
    np.testing.assert_array_equal(result.fooled[clear], falls[clear])


@pytest.mark.parametrize("norm, eps", [("linf", 0.1), ("l2", 0.6)])
def test_many_classes_rows_that_fall(norm, eps, linear, digits):
    """A row falls to a class if their margin is below what the ball allows."""
    X, y = digits.all[0][1300:], digits.all[1][1300:]
    scores, rows = linear.decision_function(X), np.arange(len(X))
    gap = scores[rows, y][:, None] - scores
    pairs = linear.coef_[y][:, None] - linear.coef_[None]
    reach = eps * np.linalg.norm(pairs, DUAL[norm], axis=2)
    ahead = (reach - gap)[rows[:, None], (y[:, None] + np.arange(1, 10)) % 10].max(
        axis=1
    )
    falls = ahead > 0
    assert 0.2 < falls.mean() < 0.95
    params = {"norm": norm, "bounds": None}
    climb = PGD(eps, loss="margin", restarts=3, random_state=0, **params)
    for attack, part in (
        (FGSM(eps, loss="margin", **params), 0.97),
        (climb, 0.97),
        # a step up the cross-entropy leans to the class that is likely, not near
        (clone(climb).set_params(loss="ce"), 0.8),
        (RandomSearch(eps, random_state=0, **params), 0.8),
    ):
        fooled = attack.run(linear, X, y).fooled
        assert not (fooled & ~falls).any()
        assert fooled.sum() >= part * falls.sum()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_eps_per_feature_is_a_ball_of_scaled_features(norm, tumors):
    """Attacking raw rows with eps * scale is attacking standardized rows with eps."""
    model, X, y = tumors
    eps = {"linf": 0.2, "l2": 0.8}[norm]
    raw = PGD(eps * model[0].scale_, norm=norm, bounds=None, random_state=0)
    unit = PGD(eps, norm=norm, bounds=None, random_state=0)
    there = unit.run(model[1], model[0].transform(X), y)
    np.testing.assert_array_equal(raw.run(model, X, y).fooled, there.fooled)


def test_search_comes_near_the_closed_form(tumors):
    model, X, y = tumors
    margin = np.where(y == 1, 1, -1) * model.decision_function(X)
    falls = margin < 0.4 * np.abs(model[1].coef_).sum()
    eps = 0.4 * model[0].scale_
    fooled = RandomSearch(eps, bounds=None, random_state=0).run(model, X, y).fooled
    assert not (fooled & ~falls).any()
    assert fooled.sum() > 0.95 * falls.sum()
