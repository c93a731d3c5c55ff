"""What both training estimators refuse, and their small helpers."""

import re
import threading
import warnings
from functools import partial

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from joblib import Parallel, delayed
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    IsolationForest,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import LinearSVC

from sk_advdef import (
    AdversariallyAugmentedClassifier,
    CertifiedClassifier,
    DistilledClassifier,
)
from sk_advdef._torch import _random
from sk_advdef._torch._models import torch_generators_kept
from sk_advdef._torch._random import seeded
from sk_advdef.training._base import has_sample_weight, stacked
from tests._instances import make_rows, small_net

X, y = make_rows()
TRAINING = [DistilledClassifier, AdversariallyAugmentedClassifier]


@pytest.mark.parametrize("cls", TRAINING)
@pytest.mark.parametrize("last", [LogisticRegression(), small_net()])
def test_frozen_is_refused(cls, last):
    for frozen in (
        FrozenEstimator(last),
        make_pipeline(StandardScaler(), FrozenEstimator(last)),
    ):
        with pytest.raises(
            ValueError, match=r"is frozen: (.|\n)*Pass the model itself"
        ):
            cls(frozen).fit(X, y)


@pytest.mark.parametrize("cls", TRAINING)
def test_what_cannot_be_trained(cls):
    mute = VotingClassifier([("one", LinearSVC())])
    with pytest.raises(TypeError, match=r"no predict_proba"):
        cls(mute).fit(X, y)
    with pytest.raises(
        TypeError, match=r"'estimator' parameter of .* Got 'net' instead"
    ):
        cls("net").fit(X, y)
    for other in (IsolationForest(), GaussianMixture(3)):
        with pytest.raises(TypeError, match=r"no predict_proba|is for another task"):
            cls(other).fit(X, y)
    for nested in (DistilledClassifier, AdversariallyAugmentedClassifier):
        with pytest.raises(TypeError, match="Pass the skorch net itself"):
            cls(make_pipeline(StandardScaler(), nested(small_net()))).fit(X, y)


@pytest.mark.parametrize("cls", TRAINING)
def test_training_around_training_of_a_classifier(cls):
    model = cls(DistilledClassifier(LogisticRegression(), temperature=2)).fit(X, y)
    assert model.score(X, y) > 0.8


@pytest.mark.parametrize("cls", TRAINING)
def test_labels_are_checked(cls):
    for estimator in (LogisticRegression(), small_net()):
        with pytest.raises(ValueError, match="requires y to be passed"):
            cls(estimator).fit(X, None)
        with pytest.raises(ValueError, match="Unknown label type"):
            cls(estimator).fit(X, np.linspace(0, 1, len(X)))
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            cls(estimator).fit(X, y[:-1])


@pytest.mark.parametrize("cls", TRAINING)
def test_the_same_seed_the_same_model(cls, global_generators):
    given = small_net(max_epochs=2)
    a, b, c = (cls(given, random_state=s).fit(X, y).predict_proba(X) for s in (3, 3, 4))
    np.testing.assert_array_equal(a, b)
    assert not np.allclose(a, c)


@pytest.mark.parametrize("cls", [*TRAINING, partial(CertifiedClassifier, eps=0.1)])
def test_the_same_seed_the_same_model_in_threads(cls, global_generators):
    """Generators are one for all threads: nets take turns."""
    rows = MinMaxScaler().fit_transform(X).astype(np.float32)
    model = cls(small_net(max_epochs=3), random_state=0)
    alone = clone(model).fit(rows, y).predict_proba(rows)

    def answers():
        return clone(model).fit(rows, y).predict_proba(rows)

    for found in Parallel(2, prefer="threads")(delayed(answers)() for _ in range(4)):
        np.testing.assert_array_equal(found, alone)


def test_a_thread_that_keeps_generators_waits_for_nobody():
    start, go = threading.Event(), threading.Event()
    drawn = []

    def train():
        with seeded(3):
            drawn.append(torch.rand(2))
            start.set()
            assert go.wait(60)
            drawn.append(torch.rand(2))

    other = threading.Thread(target=train)
    before = torch.get_rng_state()
    with torch_generators_kept():
        other.start()
        assert start.wait(60)
    go.set()
    other.join()
    with seeded(3):
        torch.testing.assert_close(torch.cat(drawn), torch.rand(4), rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_turn_that_does_not_come_is_told(monkeypatch, global_generators):
    """A thread may be waited for by the one that it waits for."""
    monkeypatch.setattr(_random, "PATIENCE", 0.05)
    found = []

    def beside():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with seeded(0):
                found.append(float(torch.rand(1)))
        found.append([str(one.message) for one in caught])

    with seeded(1):
        other = threading.Thread(target=beside)
        other.start()
        other.join(60)
        assert not other.is_alive()
    with seeded(0):
        assert found[0] == float(torch.rand(1))
    assert "Another thread has drawn under a seed" in found[1][0]


def test_sample_weight_reaches_the_last_step():
    assert has_sample_weight(RandomForestClassifier())
    assert not has_sample_weight(make_pipeline(KNeighborsClassifier()))
    pipe = make_pipeline(StandardScaler(), make_pipeline(LogisticRegression()))
    assert has_sample_weight(pipe)
    for inner, takes in ((KNeighborsClassifier(), False), (pipe, False), (None, True)):
        assert has_sample_weight(CalibratedClassifierCV(inner)) == takes
    assert has_sample_weight(CalibratedClassifierCV(LogisticRegression()))


@pytest.mark.parametrize("cls", TRAINING)
def test_tags_of_what_is_no_classifier(cls):
    """Searches ask for tags before ``fit`` can say what is wrong."""
    model = cls(LinearRegression())
    assert is_classifier(model)
    with pytest.raises((TypeError, ValueError), match="LinearRegression"):
        model.fit(X, y)


def test_stacked():
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    for kind in (pd.DataFrame, pl.DataFrame):
        one = kind({"a": rows[:, 0], "b": rows[:, 1]})
        both = stacked([one, one])
        assert type(both) is kind and list(both.columns) == ["a", "b"]
        np.testing.assert_array_equal(both.to_numpy(), np.vstack([rows, rows]))
    assert stacked([rows, rows.tolist()]).shape == (6, 2)


def test_messages_name_ours():
    with pytest.raises(ValueError, match=re.escape("'temperature' parameter of Dist")):
        DistilledClassifier(LogisticRegression(), temperature=0.5).fit(X, y)
    for name, value in {
        "ratio": 0,
        "rounds": 0,
        "method": "slow",
        "attack": "pgd",
    }.items():
        model = AdversariallyAugmentedClassifier(LogisticRegression(), **{name: value})
        with pytest.raises(ValueError, match=f"'{name}' parameter of Adversarially"):
            model.fit(X, y)
