"""The detector by dropout: its scores, its threshold, and what it leaves alone."""

import copy
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from scipy.stats import entropy
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sk_advdef import (
    PGD,
    AdversariallyAugmentedClassifier,
    DropoutUncertaintyDetector,
    as_score_module,
)
from sk_advdef._torch import _sampled
from sk_advdef._torch._net import NetClassifier
from sk_advdef.detection import _dropout
from sk_advdef.detection._dropout import (
    LOGIT_STATISTICS,
    NAMES,
    STATISTICS,
    logit_margin,
    logit_variance,
    soft_variation_ratio,
)
from tests._instances import make_rows, small_net
from tests._torch._cases import make_net

X, y = make_rows(n_samples=200)


def make(estimator=None, **params):
    given = {"n_passes": 10, "contamination": 0.1, "random_state": 0}
    return DropoutUncertaintyDetector(estimator, **given | params)


@pytest.fixture(scope="module")
def detector():
    return make(small_net(), cv=0.4).fit(X, y)


def test_statistics():
    rng = np.random.default_rng(0)
    proba = softmax(3 * rng.normal(size=(20, 30, 4)), axis=-1)
    mean = proba.mean(axis=0)
    votes = np.array([np.bincount(v, minlength=4).max() for v in proba.argmax(-1).T])
    expected = {
        "variance": proba.var(axis=0).mean(axis=1),
        "predictive_entropy": entropy(mean, axis=1),
        "mutual_information": entropy(mean, axis=1)
        - entropy(proba, axis=2).mean(axis=0),
        "variation_ratio": 1 - votes / 20,
    }
    assert expected.keys() == STATISTICS.keys()
    for name, statistic in STATISTICS.items():
        np.testing.assert_allclose(statistic(proba), expected[name], atol=1e-12)
        smooth = soft_variation_ratio if name == "variation_ratio" else statistic
        tensor = torch.tensor(proba, requires_grad=True)
        found = smooth(tensor)
        np.testing.assert_allclose(found.detach(), expected[name], atol=1e-12)
        assert (torch.autograd.grad(found.sum(), tensor)[0] != 0).any()
        sure = np.zeros((5, 2, 3))
        sure[:, :, 1] = 1
        np.testing.assert_allclose(statistic(sure), 0, atol=1e-12)


def test_statistics_of_logits():
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(20, 30, 4))
    best = np.sort(logits.mean(axis=0), axis=1)
    centered = logits - logits.mean(axis=2, keepdims=True)
    expected = {
        "logit_margin": best[:, -2] - best[:, -1],
        "logit_variance": centered.var(axis=0).mean(axis=1),
    }
    assert expected.keys() == LOGIT_STATISTICS.keys()
    shift = 100 * rng.normal(size=(20, 30, 1))
    for name, statistic in LOGIT_STATISTICS.items():
        np.testing.assert_allclose(statistic(logits), expected[name], atol=1e-12)
        # what softmax does not see is not seen
        np.testing.assert_allclose(statistic(logits + shift), expected[name])
        tensor = torch.tensor(logits, requires_grad=True)
        found = statistic(tensor)
        np.testing.assert_allclose(found.detach(), expected[name], atol=1e-12)
        assert (torch.autograd.grad(found.sum(), tensor)[0] != 0).any(dim=0).any()
    agreed = np.tile(logits[:1], (5, 1, 1))
    np.testing.assert_allclose(logit_variance(agreed), 0, atol=1e-12)
    # where all probabilities are as good as sure, logits still tell
    sure, surer = (np.array([[[s, 0.0]]]) for s in (50.0, 90.0))
    assert logit_margin(surer) < logit_margin(sure) < 0


def test_several_statistics_of_the_same_passes(detector):
    counted = []
    passes = detector._passes
    detector = copy.copy(detector)
    detector._passes = lambda X: counted.append(len(X)) or passes(X)
    found = detector.statistics(X)
    assert counted == [len(X)] and found.shape == (len(X), len(NAMES))
    for name, column in zip(NAMES, found.T, strict=True):
        alone = copy.copy(detector).set_params(statistic=name)
        np.testing.assert_array_equal(column, alone.uncertainty(X))
    two = detector.statistics(X[:5], ["logit_margin", "variance"])
    np.testing.assert_allclose(two, found[:5][:, [4, 0]], rtol=1e-5)
    for bad in ([], "variance", ["std"]):
        with pytest.raises(ValueError, match="'names' parameter of Dropout"):
            detector.statistics(X, bad)


def test_memory_does_not_grow_with_the_passes_of_all_rows(detector, monkeypatch):
    """Passes of one block of rows at a time are held."""
    alive = []

    def watched(logits, names):
        alive.append(weakref.ref(logits))
        assert sum(ref() is not None for ref in alive) <= 2
        return of_passes(logits, names)

    of_passes = _dropout.of_passes
    monkeypatch.setattr(_dropout, "of_passes", watched)
    monkeypatch.setattr(_sampled, "CELLS_AT_A_TIME", 1)
    detector.score_samples(X)
    assert len(alive) == len(X) / 8


@pytest.mark.parametrize("statistic", NAMES)
def test_the_view_of_suspicion(statistic, detector):
    pipe = make_pipeline(StandardScaler(), small_net(max_epochs=5))
    found = make(pipe, statistic=statistic, contamination=0.2).fit(X, y)
    rows = torch.tensor(X[:6], requires_grad=True)
    suspicion = as_score_module(found)
    values = suspicion(rows)
    np.testing.assert_allclose(values.detach(), -found.score_samples(X[:6]), atol=1e-6)
    gradient = torch.autograd.grad(values.sum(), rows)[0].numpy()
    assert (gradient != 0).any(axis=1).any()
    if statistic == "variation_ratio":
        return  # of steps; the gradient is that of its smooth kin
    suspicion.double()
    step = np.random.default_rng(0).normal(size=X[:6].shape)
    ahead, behind = (
        suspicion(torch.tensor(X[:6] + h * step)).detach().numpy()
        for h in (1e-6, -1e-6)
    )
    slope = (ahead - behind) / 2e-6
    np.testing.assert_allclose(
        (gradient * step).sum(axis=1), slope, rtol=1e-2, atol=1e-5
    )


def test_fixed_masks_repeat(detector, global_generators):
    scores = detector.score_samples(X)
    assert scores.dtype == np.float64 and scores.shape == (len(X),)
    tolerance = {"rtol": 1e-5, "atol": 1e-7}
    np.testing.assert_array_equal(detector.score_samples(X), scores)
    backwards = detector.score_samples(X[::-1])
    np.testing.assert_allclose(backwards, scores[::-1], **tolerance)
    for rows in (slice(0, 1), slice(7, 10), slice(50, 51)):
        np.testing.assert_allclose(
            detector.score_samples(X[rows]), scores[rows], **tolerance
        )
    again = make(small_net(), cv=0.4).fit(X, y)
    np.testing.assert_allclose(again.score_samples(X), scores, **tolerance)
    many = np.tile(X, (40, 1))
    np.testing.assert_allclose(
        detector.score_samples(many), np.tile(scores, 40), **tolerance
    )


def test_fresh_masks_differ(detector, global_generators):
    frozen = FrozenEstimator(detector.estimator_)
    fresh = make(frozen, masks="fresh").fit(X)
    assert not np.allclose(fresh.score_samples(X), fresh.score_samples(X))
    fixed = make(frozen, n_passes=600).fit(X).score_samples(X)
    fresh.set_params(n_passes=600)
    assert np.corrcoef(fresh.score_samples(X), fixed)[0, 1] > 0.8
    assert fresh.__sklearn_tags__().non_deterministic
    assert not detector.__sklearn_tags__().non_deterministic


def test_answers(detector):
    decision = detector.decision_function(X)
    proba = detector.predict_proba(X)
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    np.testing.assert_allclose(proba[:, 1], expit(decision / detector.scale_))
    order = np.argsort(decision)
    assert (np.diff(proba[order, 1]) >= 0).all()
    np.testing.assert_array_equal(proba[:, 1] >= 0.5, detector.predict(X) == 1)
    mean = detector.mean_proba(X)
    assert mean.shape == (len(X), 3)
    np.testing.assert_allclose(mean.sum(axis=1), 1)
    named = detector.estimator_.classes_[mean.argmax(axis=1)]
    assert (named == y).mean() > 0.8
    np.testing.assert_array_equal(detector.uncertainty(X), -detector.score_samples(X))


@pytest.mark.filterwarnings("ignore:5 held-out rows cannot tell")
def test_nothing_is_flagged_where_rows_are_too_few(detector):
    found = make(FrozenEstimator(detector.estimator_)).fit(X[:5])
    assert found.offset_ == -np.inf and found.scale_ > 0
    far = np.vstack([X, 100 * X])
    assert (found.predict(far) == 1).all()
    np.testing.assert_array_equal(found.predict_proba(far), [[0, 1]] * len(far))


def test_false_positives_of_a_frozen_model(digits):
    """On fresh genuine rows, over many draws of the rows for the threshold."""
    frozen = FrozenEstimator(digits.model)
    rng = np.random.default_rng(0)
    flagged, splits = [], 20
    for _ in range(splits):
        order = 600 + rng.permutation(len(digits.X) - 600)
        cal, fresh = digits.X[order[:300]], digits.X[order[300:]]
        found = make(frozen, contamination=0.05).fit(cal)
        flagged.append((found.predict(fresh) == -1).mean())
    assert_near(np.mean(flagged), 15 / 301, 300, len(fresh), splits)


def assert_near(rate, expected, n_cal, n_fresh, splits=1):
    """Compare with what is drawn for the threshold and for the test, 4 deviations."""
    variance = expected * (1 - expected) * (1 / n_cal + 1 / n_fresh) / splits
    assert abs(rate - expected) < 4 * variance**0.5


@pytest.mark.parametrize("seed", range(3))
def test_false_positives_of_a_fresh_model(seed, digits):
    order = np.random.default_rng(seed).permutation(len(digits.X))
    part, fresh = order[:900], order[900:]
    found = make(digits.net, contamination=0.1, cv=1 / 3, random_state=seed)
    found.fit(digits.X[part], digits.y[part])
    rate = (found.predict(digits.X[fresh]) == -1).mean()
    assert_near(rate, 30 / 301, 300, len(fresh))


def test_attacked_rows_are_flagged_more_often(digits):
    found = make(FrozenEstimator(digits.model), n_passes=30)
    found.fit(digits.X[600:1000])
    X, y = digits.X[1000:1200], digits.y[1000:1200]
    result = PGD(0.1, random_state=0).run(digits.model, X, y)
    assert result.fooled.sum() > 50
    share = (found.predict(result.X_adv[result.fooled]) == -1).mean()
    assert share > 2 * (found.predict(X) == -1).mean()


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, 3)
        )

    def forward(self, X):
        return self.layers(X)


@pytest.mark.parametrize("training", [False, True])
def test_the_module_is_left_alone(training):
    net = make_net(Normed).fit(X.astype(np.float32), np.arange(len(X)) % 3)
    net.module_.train(training).zero_grad()
    state = copy.deepcopy(net.module_.state_dict())
    found = make(FrozenEstimator(net)).fit(X)
    found.predict(X)
    rows = torch.tensor(X[:3], requires_grad=True)
    as_score_module(found)(rows).sum().backward()
    assert all(m.training == training for m in net.module_.modules())
    assert all(p.requires_grad and p.grad is None for p in net.module_.parameters())
    for name, value in net.module_.state_dict().items():
        assert torch.equal(value, state[name])


def test_threads(detector):
    expected = detector.score_samples(X)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(detector.score_samples, [X] * 24):
            np.testing.assert_array_equal(found, expected)


def test_kinds_of_nets():
    pipe = make_pipeline(StandardScaler(), small_net(max_epochs=5))
    trained = AdversariallyAugmentedClassifier(
        pipe, attack=PGD(0.1, steps=2, bounds=None)
    )
    images = X.reshape(-1, 2, 3)
    for estimator, rows in [
        (None, X),
        (pipe, X),
        (trained, X),
        (make_pipeline(StandardScaler(), small_net()), X.astype(np.float32)),
        (small_net(max_epochs=3), images),
    ]:
        found = make(estimator).fit(rows, y)
        assert set(found.predict(rows)) <= {-1, 1}
        assert found.mean_proba(rows).shape == (len(X), 3)
    net = NetClassifier(small_net(max_epochs=3)).fit(X, y)
    whole = make_pipeline(StandardScaler(), FrozenEstimator(net)).fit(X)
    assert make(whole).fit(X).estimator_ is whole


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.LazyLinear(3)

    def forward(self, X):
        return self.out(nn.functional.dropout(X, training=self.training))


@pytest.mark.parametrize(
    "detector, error, message",
    [
        (make(LogisticRegression()), TypeError, "needs a net with dropout.*Got Logis"),
        (make(make_net(Bare)), ValueError, "Give the net torch.nn.Dropout modules"),
        (make(make_net(module__dropout=0.0)), ValueError, "no dropout module with p >"),
        (make(n_passes=1), ValueError, "'n_passes' parameter of Dropout"),
        (make(statistic="std"), ValueError, "'statistic' parameter of Dropout"),
        (make(masks="new"), ValueError, "'masks' parameter of Dropout"),
    ],
)
def test_errors(detector, error, message):
    with pytest.raises(error, match=message):
        detector.fit(X, y)


def test_labels_are_needed_to_fit_a_model():
    with pytest.raises(ValueError, match=r"y is None.*FrozenEstimator\(fitted_model\)"):
        make(small_net()).fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(FrozenEstimator(NetClassifier(small_net()).fit(X, y))).fit(X)
