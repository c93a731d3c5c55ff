"""Accuracy under attack, as a score and in searches."""

import pickle
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_advdef import (
    FGSM,
    PGD,
    RandomSearch,
    certified_accuracy_score,
    make_robust_scorer,
    robust_accuracy_score,
)


@pytest.fixture(scope="module")
def flowers():
    """Iris as users have it: a DataFrame with an index of its own, names for labels."""
    X, y = load_iris(return_X_y=True, as_frame=True)
    order = np.random.default_rng(0).permutation(len(X))
    names = np.array(["setosa", "versicolor", "virginica"])
    X = X.iloc[order]
    y = pd.Series(names[y.iloc[order]], index=X.index)
    return X, y


@pytest.fixture(scope="module")
def model(flowers):
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(*flowers)


class Rejecting(ClassifierMixin, BaseEstimator):
    """Answers "rejected" on what is not ``trusted``; its scores say nothing of it."""

    def __init__(self, model, trusted, label="rejected"):
        self.model, self.trusted, self.label = model, trusted, label
        self.classes_ = model.classes_

    def decision_function(self, X):
        return self.model.decision_function(X)

    def predict(self, X):
        answers = self.model.predict(X).astype(object)
        return np.where(self.trusted(np.asarray(X)), answers, self.label)


def test_worst_case_per_row(model, flowers):
    X, y = flowers
    attacks = [
        FGSM(0.4, bounds=None),
        PGD(0.3, norm="l2", bounds=None, random_state=0),
        RandomSearch(0.35, max_queries=30, bounds=None, random_state=0),
    ]
    held = np.logical_and.reduce([~a.run(model, X, y).fooled for a in attacks])
    score = robust_accuracy_score(model, X, y, attack=attacks)
    # later attacks meet fewer rows, so theirs have other positions and other draws
    assert abs(score - held.mean()) <= 0.03
    alone = [robust_accuracy_score(model, X, y, attack=[a]) for a in attacks]
    assert score <= min(alone) and max(alone) < model.score(X, y)
    for attack, one in zip(attacks, alone, strict=True):
        assert abs(one - np.mean(~attack.run(model, X, y).fooled)) <= 0.02


def test_default_attacks(model, flowers):
    X, y = flowers
    params = {"bounds": (0, 10), "random_state": 0}
    scores = [robust_accuracy_score(model, X, y, eps=e, **params) for e in (0, 0.3, 3)]
    assert scores[0] == model.score(X, y) > scores[1] > scores[2]
    assert type(scores[0]) is float
    gradient = PGD(0.3, bounds=(0, 10), random_state=0)
    assert scores[1] <= robust_accuracy_score(model, X, y, attack=gradient)
    assert scores[1] == robust_accuracy_score(model, X, y, eps=0.3, **params)
    per_feature = np.array([0.3, 0, 0, 0])
    assert robust_accuracy_score(model, X, y, eps=per_feature, **params) > scores[1]


@pytest.mark.parametrize("make", [False, True])
def test_says_too_little_or_too_much(make, model, flowers):
    def call(**params):
        if make:
            return make_robust_scorer(**params)
        return robust_accuracy_score(model, *flowers, **params)

    with pytest.raises(ValueError, match="eps=None says nothing"):
        call()
    with pytest.raises(ValueError, match=r"Both attack and eps=0.1 are given"):
        call(attack=FGSM(0.1), eps=0.1)
    with pytest.raises(ValueError, match="empty list"):
        call(attack=[])
    with pytest.raises(TypeError, match=r"must be an attack of this package.*'pgd'"):
        call(attack=["pgd"])


def test_bad_input(model, flowers):
    X, y = flowers
    with pytest.raises(ValueError, match=r"(?s)outside .*bounds=\(X.min"):
        robust_accuracy_score(model, X, y, eps=0.1)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        robust_accuracy_score(model, X, y[:3], eps=0.1, bounds=None)


def test_single_attack_warns(flowers):
    for attack in (PGD(0.1), [PGD(0.1)]):
        with pytest.warns(UserWarning, match=r"One attack alone, PGD\(eps=0.1\)"):
            make_robust_scorer(attack)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_robust_scorer(eps=0.1)
        make_robust_scorer([PGD(0.1), RandomSearch(0.1)])


def test_no_view_warns(flowers):
    X, y = flowers
    model = make_pipeline(StandardScaler(), KNeighborsClassifier()).fit(X, y)
    params = {"eps": 0.4, "bounds": None, "random_state": 0}
    with pytest.warns(UserWarning, match="KNeighborsClassifier has no differentiable"):
        score = robust_accuracy_score(model, X, y, **params)
    search = RandomSearch(0.4, bounds=None, random_state=np.random.RandomState(0))
    assert score < model.score(X, y) - 0.1
    assert abs(score - robust_accuracy_score(model, X, y, attack=search)) < 0.05


def test_scorer_object(model, flowers):
    scorer = make_robust_scorer(eps=0.3, bounds=(0, 10), random_state=0)
    assert repr(scorer) == (
        "make_robust_scorer(eps=0.3, bounds=(0, 10), random_state=0)"
    )
    expected = robust_accuracy_score(
        model, *flowers, eps=0.3, bounds=(0, 10), random_state=0
    )
    assert scorer(model, *flowers) == expected
    again = pickle.loads(pickle.dumps(scorer))
    assert repr(again) == repr(scorer) and again(model, *flowers) == expected
    attacks = [FGSM(0.1), PGD(0.1)]
    assert re.fullmatch(
        r"make_robust_scorer\(\[FGSM\(eps=0.1\), PGD\(eps=0.1\)\]\)",
        repr(make_robust_scorer(attacks)),
    )


def test_cross_validate(flowers):
    X, y = flowers
    scoring = {
        "clean": "accuracy",
        "robust": make_robust_scorer(eps=0.3, bounds=(0, 10), random_state=0),
    }
    found = cross_validate(LogisticRegression(), X, y, scoring=scoring, cv=3)
    assert (found["test_robust"] < found["test_clean"]).all()
    assert (found["test_robust"] > 0.3).all()


@pytest.mark.parametrize("routing", [False, True])
def test_grid_search(routing, flowers):
    X, y = flowers
    scorer = make_robust_scorer(
        [
            PGD(0.4, steps=10, bounds=(0, 10), random_state=0),
            RandomSearch(0.4, max_queries=30, bounds=(0, 10), random_state=0),
        ]
    )
    pipe = make_pipeline(StandardScaler(), LogisticRegression())
    with sklearn.config_context(enable_metadata_routing=routing):
        search = GridSearchCV(
            pipe,
            {"logisticregression__C": [1e-4, 1.0]},
            scoring={"clean": "accuracy", "robust": scorer},
            refit="robust",
            cv=3,
            n_jobs=2,
        ).fit(X, y)
        assert search.score(X, y) == scorer(search.best_estimator_, X, y)
    found = search.cv_results_
    assert search.best_score_ == found["mean_test_robust"].max()
    assert (found["mean_test_robust"] < found["mean_test_clean"]).all()
    alone = GridSearchCV(pipe, search.param_grid, scoring=scorer, cv=3).fit(X, y)
    np.testing.assert_array_equal(
        alone.cv_results_["mean_test_score"], found["mean_test_robust"]
    )


@pytest.mark.parametrize("score", [robust_accuracy_score, certified_accuracy_score])
@pytest.mark.parametrize(
    ("named", "labels", "message"),
    [
        (True, lambda y: y, "answers with such as 'a'"),
        (False, lambda y: y.astype(str), "answers with such as 0"),
        (False, lambda y: y + 0.5, "answers with such as 0"),
        (False, lambda y: np.where(y, y, np.nan), "NaN or infinity"),
    ],
)
def test_labels_that_can_be_no_classes(score, named, labels, message):
    X, y = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=1000)
    model.fit(X, np.array(list("abc"))[y] if named else y)
    with pytest.raises(ValueError, match=message):
        score(model, X, labels(y), eps=0.1, bounds=None)


@pytest.mark.filterwarnings("ignore:LinearRegression has no differentiable view")
@pytest.mark.parametrize("score", [robust_accuracy_score, certified_accuracy_score])
def test_labels_and_models_of_other_kinds(score):
    X, y = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=1000).fit(X, y)
    threat = {"eps": 0.1, "bounds": None}
    if score is robust_accuracy_score:
        threat["random_state"] = 0
    found = score(model, X, y.astype(float), **threat)
    assert found == score(model, X, y, **threat) > 0.5
    assert score(model, X[:3], np.full(3, 7), **threat) == 0
    with pytest.raises(ValueError, match="must be a fitted classifier"):
        score(LinearRegression().fit(X, y), X, y, **threat)


@pytest.mark.parametrize("score", [robust_accuracy_score, certified_accuracy_score])
@pytest.mark.parametrize("forest", [False, True])
def test_a_search_is_what_it_chose(score, forest):
    X, y = load_iris(return_X_y=True)
    inner = RandomForestClassifier(3, max_depth=2, random_state=0)
    inner = inner if forest else LogisticRegression(max_iter=1000)
    grid = {"max_depth": [2]} if forest else {"C": [1.0]}
    search = GridSearchCV(inner, grid, cv=2).fit(X, y)
    attack = RandomSearch(0.2, max_queries=20, bounds=None, random_state=0)
    threat = {"eps": 0.2, "bounds": None}
    if score is robust_accuracy_score:
        threat = {"attack": attack} if forest else threat | {"random_state": 0}
    expected = score(search.best_estimator_, X, y, **threat)
    pipe = Pipeline([("same", "passthrough"), ("search", search)])
    nested = Pipeline([("outer", pipe)])
    for model in (search, FrozenEstimator(search), pipe, FrozenEstimator(nested)):
        assert score(model, X, y, **threat) == expected


def test_weights_in_a_search_over_several_scores(flowers):
    X, y = flowers
    scoring = {
        "clean": "accuracy",
        "robust": make_robust_scorer(eps=0.1, bounds=None, random_state=0),
    }
    search = GridSearchCV(
        LogisticRegression(max_iter=1000), {"C": [1.0]}, scoring=scoring, refit="robust"
    )
    with warnings.catch_warnings():
        # newer versions tell that the scores take no weights
        warnings.simplefilter("ignore", UserWarning)
        search.fit(X, y, sample_weight=np.ones(len(y)))
    assert search.best_score_ <= search.cv_results_["mean_test_clean"][0]


@pytest.mark.parametrize("label", ["rejected", -1])
def test_rejection_is_the_attackers_failure(label, model, flowers):
    X, y = flowers
    X, y = X.to_numpy(), y.to_numpy()
    plain = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    seen = {row.tobytes() for row in X}
    strict = Rejecting(plain, lambda A: [r.tobytes() in seen for r in A], label)
    attack = RandomSearch(2.0, max_queries=30, bounds=None, random_state=0)
    clean = plain.score(X, y)
    assert robust_accuracy_score(plain, X, y, attack=attack) < 0.2 < clean
    # whatever is changed is rejected: the attacker has nothing
    assert robust_accuracy_score(strict, X, y, attack=attack) == clean
    result = attack.run(strict, X, y)
    np.testing.assert_array_equal(result.fooled, plain.predict(X) != y)
    # a rejected clean row is lost, though nobody was fooled
    none = Rejecting(plain, lambda A: np.zeros(len(A), dtype=bool), label)
    assert robust_accuracy_score(none, X, y, attack=attack) == 0
    assert not attack.run(none, X, y).fooled.any()


def test_attack_goes_on_past_rejection(flowers):
    """Rows far from the boundary on the wrong side are trusted again."""
    X, y = flowers
    rows = (y != "virginica").to_numpy()
    X, y = X.to_numpy()[rows], y.to_numpy()[rows]
    model = LogisticRegression().fit(X, y)
    sure = Rejecting(model, lambda A: np.abs(model.decision_function(A)) > 2)
    attack = RandomSearch(1.5, max_queries=200, bounds=None, random_state=0)
    right = sure.predict(X) == y
    assert right.mean() > 0.9
    result = attack.run(sure, X[right], y[right])
    # turning far enough on the wrong side is within reach of the ball
    reach = 1.5 * np.abs(model.coef_).sum()
    able = np.abs(model.decision_function(X[right])) + 2.1 < reach
    assert able.any() and result.fooled[able].mean() > 0.9
    assert (np.abs(model.decision_function(result.X_adv[result.fooled])) > 2).all()


@pytest.mark.parametrize("attack", [None, [FGSM(0.1, bounds=None)]])
def test_leaves_generators_alone(attack, model, flowers, global_generators):
    params = {"eps": 0.1, "bounds": None} if attack is None else {"attack": attack}
    robust_accuracy_score(model, *flowers, **params)


def test_votes_without_scores_are_asked_for_labels():
    X, y = load_iris(return_X_y=True)
    votes = VotingClassifier(
        [("a", LogisticRegression(max_iter=500)), ("b", KNeighborsClassifier())]
    )
    with pytest.warns(UserWarning, match="HopSkipJump, which only asks"):
        score = robust_accuracy_score(
            votes.fit(X, y), X[::15], y[::15], eps=0.5, bounds=None, random_state=0
        )
    assert 0 <= score < 1
