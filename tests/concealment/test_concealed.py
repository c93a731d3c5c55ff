import logging
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC

from sk_advdef import (
    AdversariallyAugmentedClassifier,
    ConcealedClassifier,
    DropoutUncertaintyDetector,
    GuardedClassifier,
    RejectingClassifier,
    as_module,
    robust_accuracy_score,
)
from sk_advdef._torch._models import genuine_classes_of, rejection_of
from sk_advdef.concealment import _secrets
from sk_advdef.concealment._concealed import REVEALS
from sk_advdef.concealment._feedback import led_by, noisy, only_top, rounded
from tests._instances import small_net

X, y = load_iris(return_X_y=True)
names = np.array(["setosa", "versicolor", "virginica"])[y]
linear = LogisticRegression(max_iter=1000)
frozen = FrozenEstimator(clone(linear).fit(X, names))


@st.composite
def answers(draw):
    n, k = draw(st.integers(1, 6)), draw(st.integers(2, 7))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    # few levels, so that ties are common
    counts = draw(hnp.arrays(int, (n, k), elements=st.integers(0, 4)))
    counts[:, 0] += counts.sum(axis=1) == 0
    winners = draw(hnp.arrays(int, (n,), elements=st.integers(0, k - 1)))
    return (counts / counts.sum(axis=1, keepdims=True)).astype(dtype), winners


REDUCE = {
    "led_by": led_by,
    "top": only_top,
    "rounded 0": lambda p, w: rounded(p, w, 0),
    "rounded 2": lambda p, w: rounded(p, w, 2),
    "noisy": lambda p, w: noisy(
        p, w, np.arange(len(p))[:, None], scale=2.0, cell_size=1.0, key=b"k"
    ),
}


@pytest.mark.parametrize("name", REDUCE)
@given(case=answers())
def test_winner_leads_alone_and_rows_sum_to_one(name, case):
    proba, winners = case
    before = proba.copy()
    found = REDUCE[name](proba, winners)
    np.testing.assert_array_equal(proba, before)
    assert found.dtype == proba.dtype and found.shape == proba.shape
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
    assert (found >= 0).all()
    ranked = np.sort(found, axis=1)
    np.testing.assert_array_equal(found.argmax(axis=1), winners)
    assert (ranked[:, -1] > ranked[:, -2]).all()


@given(case=answers(), decimals=st.integers(1, 5))
def test_rounded_lies_on_the_grid_and_near(case, decimals):
    proba, winners = case
    found = rounded(proba, winners, decimals).astype(float)
    units = found * 10**decimals
    np.testing.assert_allclose(units, np.rint(units), atol=10.0**decimals * 1e-6)
    led = led_by(proba, winners)
    assert abs(found - led).max() <= 2 * 10.0**-decimals + 1e-6


@given(case=answers())
def test_top_tells_only_the_confidence(case):
    proba, winners = case
    found = only_top(proba, winners)
    np.testing.assert_allclose(found.max(axis=1), proba.max(axis=1), rtol=1e-5)
    assert all(len(np.unique(row)) <= 2 for row in found.round(5))


@pytest.mark.parametrize("reveal", REVEALS)
@pytest.mark.parametrize(
    "model",
    [
        linear,
        DummyClassifier(strategy="uniform", random_state=0),
        DummyClassifier(strategy="prior"),
        make_pipeline(StandardScaler(), linear),
        small_net(module__n_classes=3),
    ],
    ids=lambda model: type(model).__name__,
)
def test_labels_stay_and_lead(reveal, model):
    concealed = ConcealedClassifier(model, reveal=reveal).fit(X, names)
    labels = concealed.predict(X)
    np.testing.assert_array_equal(labels, concealed.estimator_.predict(X))
    proba = concealed.predict_proba(X)
    np.testing.assert_array_equal(concealed.classes_[proba.argmax(axis=1)], labels)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
    assert not hasattr(concealed, "decision_function")


def test_a_model_whose_predict_and_proba_disagree():
    class Contrary(LogisticRegression):
        def predict(self, X):
            return np.roll(self.classes_, 1)[super().predict_proba(X).argmax(axis=1)]

    for reveal in REVEALS:
        concealed = ConcealedClassifier(Contrary(max_iter=1000), reveal=reveal)
        concealed.fit(X, names)
        proba = concealed.predict_proba(X)
        np.testing.assert_array_equal(
            concealed.classes_[proba.argmax(axis=1)], concealed.estimator_.predict(X)
        )


def test_label_works_without_probabilities_and_others_do_not():
    concealed = ConcealedClassifier(LinearSVC()).fit(X, names)
    one = concealed.predict_proba(X)
    assert set(np.unique(one)) == {0.0, 1.0}
    assert not hasattr(concealed.set_params(reveal="top"), "predict_proba")
    assert not hasattr(ConcealedClassifier(SVC(), reveal="noisy"), "predict_proba")


@pytest.mark.parametrize("reveal", REVEALS)
def test_ready_around_a_frozen_model(reveal):
    concealed = ConcealedClassifier(frozen, reveal=reveal)
    assert concealed.classes_.tolist() == np.unique(names).tolist()
    np.testing.assert_array_equal(concealed.predict(X), frozen.predict(X))
    assert concealed.n_features_in_ == 4
    assert clone(concealed).estimator is frozen
    again = pickle.loads(pickle.dumps(clone(concealed)))
    np.testing.assert_array_equal(
        again.predict_proba(X[::9]), concealed.predict_proba(X[::9])
    )
    with pytest.raises(ValueError, match="X has 3 features, but ConcealedClassifier"):
        clone(concealed).predict(X[:, :3])


def test_not_fitted():
    concealed = ConcealedClassifier(linear)
    assert not hasattr(concealed, "classes_")
    with pytest.raises(NotFittedError):
        concealed.predict(X)
    with pytest.raises(NotFittedError):
        concealed.predict_proba(X)


class Fragile(ClassifierMixin, BaseEstimator):
    """Fails where the first feature is large, with words that tell too much."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        if (X[:, 0] > 9).any():
            raise KeyError("column salary at /srv/models/secret.pkl")
        return np.repeat(self.classes_[:1], len(X))


def test_errors_of_the_model_tell_nothing_and_go_to_the_log(caplog):
    concealed = ConcealedClassifier(Fragile()).fit(X, names)
    for ask in (concealed.predict, concealed.predict_proba):
        with (
            caplog.at_level(logging.ERROR, "sk_advdef.concealment"),
            pytest.raises(RuntimeError) as caught,
        ):
            ask(X + 9)
        assert str(caught.value) == "The model could not answer this input."
        assert caught.value.__cause__ is caught.value.__context__ is None
        assert "salary" in caplog.text
        caplog.clear()


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"reveal": "all"}, r"one of \{'label', 'top', 'rounded', 'noisy'\}"),
        ({"decimals": -1}, r"'decimals' parameter .* int in \[0, 12\]"),
        ({"noise": -1.0}, "'noise' parameter"),
        ({"cell_size": 0}, "'cell_size' parameter"),
        ({"reveal": "noisy", "secret": None}, "name of an environment variable"),
        ({"estimator": StandardScaler()}, "'estimator' parameter .* a classifier"),
    ],
)
def test_bad_parameters(bad, message):
    with pytest.raises(ValueError, match=message):
        ConcealedClassifier(linear).set_params(**bad).fit(X, names)


def test_secret_comes_from_the_environment_alone(monkeypatch):
    concealed = ConcealedClassifier(frozen, reveal="noisy", secret="MY_SECRET")
    monkeypatch.setenv("MY_SECRET", "first secret, long enough")
    first = concealed.predict_proba(X)
    np.testing.assert_array_equal(concealed.predict_proba(X), first)
    assert b"first secret" not in pickle.dumps(concealed)
    assert "first secret" not in repr(concealed)
    monkeypatch.setenv("MY_SECRET", "second secret, long enough")
    assert abs(concealed.predict_proba(X) - first).max() > 0.01
    monkeypatch.setenv("MY_SECRET", "short")
    with pytest.raises(ValueError, match="MY_SECRET must hold at least 16") as caught:
        concealed.predict_proba(X)
    assert "short" not in str(caught.value)


def test_unset_secret_warns_once_and_keys_the_process(monkeypatch):
    monkeypatch.delenv("UNSET_SECRET", raising=False)
    monkeypatch.setattr(_secrets, "_warned", set())
    concealed = ConcealedClassifier(frozen, reveal="noisy", secret="UNSET_SECRET")
    with pytest.warns(UserWarning, match="UNSET_SECRET is not set"):
        first = concealed.predict_proba(X)
    np.testing.assert_array_equal(clone(concealed).predict_proba(X), first)


def test_noise_is_one_a_cell_and_averages_out_over_cells():
    """The averaging attacker: what the docstring says of the noise."""
    wide = ConcealedClassifier(frozen, reveal="noisy", noise=0.5, cell_size=10.0)
    exact = frozen.predict_proba(X)
    ratio = np.log(wide.predict_proba(X[:50]) / exact[:50])
    ratio -= ratio[:, :1]
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[0], ratio.shape), rtol=1e-6)

    rng = np.random.default_rng(0)
    fine = ConcealedClassifier(frozen, reveal="noisy", noise=0.5, cell_size=1e-4)

    def error_of_mean(n_cells):
        errors = []
        for row in X[[0, 60, 70, 149]]:
            for _ in range(10):
                near = row + rng.uniform(-0.002, 0.002, (n_cells, 4))
                told = np.log(fine.predict_proba(near)).mean(axis=0)
                true = np.log(frozen.predict_proba(row[None]))[0]
                errors.append((told - told[0]) - (true - true[0]))
        return np.sqrt(np.mean(np.square(errors)))

    # led_by changes places near the boundary, so no exact 1 / sqrt(m)
    assert error_of_mean(100) < 0.25 * error_of_mean(1)


def test_views_look_straight_through():
    inner = clone(linear).fit(X, names)
    concealed = ConcealedClassifier(FrozenEstimator(inner))
    rows = torch.tensor(X[:5])
    torch.testing.assert_close(as_module(concealed)(rows), as_module(inner)(rows))
    scores = [
        robust_accuracy_score(
            model, X[::5], names[::5], eps=0.5, bounds=None, random_state=0
        )
        for model in (inner, concealed)
    ]
    assert scores[0] == scores[1]
    hidden = ConcealedClassifier(Fragile()).fit(X, names)
    with pytest.raises(TypeError, match="Fragile has no differentiable view"):
        as_module(hidden)


@pytest.mark.filterwarnings("ignore:.* held-out rows cannot tell:UserWarning")
def test_around_a_classifier_that_rejects():
    detector = DropoutUncertaintyDetector(n_passes=5, random_state=0)
    rejecting = RejectingClassifier(small_net(module__n_classes=3), detector)
    concealed = ConcealedClassifier(rejecting).fit(X, names)
    assert not hasattr(concealed, "predict_proba")
    np.testing.assert_array_equal(concealed.predict(X), concealed.estimator_.predict(X))
    assert rejection_of(concealed)[1] is concealed.estimator_.detector_
    assert concealed.classes_.tolist() == np.unique(names).tolist()


def test_genuine_classes_are_handed_on():
    augmented = AdversariallyAugmentedClassifier(linear, adversarial_label=9, rounds=1)
    concealed = ConcealedClassifier(augmented).fit(X, y)
    assert concealed.classes_.tolist() == [0, 1, 2, 9]
    assert genuine_classes_of(concealed).tolist() == [0, 1, 2]


def test_missing_values_and_words_pass_where_the_model_takes_them():
    holes = X.copy()
    holes[::7, 1] = np.nan
    concealed = ConcealedClassifier(HistGradientBoostingClassifier(max_iter=2))
    assert concealed.fit(holes, y).score(holes, y) > 0.5
    with pytest.raises(ValueError, match="Input X contains NaN"):
        ConcealedClassifier(linear).fit(holes, y)


def holed():
    holes = X.copy()
    holes[::7, 1] = np.nan
    return holes


WORDS = np.where(X[:, :1] > X[:, :1].mean(), "wide", "narrow").astype(object)
TAKE = {
    "filled": (make_pipeline(SimpleImputer(), linear), holed()),
    "scaled, filled": (
        make_pipeline(StandardScaler(), SimpleImputer(), linear),
        holed(),
    ),
    "boosting": (
        make_pipeline(StandardScaler(), HistGradientBoostingClassifier()),
        holed(),
    ),
    "a search": (
        GridSearchCV(HistGradientBoostingClassifier(), {"max_iter": [2]}, cv=2),
        holed(),
    ),
    "columns": (
        make_pipeline(make_column_transformer((SimpleImputer(), [0, 1])), linear),
        holed(),
    ),
    "words": (make_pipeline(OneHotEncoder(), linear), WORDS),
    "a step left out": (make_pipeline("passthrough", OneHotEncoder(), linear), WORDS),
}


@pytest.mark.parametrize("name", TAKE)
def test_what_the_model_takes_is_not_refused_before(name):
    model, rows = TAKE[name]
    model = clone(model).fit(rows, y)
    concealed = ConcealedClassifier(FrozenEstimator(model))
    np.testing.assert_array_equal(concealed.predict(rows), model.predict(rows))
    guard = GuardedClassifier(FrozenEstimator(model))
    np.testing.assert_array_equal(guard.predict(rows), model.predict(rows))
    again = ConcealedClassifier(model).fit(rows, y)
    np.testing.assert_array_equal(again.predict(rows), model.predict(rows))


def test_what_no_step_takes_is_refused_in_scikit_learns_words():
    for model in (make_pipeline(StandardScaler(), linear), GridSearchCV(linear, {})):
        model.fit(X, y)
        for wrapper in (ConcealedClassifier, GuardedClassifier):
            with pytest.raises(ValueError, match="Input X contains NaN"):
                wrapper(FrozenEstimator(model)).predict(holed())
            with pytest.raises(ValueError, match="could not convert string"):
                wrapper(FrozenEstimator(model)).predict(np.repeat(WORDS, 4, axis=1))


class Silent:
    """A transformer that tells nothing of itself."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X


def test_steps_that_tell_nothing_of_themselves():
    model = Pipeline([("silent", Silent()), ("linear", clone(linear))]).fit(X, y)
    for wrapper in (ConcealedClassifier, GuardedClassifier):
        wrapped = wrapper(FrozenEstimator(model))
        np.testing.assert_array_equal(wrapped.predict(X), model.predict(X))


def test_infinity_is_not_what_is_missing():
    rows = np.where(np.isnan(holed()), np.inf, X)
    model = make_pipeline(SimpleImputer(), linear).fit(holed(), y)
    with pytest.raises(ValueError, match="Input X contains infinity"):
        ConcealedClassifier(FrozenEstimator(model)).predict(rows)


def test_another_frozen_model_answers_at_once():
    few = clone(linear).fit(X[:, :2], y == 0)
    concealed = ConcealedClassifier(FrozenEstimator(clone(linear).fit(X, y)))
    concealed.predict(X)
    assert concealed.set_params(estimator=FrozenEstimator(few)) is concealed
    assert concealed.classes_.tolist() == [False, True]
    np.testing.assert_array_equal(concealed.predict(X[:, :2]), few.predict(X[:, :2]))
    other = clone(linear).fit(X[:, :3], y)
    concealed.set_params(estimator__estimator=other)
    np.testing.assert_array_equal(concealed.predict(X[:, :3]), other.predict(X[:, :3]))
    concealed.set_params(estimator=FrozenEstimator(few)).predict(X[:, :2])
    # one that is yet to be fitted changes nothing until it is
    concealed.set_params(estimator=linear)
    np.testing.assert_array_equal(concealed.predict(X[:, :2]), few.predict(X[:, :2]))


def test_noise_needs_numbers(monkeypatch):
    monkeypatch.setenv("SK_ADVDEF_SECRET", "s" * 32)
    model = make_pipeline(OneHotEncoder(), linear).fit(WORDS, y)
    concealed = ConcealedClassifier(FrozenEstimator(model), reveal="noisy")
    with pytest.raises(ValueError, match=r"reveal='noisy' .* not all") as caught:
        concealed.predict_proba(WORDS)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("kind", [ConcealedClassifier, GuardedClassifier])
@pytest.mark.parametrize(
    "model", [LogisticRegression(), small_net(), make_pipeline(LogisticRegression())]
)
def test_a_frozen_model_that_was_never_fitted(kind, model):
    """No query is told that it could not be answered, for what a set-up lacks."""
    around = kind(FrozenEstimator(model))
    for ask in (around.predict, lambda X: clone(around).fit(X, y)):
        with pytest.raises(NotFittedError, match="instance is not fitted yet"):
            ask(X)
    with pytest.raises(NotFittedError, match="instance is not fitted yet"):
        _ = around.classes_
