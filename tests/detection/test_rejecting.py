"""The classifier that rejects: whose model, whose rows, and which label."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_advdef import (
    DensityDetector,
    DropoutUncertaintyDetector,
    FeatureSqueezingDetector,
    RejectingClassifier,
    as_module,
)
from sk_advdef._torch._models import genuine_classes_of
from sk_advdef._torch._net import NetClassifier
from tests._instances import make_rows, small_net
from tests._torch._cases import Probabilities, make_net

X, y = make_rows(n_samples=200)
codes = np.unique(y, return_inverse=True)[1]
net = NetClassifier(small_net(), random_state=0).fit(X, y)


def watch(estimator=None, **params):
    given = {"n_passes": 8, "contamination": 0.2, "random_state": 0}
    return DropoutUncertaintyDetector(estimator, **given | params)


fitted = watch(FrozenEstimator(net)).fit(X)


def assert_rejects(model, X):
    flagged = model.detector_.predict(X) == -1
    assert 0 < flagged.mean() < 0.6
    answers = model.predict(X)
    np.testing.assert_array_equal(answers == model.reject_label_, flagged)
    expected = np.asarray(model.estimator_.predict(X))
    np.testing.assert_array_equal(answers[~flagged], expected[~flagged])


@pytest.mark.parametrize(
    "estimator", [small_net(), make_pipeline(StandardScaler(), small_net())]
)
def test_one_model_for_both(estimator, global_generators):
    split = ShuffleSplit(1, test_size=80, random_state=0)
    detector = watch(cv=split)
    model = RejectingClassifier(estimator, detector).fit(X, y)
    assert detector.estimator is None and not hasattr(detector, "offset_")
    assert model.detector_.estimator_.estimator is model.estimator_
    assert_rejects(model, X)
    # the threshold comes from the rows held out, and the model from the others
    held = X[next(split.split(X))[1]]
    share = (model.detector_.predict(held) == -1).mean()
    assert share == (np.floor(0.2 * 81) - 1) / 80
    again = RejectingClassifier(estimator, detector).fit(X, y)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    np.testing.assert_array_equal(model.classes_, np.unique(y))
    assert not hasattr(model, "predict_proba")


def test_a_detector_of_its_own():
    model = RejectingClassifier(LogisticRegression(max_iter=1000), watch(small_net()))
    model.fit(X, y)
    assert isinstance(model.estimator_, LogisticRegression)
    np.testing.assert_allclose(
        model.estimator_.coef_, LogisticRegression(max_iter=1000).fit(X, y).coef_
    )
    assert_rejects(model, X)


def test_frozen_parts(global_generators):
    for estimator, detector in [
        (FrozenEstimator(net), watch()),
        (FrozenEstimator(net), FrozenEstimator(fitted)),
        (LogisticRegression(max_iter=1000), FrozenEstimator(fitted)),
        (small_net(max_epochs=3), FrozenEstimator(fitted)),
    ]:
        model = RejectingClassifier(estimator, detector).fit(X, y)
        assert_rejects(model, X)
    model = RejectingClassifier(FrozenEstimator(net), watch()).fit(X)
    np.testing.assert_array_equal(model.predict(X) == "rejected", fitted.predict(X) < 0)


def test_a_frozen_skorch_net_takes_float64(global_generators):
    with torch.random.fork_rng():
        plain = make_net(Probabilities, criterion=torch.nn.NLLLoss)
        plain.fit(X.astype(np.float32), codes)
    model = RejectingClassifier(FrozenEstimator(plain), FrozenEstimator(fitted))
    model.fit(X)
    np.testing.assert_array_equal(model.classes_, [0, 1, 2])
    assert set(model.predict(X)) <= {-1, 0, 1, 2}


@pytest.mark.parametrize(
    "labels, expected",
    [
        (np.array(["a", "bb", "c"]), "rejected"),
        (np.array(["x", "yy", "z"], dtype=object), "rejected"),
        (np.array([0, 1, 2]), -1),
        (np.array([0, 1, 2], dtype=np.uint8), -1),
        (np.array([-1, 0, 1]), -2),
        (np.array([-3, -1, 5]), -4),
        (np.array([-128, -1, 5], dtype=np.int8), -129),
        (np.array([0.0, 1.0, 2.0]), -1),
    ],
)
def test_the_label_by_default(labels, expected):
    model = RejectingClassifier(
        LogisticRegression(max_iter=1000), FrozenEstimator(fitted)
    ).fit(X, labels[codes])
    assert model.reject_label_ == expected
    assert_rejects(model, X)
    assert set(model.predict(X)) == {expected, *labels.tolist()}
    np.testing.assert_array_equal(genuine_classes_of(model), labels)


@pytest.mark.parametrize(
    "label, labels, message",
    [
        ("ham", y, "'ham' .* is among the labels"),
        (1, codes, "=1 of RejectingClassifier is among the labels"),
        (-1, y, "of another kind than the labels .* Take a string"),
        ("rejected", codes, "of another kind than the labels .* Take a number"),
        (None, y, "of another kind"),
        (0.5, codes, "'reject_label' parameter .* must be an int .* Got 0.5"),
        (-1.0, codes, "must be an int"),
        (2**63, codes, "must be an int"),
        (np.nan, codes.astype(float), "must be a float"),
        ("auto", codes.astype(np.uint64) + np.uint64(2**63), r"beyond 2\*\*63 - 1"),
        ("auto", codes.astype("M8[D]"), r"labels of datetime64\[D\]. Pass them as str"),
    ],
)
def test_bad_labels(label, labels, message):
    model = RejectingClassifier(
        LogisticRegression(max_iter=1000), watch(), reject_label=label
    )
    with pytest.raises(ValueError, match=message):
        model.set_params(detector=FrozenEstimator(fitted)).fit(X, labels)


def test_an_explicit_label():
    model = RejectingClassifier(
        FrozenEstimator(net), FrozenEstimator(fitted), reject_label="no answer at all"
    ).fit(X)
    assert "no answer at all" in model.predict(X)


def test_errors():
    for detector in (LogisticRegression(), None, "dropout"):
        with pytest.raises(
            TypeError, match=r"'detector' parameter of Rejecting.* must"
        ):
            RejectingClassifier(LogisticRegression(), detector).fit(X, y)
    with pytest.raises(ValueError, match="requires y to be passed"):
        RejectingClassifier(small_net(), watch()).fit(X)
    with pytest.raises(TypeError, match="needs a net with dropout"):
        RejectingClassifier(LogisticRegression(max_iter=1000), watch()).fit(X, y)


@pytest.mark.parametrize(
    "model", [LogisticRegression(), small_net(), make_pipeline(LogisticRegression())]
)
def test_a_frozen_model_that_was_never_fitted(model):
    with pytest.raises(NotFittedError, match="instance is not fitted yet"):
        RejectingClassifier(FrozenEstimator(model), FrozenEstimator(fitted)).fit(X)


def test_the_view_is_that_of_the_model():
    model = RejectingClassifier(FrozenEstimator(net), FrozenEstimator(fitted)).fit(X)
    rows = torch.tensor(X[:5])
    assert torch.equal(as_module(model)(rows), as_module(net)(rows))


@pytest.mark.parametrize("kind", [np.uint8, np.uint32, np.uint64])
def test_labels_that_are_never_negative(kind):
    labels = codes.astype(kind)
    detector = DensityDetector(contamination=0.2, random_state=0)
    model = RejectingClassifier(LogisticRegression(max_iter=1000), detector)
    answers = model.fit(X, labels).predict(X)
    assert answers.dtype.kind == "i"
    assert set(answers.tolist()) <= {-1, *labels.tolist()} and (answers == -1).any()


@pytest.mark.parametrize("seed", [0, np.random.RandomState(0)])
def test_a_seed_is_for_the_model_too(seed):
    forest = RandomForestClassifier(5)

    def answers(model):
        fit = clone(model).fit(X, y)
        watched = fit.detector_ if isinstance(fit, RejectingClassifier) else fit
        return watched.score_samples(X)

    squeezing = FeatureSqueezingDetector(forest, random_state=seed)
    shared = RejectingClassifier(forest, clone(squeezing).set_params(estimator=None))
    for model in (squeezing, shared):
        np.testing.assert_array_equal(answers(model), answers(model))


def test_every_label_is_a_class():
    labels = y.copy()
    labels[5] = "yam"
    for seed in range(8):
        detector = FeatureSqueezingDetector(random_state=seed)
        model = RejectingClassifier(LogisticRegression(max_iter=1000), detector)
        assert "yam" in model.fit(X, labels).classes_
