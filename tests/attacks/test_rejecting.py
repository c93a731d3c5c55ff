"""Attacks on what rejects: wrong and accepted, and as little suspicious as can be."""

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_advdef import (
    FGSM,
    PGD,
    DropoutUncertaintyDetector,
    RandomSearch,
    RejectingClassifier,
    rejection_robust_error,
    robust_accuracy_score,
)
from sk_advdef._torch._net import NetClassifier
from tests._instances import make_rows, small_net

X, y = make_rows(n_samples=260)
EPS = 1.5


@pytest.fixture(scope="module")
def parts():
    net = NetClassifier(small_net(max_epochs=25), random_state=0).fit(X[:100], y[:100])
    detector = DropoutUncertaintyDetector(
        FrozenEstimator(net), n_passes=10, contamination=0.2, random_state=0
    ).fit(X[100:200])
    model = RejectingClassifier(FrozenEstimator(net), FrozenEstimator(detector))
    return net, detector, model.fit(X)


ATTACKS = [
    PGD(EPS, steps=20, bounds=None, random_state=0),
    PGD(EPS, steps=20, bounds=None, loss="margin", random_state=0),
    PGD(2 * EPS, steps=20, norm="l2", bounds=None, random_state=0),
    FGSM(EPS, bounds=None),
    RandomSearch(EPS, max_queries=60, bounds=None, random_state=0),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_fooled_is_wrong_and_accepted(attack, parts):
    _, detector, model = parts
    rows, labels = X[200:], y[200:]
    result = attack.run(model, rows, labels)
    answers = model.predict(result.X_adv)
    fooled = (answers != labels) & (answers != "rejected")
    np.testing.assert_array_equal(result.fooled, fooled)
    clean = model.predict(rows)
    before = (clean != labels) & (clean != "rejected")
    assert result.fooled.mean() > before.mean()
    assert (detector.predict(result.X_adv[result.fooled]) == 1).all()
    score = robust_accuracy_score(model, rows, labels, attack=[attack])
    assert score <= ((clean == labels) & ~result.fooled).mean() + 0.05


@pytest.mark.parametrize("attack", [ATTACKS[0], ATTACKS[4]], ids=repr)
def test_one_who_knows_the_detector_fools_more_rows(attack, parts):
    net, detector, model = parts
    rows, labels = X[200:], y[200:]
    ignores = attack.run(net, rows, labels)
    seen = (detector.predict(ignores.X_adv) == 1) & ignores.fooled
    knows = attack.run(model, rows, labels)
    assert knows.fooled.sum() > seen.sum()


def test_it_goes_on_to_the_least_suspicious(parts):
    """Early stop is off: more steps lower the suspicion of rows that are wrong."""
    net, detector, model = parts
    rows, labels = X[200:], y[200:]
    plain = PGD(EPS, steps=40, bounds=None, random_state=0)
    ignores, knows = plain.run(net, rows, labels), plain.run(model, rows, labels)
    both = ignores.fooled & knows.fooled & (net.predict(rows) == labels)
    assert both.sum() > 10
    suspicion = [detector.uncertainty(r.X_adv[both]) for r in (ignores, knows)]
    assert np.median(suspicion[1]) < np.median(suspicion[0])
    lazy = plain.set_params(early_stop=True).run(model, rows, labels)
    eager = plain.set_params(early_stop=False).run(model, rows, labels)
    np.testing.assert_array_equal(lazy.X_adv, eager.X_adv)


def test_a_detector_that_flags_nothing_changes_nothing(parts):
    net, *_ = parts
    rows, labels = X[200:], y[200:]
    with pytest.warns(UserWarning, match="nothing will be flagged"):
        blind = DropoutUncertaintyDetector(FrozenEstimator(net), n_passes=4).fit(X[:5])
    model = RejectingClassifier(FrozenEstimator(net), FrozenEstimator(blind)).fit(X)
    for attack in (ATTACKS[0], ATTACKS[4]):
        fooled = [attack.run(m, rows, labels).fooled.mean() for m in (net, model)]
        assert fooled[1] >= fooled[0] - 0.05


@pytest.mark.parametrize("attack", [ATTACKS[0], ATTACKS[4]], ids=repr)
def test_behind_other_steps(attack):
    scaler = StandardScaler().fit(X[:100])
    Z = scaler.transform(X)
    net = NetClassifier(small_net(), random_state=0).fit(Z[:100], y[:100])
    detector = DropoutUncertaintyDetector(n_passes=8, contamination=0.2, random_state=0)
    last = RejectingClassifier(FrozenEstimator(net), detector).fit(Z[100:200])
    model = make_pipeline(FrozenEstimator(scaler), FrozenEstimator(last)).fit(X)
    rows, labels = X[200:], y[200:]
    result = attack.run(model, rows, labels)
    answers = model.predict(result.X_adv)
    np.testing.assert_array_equal(
        result.fooled, (answers != labels) & (answers != "rejected")
    )
    assert result.fooled.mean() > 0.1
    errors = rejection_robust_error(model, rows, labels, attack=[attack])
    assert 0.1 < errors[0.01] <= 1
