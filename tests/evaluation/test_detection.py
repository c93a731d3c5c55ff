"""Scores of detectors and of rejection, against toys with known answers."""

import pickle

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, OutlierMixin, TransformerMixin
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_advdef import (
    PGD,
    ConcealedClassifier,
    DensityDetector,
    DropoutUncertaintyDetector,
    RejectingClassifier,
    make_detection_scorer,
    rejection_robust_error,
)
from sk_advdef.attacks._base import Attack
from sk_advdef.attacks._noise import Noise
from tests._instances import make_rows, small_net


class Sign(ClassifierMixin, BaseEstimator):
    """Answers 1 where the first feature is above 0."""

    classes_ = np.array([0, 1])

    def __sklearn_is_fitted__(self):
        return True

    def fit(self, X, y=None):
        return self

    def decision_function(self, X):
        return np.asarray(X)[:, 0]

    def predict(self, X):
        return (self.decision_function(X) > 0).astype(int)


class Second(OutlierMixin, BaseEstimator):
    """Finds a row the more genuine, the smaller its second feature."""

    scale_ = 1.0

    def __init__(self, offset=-1.0):
        self.offset = self.offset_ = offset
        self.estimator_ = Sign()

    def fit(self, X, y=None):
        return self

    def score_samples(self, X):
        return -np.asarray(X, dtype=float)[:, 1]

    def decision_function(self, X):
        return self.score_samples(X) - self.offset_

    def predict(self, X):
        return np.where(self.decision_function(X) >= 0, 1, -1)


class Rejecting(ClassifierMixin, BaseEstimator):
    reject_label_ = -1

    def __init__(self, detector):
        self.detector_, self.estimator_ = detector, Sign()
        self.classes_ = self.estimator_.classes_

    def fit(self, X, y=None):
        return self

    def predict(self, X):
        answers = self.estimator_.predict(X)
        return np.where(self.detector_.predict(X) == -1, -1, answers)


class Shift(Attack):
    """Turns the first feature around at a price: the second grows by a number."""

    targeted, norm, bounds = False, "linf", None

    def __init__(self, price=0.0, eps=100.0):
        self.price, self.eps = price, eps

    def _search(self, problem, rows):
        values = problem.X * [-1, 1] + [0, self.price]
        return values[rows], problem.is_fooled(values[rows], rows), np.ones(len(rows))


def toy(n=100):
    """Return rows whose second feature is their number, of either class in turn."""
    X = np.stack([np.where(np.arange(n) % 2, 1.0, -1.0), np.arange(n) * 1.0], axis=1)
    return X, np.arange(n) % 2


X, y = toy()


@pytest.mark.parametrize("price", [0.0, 30.5, 98.5, 200.0])
def test_metrics(price):
    wrong = y.copy()
    wrong[:10] = 1 - wrong[:10]  # rows that the model gets wrong are not attacked
    detector = Second(offset=-79.0)
    genuine = 79.0 - X[:, 1]
    attacked = genuine[10:] - price
    found = {
        metric: make_detection_scorer(Shift(price), metric=metric)(detector, X, wrong)
        for metric in (
            "balanced_accuracy",
            "roc_auc",
            "tpr_at_fpr_0.05",
            "tpr_at_fpr_0.01",
        )
    }
    truth = np.r_[np.ones(100), np.zeros(90)]
    assert found == {
        "balanced_accuracy": pytest.approx((0.8 + (attacked < 0).mean()) / 2),
        "roc_auc": pytest.approx(roc_auc_score(truth, np.r_[genuine, attacked])),
        "tpr_at_fpr_0.05": pytest.approx((X[10:, 1] + price > 94).mean()),
        "tpr_at_fpr_0.01": pytest.approx((X[10:, 1] + price > 98).mean()),
    }


def test_several_attacks_are_put_together():
    scorer = make_detection_scorer([Shift(0.0), Shift(200.0)])
    assert scorer(Second(offset=-99.0), X, y) == pytest.approx((1 + 0.5) / 2)


def test_too_few_successes():
    scorer = make_detection_scorer(Shift())
    with pytest.warns(UserWarning, match="Only 29 attacks succeeded; at least 30"):
        assert np.isnan(scorer(Second(), *toy(29)))
    assert np.isfinite(scorer(Second(), *toy(30)))
    with pytest.warns(UserWarning, match="Only 0 attacks"):
        assert np.isnan(scorer(Second(), X, 1 - y))


def test_nothing_flagged_is_half():
    detector = Second(offset=-np.inf)
    for metric in ("roc_auc", "balanced_accuracy"):
        assert make_detection_scorer(Shift(), metric=metric)(detector, X, y) == 0.5


def test_scorer_object():
    with pytest.raises(ValueError, match="'metric' parameter of make_detection_scorer"):
        make_detection_scorer(Shift(), metric="f1")
    with pytest.raises(TypeError, match="must be an attack of this package"):
        make_detection_scorer("pgd")
    scorer = make_detection_scorer(PGD(0.1), metric="roc_auc")
    expected = "make_detection_scorer(PGD(eps=0.1), metric='roc_auc')"
    assert repr(scorer) == repr(pickle.loads(pickle.dumps(scorer))) == expected
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        scorer(Second(), X, y[:-1])


class Swap(TransformerMixin, BaseEstimator):
    """Puts the features in the other order."""

    def fit(self, X, y=None):
        return self

    def __sklearn_is_fitted__(self):
        return True

    def transform(self, X):
        return np.asarray(X)[:, ::-1]


class ShiftSwapped(Shift):
    def _search(self, problem, rows):
        values = problem.X * [1, -1] + [self.price, 0]
        return values[rows], problem.is_fooled(values[rows], rows), np.ones(len(rows))


@pytest.mark.parametrize("frozen", [False, True])
def test_a_detector_behind_other_steps(frozen):
    last = FrozenEstimator(Second(-79.0)) if frozen else Second(-79.0)
    scorer = make_detection_scorer(ShiftSwapped(30.0))
    expected = make_detection_scorer(Shift(30.0))(Second(-79.0), X, y)
    assert scorer(make_pipeline(Swap(), last), X[:, ::-1], y) == expected


def test_contamination_can_be_searched():
    rows, labels = make_rows(n_samples=240)
    attack = PGD(2.0, steps=5, bounds=None, random_state=0)
    pipe = make_pipeline(
        StandardScaler(),
        DropoutUncertaintyDetector(small_net(), n_passes=5, random_state=0),
    )
    search = GridSearchCV(
        pipe,
        {"dropoutuncertaintydetector__contamination": [0.1, 0.2]},
        scoring=make_detection_scorer(attack),
        cv=2,
    ).fit(rows, labels)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize(
    "price, expected",
    # the rows rejected are lost; so are those accepted after the attack
    [
        (0.0, {0.0: 1.0, 0.01: 1.0, 0.05: 1.0, 0.5: 1.0}),
        (30.0, {0.0: 0.7, 0.01: 0.7, 0.05: 0.7, 0.5: 0.7}),
        (99.5, {0.0: 0.0, 0.01: 0.01, 0.05: 0.05, 0.5: 0.5}),
    ],
)
def test_rejection_robust_error(price, expected):
    model = Rejecting(Second())
    found = rejection_robust_error(
        model, X, y, attack=[Shift(price)], clean_rejection=list(expected)
    )
    assert found == pytest.approx(expected)
    assert model.detector_.offset_ == -1.0
    wrong = y.copy()
    wrong[:40] = 1 - wrong[:40]
    found = rejection_robust_error(model, X, wrong, attack=[Shift(99.5)])
    assert found == pytest.approx({0.01: 0.41, 0.05: 0.45})
    piped = make_pipeline(Swap(), FrozenEstimator(model))
    found = rejection_robust_error(
        piped, X[:, ::-1], y, attack=[ShiftSwapped(price)], clean_rejection=[*expected]
    )
    assert found == pytest.approx(expected)


def test_errors_of_the_robust_error():
    model = Rejecting(Second())
    with pytest.raises(TypeError, match="judges a RejectingClassifier"):
        rejection_robust_error(LogisticRegression(), X, y, eps=0.1)
    with pytest.raises(ValueError, match="'clean_rejection' parameter of rejection_"):
        rejection_robust_error(model, X, y, eps=0.1, clean_rejection=[1.0])
    with pytest.raises(ValueError, match="eps=None says nothing"):
        rejection_robust_error(model, X, y)


@pytest.mark.parametrize("concealed", [False, True])
def test_the_threshold_moves_behind_other_steps(concealed):
    """A detector in a Pipeline of its own is set to each level of clean rejection."""
    X, y = make_rows(n_samples=240)
    model = LogisticRegression(max_iter=1000).fit(X[:100], y[:100])
    steps = StandardScaler().fit(X[:100])
    inner = DensityDetector(
        FrozenEstimator(LogisticRegression().fit(steps.transform(X[:100]), y[:100])),
        random_state=0,
    )
    detector = make_pipeline(steps, inner.fit(steps.transform(X[100:]), y[100:]))
    defended = RejectingClassifier(
        FrozenEstimator(model), FrozenEstimator(detector)
    ).fit(X[100:])
    if concealed:
        defended = ConcealedClassifier(FrozenEstimator(defended))
    errors = rejection_robust_error(
        defended, X, y, attack=Noise(0.0, bounds=None), clean_rejection=[0, 0.3, 0.9]
    )
    scores = detector.score_samples(X)
    for level, error in errors.items():
        accepted = scores >= np.sort(scores)[int(level * len(scores) * (1 + 1e-12))]
        held = accepted & (model.predict(X) == y)
        assert error == pytest.approx(1 - held.mean())
    assert detector.named_steps["densitydetector"].offset_ == inner.offset_
    # who knows it climbs through the steps before the detector too
    errors = rejection_robust_error(
        defended, X[:40], y[:40], eps=2.0, bounds=None, random_state=0
    )
    assert errors[0.05] > 0.5
