"""Transfer: what falls with a surrogate."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import ParameterGrid
from sklearn.neural_network import MLPClassifier

from sk_advdef import DDN, PGD, FeatureSpace, RandomSearch, Transfer
from sk_advdef.nets import DropoutMLP
from tests.attacks.common import assert_within, net

PLAIN = LogisticRegression(C=0.1, max_iter=1000)


class LabelsOnly(ClassifierMixin, BaseEstimator):
    """Answers with labels, counts what it is asked, and refuses scores."""

    def __init__(self, model):
        self.model, self.classes_, self.asked = model, model.classes_, 0

    def predict(self, X):
        self.asked += len(X)
        return self.model.predict(X)

    def predict_proba(self, X):
        raise AssertionError("a score was asked for")


@pytest.mark.parametrize("norm, eps", [("linf", 0.15), ("l2", 1.2)])
def test_forest_falls_with_a_surrogate(norm, eps, forest, digits, global_generators):
    X, y = digits.X, digits.y
    model = LabelsOnly(forest)
    inner = PGD(eps, norm=norm, steps=20, random_state=0)
    attack = Transfer(inner, queries=500, random_state=0)
    result = attack.run(model, X, y)
    assert_within(result.X_adv, X, eps, norm, (0, 1))
    np.testing.assert_array_equal(result.fooled, forest.predict(result.X_adv) != y)
    noise = np.random.default_rng(0).uniform(-eps, eps, X.shape)
    if norm == "l2":
        noise *= eps / np.linalg.norm(noise, axis=1, keepdims=True)
    by_noise = np.mean(forest.predict(np.clip(X + noise, 0, 1)) != y)
    assert result.fooled.mean() > by_noise + 0.2
    # on rows as they are, a second time to learn from them, and what is counted
    wrong = forest.predict(X) != y
    assert (result.n_queries[wrong] == 1).all()
    # shares are rounded up
    assert 0 <= result.n_queries.sum() + len(X) - model.asked < len(X)
    assert result.n_queries.sum() <= 3 * len(X) + 500
    again = attack.run(LabelsOnly(forest), X, y)
    np.testing.assert_array_equal(again.X_adv, result.X_adv)
    other = clone(attack).set_params(random_state=1).perturb(forest, X, y)
    assert (other != result.X_adv).any()


def test_more_queries_fool_more(forest, digits):
    few, many = (
        Transfer(
            PGD(0.12, random_state=0), surrogate=PLAIN, queries=n, random_state=0
        ).run(forest, digits.X, digits.y)
        for n in (20, 1500)
    )
    assert few.fooled.mean() < many.fooled.mean()
    assert few.n_queries.max() < 5 < many.n_queries.max() < 25


@pytest.mark.parametrize("frozen", [True, False])
def test_fitted_surrogate(frozen, forest, linear, digits):
    X, y = digits.X, digits.y
    surrogate = FrozenEstimator(linear) if frozen else linear
    inner = PGD(0.15, random_state=0)
    model = LabelsOnly(forest)
    attack = Transfer(inner, surrogate=surrogate)
    result = attack.run(model, X, y)
    right = forest.predict(X) == y
    assert model.asked == len(X) + right.sum()
    assert (result.n_queries[right] == 2).all()
    made = inner.rows_to_train_on(linear, X[right], y[right])
    np.testing.assert_array_equal(result.X_adv[right], made)
    if frozen:
        twin = clone(attack)
        np.testing.assert_array_equal(twin.perturb(forest, X, y), result.X_adv)


def test_parameters(forest, digits):
    attack = Transfer(PGD(0.1), surrogate=PLAIN)
    assert attack.get_params()["attack__eps"] == 0.1
    for params in ParameterGrid({"attack__eps": [0.0, 0.2], "surrogate__C": [1.0]}):
        set_ = clone(attack).set_params(**params)
        assert set_.eps == set_.attack.eps == params["attack__eps"]
        result = set_.run(forest, digits.X[:10], digits.y[:10])
        assert result.distortion.max() <= params["attack__eps"]
    assert attack.eps == 0.1 and attack.norm == "linf" and not attack.targeted
    assert attack.bounds == (0.0, 1.0) and attack.space is None


def test_of_surrogates_any_kind(forest, digits):
    X, y = digits.X[:40].astype(np.float32), digits.y[:40]
    skorch = net(DropoutMLP, module__n_classes=10, max_epochs=5)
    for surrogate in (skorch, MLPClassifier((16,), max_iter=500, tol=0.1)):
        attack = Transfer(
            PGD(0.2, random_state=0), surrogate=surrogate, queries=300, random_state=0
        )
        first, again = (attack.run(forest, X, y) for _ in range(2))
        assert first.X_adv.dtype == np.float32 and first.fooled.mean() > 0.3
        np.testing.assert_array_equal(first.X_adv, again.X_adv)
    no_view = Transfer(PGD(0.2), surrogate=RandomForestClassifier(5), queries=50)
    with pytest.raises(TypeError, match=r"RandomForestClassifier.*RandomSearch"):
        no_view.run(forest, X, y)
    asking = RandomSearch(0.2, max_queries=50, random_state=0)
    result = Transfer(asking, surrogate=RandomForestClassifier(20)).run(forest, X, y)
    assert result.fooled.mean() > 0.1


def test_stacked_images(cnn, digits):
    X, y = digits.X[:50].astype(np.float32).reshape(-1, 8, 8), digits.y[:50]
    attack = Transfer(PGD(0.2, random_state=0), queries=500, random_state=0)
    result = attack.run(cnn, X, y)
    assert result.X_adv.shape == X.shape and result.X_adv.dtype == np.float32
    assert_within(result.X_adv, X, 0.2, "linf", (0, 1))
    assert result.fooled.mean() > np.mean(cnn.predict(X) != y) + 0.1


def test_frames_and_names():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"count": rng.integers(0, 50, 80), "rate": rng.uniform(0, 5, 80)})
    y = np.where(X["count"] > 10 * X["rate"], "yes", "no")
    model = RandomForestClassifier(20, random_state=0).fit(X, y)
    space = FeatureSpace(eps={"count": 5, "rate": 0.5}, immutable=["rate"])
    for threat in ({"eps": 3.0}, {"eps": None, "space": space}):
        inner = PGD(bounds=None, random_state=0, **threat)
        attack = Transfer(inner, surrogate=PLAIN, random_state=0)
        result = attack.run(model, X, y)
        pd.testing.assert_series_equal(result.X_adv.dtypes, X.dtypes)
        assert result.fooled.any()
        np.testing.assert_array_equal(result.fooled, model.predict(result.X_adv) != y)
    np.testing.assert_array_equal(result.X_adv["rate"], X["rate"])
    assert space.contains(result.X_adv, X).all()


def test_targeted(forest, digits):
    target = (digits.y + 1) % 10
    inner = PGD(0.3, targeted=True, random_state=0)
    attack = Transfer(inner, surrogate=PLAIN, random_state=0)
    result = attack.run(forest, digits.X, target)
    hit = forest.predict(result.X_adv) == target
    np.testing.assert_array_equal(result.fooled, hit)
    assert hit.mean() > 0.1
    with pytest.raises(ValueError, match="needs y"):
        attack.run(forest, digits.X)


def test_without_ball(forest, digits):
    X, y = digits.X[:30], digits.y[:30]
    result = Transfer(DDN(), surrogate=PLAIN, random_state=0).run(forest, X, y)
    np.testing.assert_array_equal(result.fooled, forest.predict(result.X_adv) != y)


def test_rejected_is_not_learned(linear, digits):
    class Rejecting(ClassifierMixin, BaseEstimator):
        classes_ = linear.classes_

        def predict(self, X):
            return np.where(X.mean(axis=1) < 0.35, linear.predict(X), -1)

    model, X, y = Rejecting(), digits.X, digits.y
    attack = Transfer(PGD(0.2, random_state=0), surrogate=PLAIN, random_state=0)
    result = attack.run(model, X, y)
    answers = model.predict(result.X_adv)
    np.testing.assert_array_equal(result.fooled, (answers != y) & (answers != -1))
    assert result.fooled.mean() > np.mean((model.predict(X) != y) & (y != -1)) - 0.2


def test_one_answer_teaches_nothing(digits):
    class Constant(ClassifierMixin, BaseEstimator):
        classes_ = np.arange(10)

        def predict(self, X):
            return np.zeros(len(X), dtype=int)

    X = digits.X[:5]
    result = Transfer(PGD(0.1), queries=20).run(Constant(), X, np.zeros(5, dtype=int))
    assert not result.fooled.any()
    np.testing.assert_array_equal(result.X_adv, X)


def test_labels_that_the_surrogate_does_not_know(forest, digits):
    rows = digits.y_fit < 5
    surrogate = clone(PLAIN).fit(digits.X_fit[rows], digits.y_fit[rows])
    attack = Transfer(PGD(0.2, random_state=0), surrogate=surrogate)
    result = attack.run(forest, digits.X, digits.y)
    unknown = (digits.y >= 5) & (forest.predict(digits.X) == digits.y)
    assert not result.fooled[unknown].any()
    np.testing.assert_array_equal(result.X_adv[unknown], digits.X[unknown])


@pytest.mark.parametrize(
    "params",
    [
        {"attack": "pgd"},
        {"attack": PGD(0.1, goal="reject")},
        {"queries": 0},
        {"surrogate": LogisticRegression},
    ],
)
def test_bad_parameter(params, forest, digits):
    attack = Transfer(PGD(0.1)).set_params(**params)
    with pytest.raises(ValueError, match=next(iter(params))):
        attack.run(forest, digits.X, digits.y)
