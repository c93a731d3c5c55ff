"""Closed forms and trees beside exact arithmetic, where an answer turns by rounding."""

import copy
import itertools
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from sk_advdef import TreeExact
from sk_advdef.evaluation._certified import certified_rows
from sk_advdef.evaluation._closed_form import worst_shift

FITTED = LogisticRegression().fit(np.vstack([np.zeros(3), np.ones(3)]), [0, 1])


def linear(weight, bias):
    """Make a model of two classes of given weights."""
    model = copy.copy(FITTED)
    model.coef_, model.intercept_ = np.array([weight]), np.array([bias])
    return model


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_certified_linear_answer_is_exactly_right(dtype):
    """In fractions: every corner of the box has the answer, and the model gives it."""
    rng = np.random.default_rng(0)
    certified = nearly = 0
    for _ in range(20):
        weight = rng.normal(size=3) * 10.0 ** rng.uniform(-4, 4, size=3)
        row = (rng.normal(size=3) / weight).astype(dtype)
        eps = float(10.0 ** rng.uniform(-9, -3))
        reach = Fraction(eps) * sum(abs(Fraction(float(w))) for w in weight)
        inner = sum(
            Fraction(float(w)) * Fraction(float(x))
            for w, x in zip(weight, row, strict=True)
        )
        # the border of the box is near the border of the model, on either side
        for part in (0, 1e-16, -1e-16, 1e-9, -1e-9, 1e-3, 1.0, 1e3):
            bias = float(reach * Fraction(1 + part) - inner)
            model = linear(weight, bias)
            said = int(model.predict(row[None])[0])
            sure = certified_rows(model, row[None], [said], eps, bounds=None)[0]
            exact = inner + Fraction(bias) - reach
            if sure:
                assert said == 1 and exact > 0
                certified += 1
            elif exact > 0:
                nearly += 1
    assert certified > 20 and nearly > 10, (certified, nearly)


@pytest.mark.parametrize(
    "step", [MinMaxScaler(), PCA(2, whiten=True), StandardScaler(), RobustScaler()]
)
def test_steps_fitted_on_float32_before_rows_of_float64(step):
    """Where ``predict`` turns, a little less is all that is certified.

    How little is up to float32, in which rows of the ball may come too.
    """
    rng = np.random.default_rng(2)
    for _ in range(10):
        X = (rng.random((50, 2)) * [3, 1] + [5, 900]).astype(np.float32)
        y = (X[:, 0] > 6.5).astype(int)
        model = make_pipeline(clone(step), LogisticRegression(C=100)).fit(X, y)
        row = np.array([[7.5, 900.5]])
        (answer,) = model.predict(row)
        slope = model.predict_log_proba(row + np.eye(2)) - model.predict_log_proba(row)
        way = np.sign(slope[:, 1 - answer] - slope[:, answer])
        inside, outside = 0.0, 8.0
        assert model.predict(row + outside * way) != answer
        while inside < (middle := (inside + outside) / 2) < outside:
            if model.predict(row + middle * way)[0] == answer:
                inside = middle
            else:
                outside = middle
        less = max(0.97 * outside - 0.006, 0.0)
        assert certified_rows(model, row, [answer], outside, bounds=None) == [False]
        if less:
            assert certified_rows(model, row, [answer], less, bounds=None) == [True]


@pytest.mark.parametrize("kind", ["int64", "uint8", "bool", "float32", "frame"])
def test_trees_are_certified_for_all_that_lies_in_the_ball(kind):
    X = np.arange(40.0)[:, None] if kind != "bool" else np.arange(40.0)[:, None] % 2
    y = (X[:, 0] > X.max() / 2).astype(int)
    model = DecisionTreeClassifier().fit(X, y)
    given = pd.DataFrame(X.astype(int)) if kind == "frame" else X.astype(kind)
    found = certified_rows(model, given, y, 0.9, bounds=None)
    expected = np.abs(X[:, 0] - model.tree_.threshold[0]) > 0.9
    np.testing.assert_array_equal(found, expected)
    assert not found.all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_trees_behind_a_scaler_are_certified_as_they_compute(dtype):
    """Beside a threshold, an answer depends on the dtype that is scaled."""
    parted = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        X = (rng.random((40, 1)) * 3 + 100).astype(dtype)
        y = (X[:, 0] > 101.5).astype(int)
        model = make_pipeline(StandardScaler(), DecisionTreeClassifier()).fit(X, y)
        inside, outside = X.min(), X.max()
        while np.nextafter(inside, outside) < outside:
            middle = dtype((np.float64(inside) + np.float64(outside)) / 2)
            if model.predict(np.array([[middle]]))[0]:
                outside = middle
            else:
                inside = middle
        rows = np.array([[inside], [outside]])
        answers = model.predict(rows)
        assert not certified_rows(model, rows, 1 - answers, 1e-9, bounds=None).any()
        found = certified_rows(model, rows, answers, 1e-9, bounds=None)
        as_float = model.predict(rows.astype(float)) == answers
        assert (as_float | ~found).all()
        parted += (~as_float).sum()
    assert parted


def test_worst_shift_is_a_lower_bound_in_fractions():
    rng = np.random.default_rng(1)
    for _ in range(50):
        weight = rng.normal(size=3) * 10.0 ** rng.uniform(-8, 8, size=3)
        down, up = -rng.random((1, 3)), rng.random((1, 3))
        found = Fraction(float(worst_shift(weight, down, up, np.array(1.0), "linf")[0]))
        exact = min(
            sum(
                Fraction(float(w)) * Fraction(float(e))
                for w, e in zip(weight, corner, strict=True)
            )
            for corner in itertools.product(*zip(down[0], up[0], strict=True))
        )
        size = sum(abs(Fraction(float(w))) for w in weight)
        assert abs(found - exact) <= size * Fraction(2) ** -50
        # of the L2 ball, what the dual says is below what any point in it reaches
        dual = float(worst_shift(weight, down, up, np.array(0.5), "l2")[0])
        step = rng.normal(size=(2000, 3))
        step *= 0.5 / np.linalg.norm(step, axis=1, keepdims=True)
        reached = (np.clip(step, down, up) @ weight).min()
        assert dual <= reached + 1e-12 * float(size)
        assert dual >= reached - 0.2 * float(size)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_threshold_within_the_last_bit(dtype):
    """A tree rounds rows to float32: by fractions, which rows it can be given turn."""
    third = np.float32(1) / np.float32(3)
    X = np.array([[third - np.float32(0.1)], [third + np.float32(0.1)]])
    tree = DecisionTreeClassifier().fit(X, [0, 1])
    threshold = tree.tree_.threshold[0]
    row = dtype(threshold)
    start = np.array([[row - dtype(0.05)]])
    # the first number that goes right, as a row may hold it
    turned = np.nextafter(np.float32(threshold), np.float32(1))
    if dtype == np.float64:  # half way to it a row is rounded up, ties to even
        turned = (float(np.float32(threshold)) + float(turned)) / 2
        while tree.predict([[turned]])[0] == 1:
            turned = np.nextafter(turned, 0)
        turned = np.nextafter(turned, 1)
    exact = Fraction(float(turned)) - Fraction(float(start[0, 0]))
    for eps in (
        float(exact),
        np.nextafter(float(exact), 0),
        np.nextafter(float(exact), 1),
    ):
        result = TreeExact(eps, bounds=None).run(tree, start, [0])
        assert result.fooled[0] != result.certified[0]
        if Fraction(float(eps)) >= exact:
            assert result.fooled[0] and tree.predict(result.X_adv)[0] == 1
        elif Fraction(float(eps)) < exact * (1 - Fraction(2) ** -50):
            assert result.certified[0]
