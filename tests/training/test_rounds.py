"""Rounds of attack and refitting, of classifiers that are no nets."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from sk_advdef import (
    PGD,
    AdversariallyAugmentedClassifier,
    FeatureSpace,
    RandomSearch,
    Transfer,
    TreeExact,
    as_module,
)
from sk_advdef.training._rounds import HeldOut
from tests._instances import make_rows, small_net

X, y = make_rows(n_samples=120)
asked = RandomSearch(0.4, max_queries=30, bounds=None, random_state=0)


def make(estimator, **params):
    given = {"attack": asked, "random_state": 0, "rounds": 2}
    return AdversariallyAugmentedClassifier(estimator, **given | params)


KINDS = {
    "forest": RandomForestClassifier(8, random_state=0),
    "boosting": HistGradientBoostingClassifier(max_iter=5, random_state=0),
    "svc": SVC(),
    "neighbors": KNeighborsClassifier(5),
    "pipeline": make_pipeline(StandardScaler(), SVC()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_classifiers(kind):
    model = make(KINDS[kind], early_stopping=True, validation_fraction=0.25).fit(X, y)
    assert model.score(X, y) > 0.7
    for row in model.history_:
        assert {"clean_accuracy", "attacked_accuracy", "held_out_accuracy"} == set(row)
        assert 0 <= row["attacked_accuracy"] <= row["clean_accuracy"] <= 1
    has_proba = kind not in ("svc", "pipeline")
    assert hasattr(model, "predict_proba") is has_proba
    if not has_proba:
        scores = model.decision_function(X)
        assert (model.classes_[scores.argmax(axis=1)] == model.predict(X)).all()
        assert PGD(3.0, bounds=None).run(model, X[:20], y[:20]).fooled.any()
        view = as_module(model)(torch.tensor(X)).argmax(dim=1)
        np.testing.assert_array_equal(model.classes_[view], model.predict(X))
    assert not hasattr(make(small_net()), "decision_function")


@pytest.mark.parametrize("nested", [False, True])
def test_one_seed_is_enough(nested):
    forest = RandomForestClassifier(3, max_depth=2)
    if nested:
        forest = make_pipeline(StandardScaler(), forest)
    first, again, other = (
        make(forest, random_state=seed).fit(X, y).predict_proba(X) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    # a seed of one's own is kept
    own = make(RandomForestClassifier(3, random_state=7)).fit(X, y)
    assert own.estimator_.random_state == 7


def test_a_class_that_is_no_whole_number():
    with pytest.raises(ValueError, match=r"'adversarial_label' .* a whole number"):
        make(LogisticRegression(), adversarial_label=0.5).fit(X, y)


class Scripted(LogisticRegression):
    """Answers rightly on so many rows as the script says, fit by fit."""

    script = ()
    fits = 0

    def fit(self, X, y):
        self.right_ = type(self).script[type(self).fits]
        type(self).fits += 1
        return super().fit(X, y)

    def predict(self, X):
        answers = super().predict(X)
        wrong = np.arange(len(X)) >= self.right_ * len(X)
        return np.where(wrong, "eggs", answers)


def test_rounds_end_when_nothing_rises_and_the_best_is_kept(monkeypatch):
    monkeypatch.setattr(Scripted, "script", (0.3, 0.6, 0.9, 0.5, 0.4, 0.9, 0.9))
    monkeypatch.setattr(Scripted, "fits", 0)
    idle = RandomSearch(0.0, max_queries=1, bounds=None)
    model = make(
        Scripted(max_iter=500),
        attack=idle,
        rounds=6,
        early_stopping=True,
        n_iter_no_change=2,
    ).fit(X, y)
    assert len(model.history_) == 4 and model.estimator_.right_ == 0.9


def test_the_best_of_rounds_knows_the_class_of_its_own():
    """Also where the plain model could not be fooled."""
    idle = RandomSearch(1e-6, max_queries=5, bounds=None)
    model = make(
        LogisticRegression(), attack=idle, adversarial_label="adv", early_stopping=True
    ).fit(X, y)
    assert model.estimator_.classes_.tolist() == model.classes_.tolist()
    assert model.classes_[0] == "adv"
    proba = model.estimator_.predict_proba(X)
    np.testing.assert_array_equal(model.adversarial_proba(X), proba[:, 0])


@pytest.mark.parametrize("seed", range(10))
def test_a_row_of_each_class_stays_to_be_fitted(seed):
    labels = y.copy()
    labels[7] = "rare"
    model = make(
        LogisticRegression(),
        rounds=1,
        early_stopping=True,
        validation_fraction=0.9,
        random_state=seed,
    ).fit(X, labels)
    assert "rare" in model.estimator_.classes_


def test_a_model_is_judged_by_what_fooled_another():
    """Also by what fools one that comes later."""
    step = np.array([[0.0], [1.0], [2.0], [3.0]])
    labels = np.array([0, 0, 1, 1])
    left = DecisionTreeClassifier().fit(step, labels)
    held = HeldOut(step, labels, np.array([0, 1]))
    assert held.judge(left, TreeExact(0.0, bounds=None)) == 1.0
    # an attack of another reach takes rows of the second, and these take the first
    other = DecisionTreeClassifier().fit(step + 0.1, labels)
    assert held.judge(other, TreeExact(0.6, bounds=None)) == 0.5
    assert held.best is left
    assert held.best_holds.tolist() == [True, False, True, True]


def test_trees_are_seen_through():
    forest = RandomForestClassifier(5, max_depth=3, random_state=0)
    model = make(make_pipeline(StandardScaler(), forest), rounds=1).fit(X, y)
    exact = TreeExact(0.3, bounds=None)
    inside = exact.run(model.estimator_, X[:20], y[:20])
    for around in (model, FrozenEstimator(model), make_pipeline(model)):
        found = exact.run(around, X[:20], y[:20])
        np.testing.assert_array_equal(found.fooled, inside.fooled)
        np.testing.assert_array_equal(found.certified, inside.certified)
    own = make(forest, adversarial_label="adv", rounds=1).fit(X, y)
    with pytest.raises(TypeError, match="TreeExact is for"):
        exact.run(own, X[:5], y[:5])


def test_attacks_in_turn_and_other_starts_in_each_round():
    seeds = []

    class Spy(RandomSearch):
        def rows_to_train_on(self, estimator, X, y):
            seeds.append((self.eps, self.random_state))
            return super().rows_to_train_on(estimator, X, y)

    spies = [Spy(e, max_queries=2, bounds=None, random_state=0) for e in (0.1, 0.2)]
    model = make(LogisticRegression(), attack=spies, rounds=4).fit(X, y)
    assert [eps for eps, _ in seeds] == [0.1, 0.2, 0.1, 0.2]
    assert len({seed for _, seed in seeds}) == 4
    assert [one.eps for one in model.attack_] == [0.1, 0.2]
    make(LogisticRegression(), attack=spies, rounds=4).fit(X, y)
    assert seeds[:4] == seeds[4:]


@pytest.mark.parametrize("estimator", [LogisticRegression(), small_net(max_epochs=2)])
def test_frames_and_spaces_by_name(estimator):
    frame = pd.DataFrame(X, columns=list("abcdef"))
    space = FeatureSpace(eps={"a": 0.5, "b": 0.1}, increasing=["a"])
    attack = PGD(None, space=space, bounds=None, steps=2, random_state=0)
    model = make(estimator, attack=attack, early_stopping=True).fit(frame, y)
    assert list(model.feature_names_in_) == list("abcdef")
    assert model.score(frame, y) > 0.5


REFUSED = {
    "method": "fast",
    "eps_warmup": 1.0,
    "averaging": "ema",
    "weight_perturbation": 0.1,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_for_nets(name):
    with pytest.raises(ValueError, match=f"{name}=.* is for nets"):
        make(LogisticRegression(), **{name: REFUSED[name]}).fit(X, y)


def test_methods_that_need_a_radius():
    class NoRadius(PGD):
        def __init__(self):
            pass

    for params in ({"method": "fast"}, {"eps_warmup": 1}):
        with pytest.raises(ValueError, match=r"has no eps\. Use PGD"):
            make(small_net(), attack=NoRadius(), **params).fit(X, y)


def test_whole_numbers_that_stay_where_they_are_are_told():
    whole = np.random.default_rng(0).integers(0, 6, size=(90, 3))
    labels = whole.sum(axis=1) > 7
    near = PGD(0.5, bounds=None)
    with pytest.warns(UserWarning, match=r"No attack changes the columns \[0, 1, 2\]"):
        make(LogisticRegression(), attack=near).fit(whole, labels)
    # the default goes as far as it takes where that is little, and flags stay
    wide = whole * [1, 1, 3] // [4, 1, 1]
    with pytest.warns(UserWarning, match=r"No attack changes the columns \[0\]"):
        default = make(LogisticRegression(), attack=None).fit(wide, labels)
    np.testing.assert_allclose(default.attack_.eps, [0.1, 1.0, 1.5])
    assert default.history_[0]["attacked_accuracy"] < 1
    space = FeatureSpace.from_data(whole, eps=1.0)
    moved = make(
        LogisticRegression(),
        attack=RandomSearch(None, space=space, max_queries=30, random_state=0),
    ).fit(whole, labels)
    assert moved.history_[0]["attacked_accuracy"] < 1


class Lazy(RandomSearch):
    """Changes every third row."""

    def rows_to_train_on(self, estimator, X, y):
        changed = X.copy()
        changed[::3] += 0.25
        return changed


class Noting(LogisticRegression):
    """Notes the rows and labels of each fit."""

    fits = None

    def fit(self, X, y):
        Noting.fits.append((X, y))
        return super().fit(X, y)


class Splitting(Noting):
    """Would split the rows that it is given."""

    def __init__(self, cv=3):
        super().__init__()
        self.cv = cv


@pytest.fixture
def fits():
    Noting.fits = []
    yield Noting.fits
    Noting.fits = None


def test_a_row_that_stayed_as_it_was_is_no_adversarial_one(fits):
    make(Noting(), attack=Lazy(0.25), adversarial_label="adv", ratio=1.0).fit(X, y)
    rows, labels = fits[-1]
    given = {row.tobytes() for row in X}
    assert (labels == "adv").sum() == 2 * len(X[::3])
    assert not any(row.tobytes() in given for row in rows[labels == "adv"])
    idle = RandomSearch(0.0, bounds=None)
    none = make(LogisticRegression(), attack=idle, adversarial_label="adv")
    with pytest.raises(ValueError, match="changed no row, so that none belongs to"):
        none.fit(X, y)


def test_copies_of_a_row_stand_together_where_rows_are_split(fits):
    """Or one side of a split would tell of the other."""
    near = RandomSearch(1e-7, max_queries=3, bounds=None)
    params = {"attack": near, "ratio": 1.0, "rounds": 2}
    for estimator in (Noting(), Splitting()):
        make(estimator, **params).fit(X, y)
    in_blocks, together = fits[2][0], fits[-1][0]
    np.testing.assert_allclose(in_blocks[: len(X)], X)
    # a split by numbers of rows is about rows as they were given
    own = [(np.arange(60), np.arange(60, 120))]
    make(Splitting(own), **params).fit(X, y)
    np.testing.assert_allclose(fits[-1][0][: len(X)], X)
    triples = together.reshape(len(X), 3, -1)
    assert np.ptp(triples, axis=1).max() < 1e-5
    assert not np.allclose(triples[:, 0], X)  # which came class by class


def test_the_same_seed_keeps_the_same_model_of_the_rounds():
    attack = RandomSearch(0.4, max_queries=15, bounds=None)
    forest = RandomForestClassifier(5)
    models = [
        make(forest, attack=attack, early_stopping=True, rounds=3).fit(X, y)
        for _ in range(3)
    ]
    for model in models[1:]:
        assert model.history_ == models[0].history_
        np.testing.assert_array_equal(
            model.predict_proba(X), models[0].predict_proba(X)
        )


@pytest.mark.parametrize(
    "attack",
    [
        PGD(0.1, targeted=True, bounds=None),
        Transfer(PGD(0.1, targeted=True, bounds=None)),
        [asked, RandomSearch(0.1, targeted=True, bounds=None)],
    ],
)
@pytest.mark.parametrize("estimator", [LogisticRegression(), small_net()])
def test_targeted_attacks_would_move_rows_toward_their_own_class(estimator, attack):
    with pytest.raises(ValueError, match="is targeted, and Adversarially"):
        make(estimator, attack=attack).fit(X, y)
