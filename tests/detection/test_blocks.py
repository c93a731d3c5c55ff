"""Many rows are scored a block at a time, in memory that does not grow with them."""

import tracemalloc

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_advdef import (
    FGSM,
    CombinedDetector,
    DensityDetector,
    DropoutUncertaintyDetector,
    FeatureSqueezingDetector,
)
from sk_advdef.detection import _blocks
from tests._instances import small_net

#: Bytes a row: some columns of scores in float64, and not one of its 20 values each.
SCORES = 64

LINEAR = make_pipeline(StandardScaler(), LogisticRegression())
NET = make_pipeline(StandardScaler(), small_net())
DETECTORS = {
    "density": DensityDetector(LINEAR, random_state=0),
    "mahalanobis": DensityDetector(GaussianNB(), method="mahalanobis", random_state=0),
    "density of a net": DensityDetector(NET, random_state=0),
    "dropout": DropoutUncertaintyDetector(NET, n_passes=3, random_state=0),
    "squeezing": FeatureSqueezingDetector(LINEAR, random_state=0),
    "squeezing a net": FeatureSqueezingDetector(NET, random_state=0),
    "combined": CombinedDetector(
        [
            ("kernels", DensityDetector()),
            ("far", DensityDetector(method="mahalanobis")),
        ],
        estimator=LINEAR,
        attack=FGSM(0.5),
        random_state=0,
    ),
}


def peak(function):
    """Return what NumPy held at most, beside what there was, in bytes."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.filterwarnings("ignore:.*held-out rows cannot tell")
@pytest.mark.parametrize("name", DETECTORS)
def test_memory_is_the_scores_and_some_blocks(name, monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.random((4000, 20), dtype=np.float32)
    y = (X[:, 0] > X[:, 1]).astype(int)
    detector = DETECTORS[name].fit(X[:200], y[:200])
    whole = detector.score_samples(X[:700])
    monkeypatch.setattr(_blocks, "VALUES_AT_A_TIME", 20 * 400)
    scores = detector.score_samples(X[:1000])
    np.testing.assert_allclose(scores[:700], whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        scores[-9:], detector.score_samples(X[991:1000]), rtol=1e-5, atol=1e-6
    )
    few, many = (peak(lambda n=n: detector.predict(X[:n])) for n in (1000, 4000))
    assert (many - few) / 3000 < SCORES
