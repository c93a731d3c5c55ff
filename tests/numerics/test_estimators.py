"""Estimators on float32 and float64 rows, on tiny and huge ones, at their limits."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

from sk_advdef import (
    CombinedDetector,
    DensityDetector,
    DistilledClassifier,
    DropoutUncertaintyDetector,
)
from sk_advdef.detection._density import METHODS
from sk_advdef.detection._dropout import NAMES
from tests._instances import make_rows, outputs, small_net
from tests.fuzz._targets import ESTIMATORS, fitted

TRANSFORMS = [name for name, one in ESTIMATORS.items() if one.kind == "transformer"]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ESTIMATORS)
def test_float32_and_float64_rows(name):
    """Rows that float32 holds are answered alike, to five digits."""
    estimator, X = fitted(name)
    rows = X[:40].astype(np.float32)
    single, double = (outputs(estimator, rows.astype(d)) for d in ("f4", "f8"))
    assert single.keys() == double.keys()
    for method, found in single.items():
        expected = double[method]
        if method == "predict":
            np.testing.assert_array_equal(found, expected)
            continue
        if method == "transform":
            assert found.dtype == np.float32 and expected.dtype == np.float64
            # one level of a rounding step for a value that lies between two
            near = np.isclose(found, expected, rtol=1e-4, atol=1e-5)
            assert near.mean() > 0.98
            continue
        assert found.dtype == expected.dtype
        assert np.isfinite(found).all() or estimator.offset_ == -np.inf
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ESTIMATORS)
def test_signs_of_zero_and_denormals_make_no_difference(name):
    estimator, X = fitted(name)
    rows = X[:8].copy()
    rows[:, ::2] = 0.0
    expected = outputs(estimator, rows)
    for tiny in (-0.0, 5e-324, -1e-310, np.finfo(np.float64).tiny):
        if tiny < 0 and getattr(estimator, "reveal", None) == "noisy":
            continue  # cells of the noise end at zero
        moved = rows.copy()
        moved[:, ::2] = tiny
        for method, found in outputs(estimator, moved).items():
            if method == "predict":
                np.testing.assert_array_equal(found, expected[method])
            else:
                np.testing.assert_allclose(
                    found, expected[method], rtol=1e-6, atol=1e-9, err_msg=method
                )


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("value", [0.0, 1e-310, -1e-30, 7.0, 1e30, -1e300])
def test_constant_rows_stay_constant(name, value):
    """A squeezer fitted on rows without any spread changes nothing."""
    from sklearn.base import clone

    squeezer = clone(ESTIMATORS[name].estimator)
    fixed = getattr(squeezer, "value_range", None)
    low, high = fixed or (-np.inf, np.inf)
    if not low <= value <= high:
        value = high
    rows = np.full((5, 6), value)
    found = squeezer.fit(rows).transform(rows)
    assert np.isfinite(found).all()
    if fixed is not None:
        return  # levels and codes of a range of its own
    np.testing.assert_allclose(found, value, rtol=1e-6, atol=0)


# --- temperatures


@pytest.mark.parametrize("temperature", [1, 1000.0])
@pytest.mark.parametrize("kind", ["net", "linear"])
def test_temperatures(temperature, kind):
    X, y = make_rows()
    X = X.astype(np.float32)
    student = small_net() if kind == "net" else LogisticRegression(C=1e4, max_iter=500)
    model = DistilledClassifier(student, temperature=temperature, random_state=0)
    model.fit(X, y)
    far = np.vstack([X, 1e4 * X, -1e4 * X])
    for dtype in (np.float32, np.float64):
        proba = model.predict_proba(far.astype(dtype))
        assert np.isfinite(proba).all() and (proba >= 0).all()
        np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=0, atol=1e-6)
    # the answer is the most probable class, saturated or not
    top = np.take_along_axis(proba, np.argmax(proba, axis=1)[:, None], axis=1)[:, 0]
    said = proba[
        np.arange(len(far)), np.searchsorted(model.classes_, model.predict(far))
    ]
    np.testing.assert_array_equal(said, top)
    view = model._as_module()
    rows = torch.tensor(far, dtype=torch.float64, requires_grad=True)
    scores = view(rows)
    np.testing.assert_allclose(
        softmax(scores.detach().double().numpy(), axis=1), proba, rtol=0, atol=1e-5
    )
    (gradient,) = torch.autograd.grad(scores.log_softmax(dim=1)[:, 0].sum(), rows)
    assert torch.isfinite(gradient).all()


# --- densities


HARD = {
    "copies of few rows": lambda X: np.tile(X[:4], (15, 1)),
    "collinear": lambda X: np.hstack([X[:, :2], X[:, :2] @ [[1.0, -3], [2, 5]]]),
    "constant": lambda X: np.hstack([X, np.full((len(X), 3), 1e8)]),
    "scales": lambda X: X * [1e-8, 1e8, 1.0, 1e-8, 1e8, 1.0],
    "wide": lambda X: np.hstack([X] * 20),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("shrinkage", ["auto", 0.0])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("hard", HARD)
def test_ill_conditioned_densities(hard, method, shrinkage):
    X, y = make_rows()
    rows = HARD[hard](X)
    labels = np.unique(y, return_inverse=True)[1]
    rare = labels.copy()
    rare[labels == 2] = 0
    rare[5] = 2  # a class of one row
    for own in (labels, rare):
        frozen = FrozenEstimator(GaussianNB(var_smoothing=1e-3).fit(rows, own))
        found = DensityDetector(
            frozen,
            method=method,
            shrinkage=shrinkage,
            contamination=0.3,
            random_state=0,
        ).fit(rows, own)
        scores = found.score_samples(rows)
        assert np.isfinite(scores).all() and np.isfinite(found.offset_)
        # half of the rows stay above a threshold for a third
        assert (found.predict(rows) == 1).mean() >= 0.5
        # far out nothing looks genuine; what is as far from all rows as from those of
        # the class does not count for one of the methods
        away = rows + 1e3 * np.abs(rows).max(axis=0)
        if method != "relative_mahalanobis":
            assert (found.score_samples(away) < np.median(scores)).all()
        proba = found.predict_proba(np.vstack([rows, away]))
        assert np.isfinite(proba).all() and (proba.sum(axis=1) == 1).all()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_dropout_that_drops_nothing():
    """All passes agree (p=0 is refused): no spread, nothing negative, no NaN."""
    X, y = make_rows()
    net = small_net(module__dropout=1e-9)
    found = DropoutUncertaintyDetector(
        net, n_passes=4, contamination=0.2, random_state=0
    ).fit(X, y)
    rows = np.vstack([X, 1e6 * X]).astype(np.float32)
    statistics = found.statistics(rows)
    assert np.isfinite(statistics).all()
    of = dict(zip(NAMES, statistics.T, strict=True))
    for name in ("variance", "variation_ratio", "mutual_information"):
        np.testing.assert_allclose(of[name], 0, atol=1e-12)
    # where all is equal nothing is flagged
    assert (found.predict(X) == 1).all()
    assert np.isfinite(found.predict_proba(X)).all()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_column_that_says_nothing():
    """Next to a detector whose score is the same for all rows, the other decides."""
    X, y = make_rows(n_samples=150)
    net = small_net(module__dropout=1e-9, max_epochs=5)
    from sk_advdef import PGD

    combined = CombinedDetector(
        [("none", DropoutUncertaintyDetector(n_passes=3)), ("some", DensityDetector())],
        estimator=net,
        attack=PGD(2.0, steps=3, bounds=None, random_state=0),
        contamination=0.2,
        cv=0.5,
        random_state=0,
    ).fit(X, y)
    scores = combined.score_samples(np.vstack([X, X + 20]))
    assert np.isfinite(scores).all() and len(np.unique(scores)) > 10
    assert scores[150:].mean() < scores[:150].mean()
