"""HopSkipJump: labels only, the smallest change, and what every attack promises."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler
from sklearn.svm import SVC

from sk_advdef import BitDepthSqueezer, FeatureSpace, HopSkipJump
from sk_advdef.attacks import _hop_skip_jump
from tests.attacks.common import assert_within


class LabelsOnly(ClassifierMixin, BaseEstimator):
    """Answers with labels, counts what it is asked, and refuses scores."""

    def __init__(self, model, trusted=None):
        self.model, self.trusted = model, trusted
        self.classes_, self.asked = model.classes_, 0

    def predict(self, X):
        self.asked += len(X)
        answers = self.model.predict(X)
        if self.trusted is None:
            return answers
        return np.where(self.trusted(X), answers, -1)

    def predict_proba(self, X):
        raise AssertionError("a score was asked for")

    decision_function = predict_log_proba = predict_proba


@pytest.fixture(scope="module")
def small_mlp(digits):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MLPClassifier((32,), max_iter=40, random_state=0)
        return model.fit(digits.X_fit, digits.y_fit)


def right(model, digits, count=40):
    X, y = digits.X[:count], digits.y[:count]
    rows = model.predict(X) == y
    return X[rows], y[rows]


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_labels_only_and_queries_counted(norm, linear, digits):
    X, y = right(linear, digits, 20)
    model = LabelsOnly(linear)
    attack = HopSkipJump(norm=norm, max_queries=400, random_state=0)
    result = attack.run(model, X, y)
    assert result.fooled.all()
    np.testing.assert_array_equal(linear.predict(result.X_adv) != y, True)
    assert_within(result.X_adv, X, np.inf, norm, (0, 1))
    # the answers on the rows themselves are taken twice, to start from them
    assert model.asked == result.n_queries.sum() + len(X)
    assert (result.n_queries <= 401).all() and (result.n_queries > 350).all()
    order = np.inf if norm == "linf" else 2
    np.testing.assert_allclose(
        result.distortion, np.linalg.norm(result.X_adv - X, order, axis=1)
    )


@pytest.mark.parametrize("norm, dual", [("l2", 2), ("linf", 1)])
def test_distance_to_a_plane(norm, dual):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 10))
    model = LogisticRegression().fit(X, X @ rng.normal(size=10) > 0)
    exact = np.abs(model.decision_function(X)) / np.linalg.norm(model.coef_[0], dual)
    found = {}
    for budget in (200, 4000):
        attack = HopSkipJump(
            norm=norm, max_queries=budget, bounds=None, start="noise", random_state=0
        )
        result = attack.run(model, X)
        assert result.fooled.all() and (result.distortion >= exact * (1 - 1e-9)).all()
        found[budget] = np.median(result.distortion / exact)
    assert found[4000] < min(1.1 if norm == "l2" else 1.2, found[200])


@pytest.fixture(scope="module", params=["small_mlp", "forest"])
def foolbox_says(request, digits):
    """Lengths that foolbox reaches, and its queries a row."""
    import foolbox

    model = request.getfixturevalue(request.param)
    X, y = right(model, digits, 11)
    lengths, asked = [], []

    def labels(rows):
        asked.append(len(rows))
        return np.eye(10)[model.predict(rows)]

    attack = foolbox.attacks.HopSkipJumpAttack(steps=2)
    wrapped = foolbox.NumPyModel(labels, bounds=(0, 1))
    state = np.random.get_state(legacy=False)  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    # row by row: in a batch foolbox divides directions by the length of all together
    for row, label in zip(X, y, strict=True):
        X_adv = attack.run(wrapped, row[None], np.array([label]))
        lengths.append(np.linalg.norm(X_adv - row))
    np.random.set_state(state)  # noqa: NPY002
    return model, X, y, np.array(lengths), sum(asked) // len(X)


@pytest.mark.parametrize("start", ["rows", "noise"])
def test_not_larger_than_foolbox(start, foolbox_says):
    model, X, y, theirs, budget = foolbox_says
    attack = HopSkipJump(max_queries=budget, start=start, random_state=0)
    result = attack.run(model, X, y)
    assert result.fooled.all() and result.n_queries.max() <= budget + 1
    assert np.median(result.distortion) <= 1.1 * np.median(theirs)


@pytest.mark.parametrize("norm, eps", [("l2", 0.6), ("linf", 0.15)])
def test_ball(norm, eps, forest, digits):
    X, y = digits.X, digits.y
    attack = HopSkipJump(norm=norm, eps=eps, max_queries=1500, random_state=0)
    result = attack.run(forest, X, y)
    assert_within(result.X_adv, X, eps, norm, (0, 1))
    np.testing.assert_array_equal(result.fooled, forest.predict(result.X_adv) != y)
    assert 0.5 < result.fooled.mean() < 1
    stopped = result.n_queries[result.fooled]
    assert np.median(stopped) < 1200 < result.n_queries[~result.fooled].min()
    free = clone(attack).set_params(eps=None).run(forest, X, y)
    assert (free.distortion <= eps).mean() > result.fooled.mean() - 0.1


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("eps", [0.0, np.where(np.arange(64) % 3, 0.3, 0.0)])
def test_ball_per_feature_and_empty(norm, eps, linear, digits):
    X, y = right(linear, digits)
    attack = HopSkipJump(norm=norm, eps=eps, max_queries=600, random_state=0)
    result = attack.run(linear, X, y)
    assert_within(result.X_adv, X, eps, norm, (0, 1))
    assert result.fooled.any() == bool(np.ndim(eps))


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8", "int64"])
def test_dtypes(dtype, digits):
    unit = 1 if dtype.startswith("float") else 240
    model = make_pipeline(MaxAbsScaler(), LogisticRegression(C=0.1, max_iter=1000))
    model.fit((digits.X_fit * unit).astype(dtype), digits.y_fit)
    X, y = (digits.X[:30] * unit).astype(dtype), digits.y[:30]
    attack = HopSkipJump(max_queries=800, bounds=(0, unit), random_state=0)
    result = attack.run(model, X, y)
    assert result.X_adv.dtype == dtype and result.fooled.all()
    assert (model.predict(result.X_adv) != y).all()
    ball = clone(attack).set_params(eps=0.8 * unit).run(model, X, y)
    assert_within(ball.X_adv, X, 0.8 * unit, "l2", (0, unit))
    assert ball.fooled.mean() > 0.3


def test_frames(digits):
    rng = np.random.default_rng(0)
    X = pd.DataFrame(
        {"count": rng.integers(0, 50, 80), "rate": rng.uniform(0, 5, 80)},
        index=[f"row {i}" for i in range(80)],
    )
    y = np.where(X["count"] > 10 * X["rate"], "yes", "no")
    model = make_pipeline(StandardScaler(), SVC()).fit(X, y)
    result = HopSkipJump(max_queries=300, bounds=None, random_state=0).run(model, X, y)
    assert result.fooled.all()
    pd.testing.assert_series_equal(result.X_adv.dtypes, X.dtypes)
    pd.testing.assert_index_equal(result.X_adv.index, X.index)


@pytest.mark.parametrize(
    "model", [KNeighborsClassifier(3), SVC(), RandomForestClassifier(10)]
)
def test_any_classifier(model, digits):
    model = clone(model).fit(digits.X_fit, digits.y_fit)
    X, y = right(model, digits, 15)
    start, later = (
        HopSkipJump(max_queries=n, random_state=0).run(model, X, y) for n in (20, 600)
    )
    assert later.fooled.all()
    assert np.median(later.distortion) < 0.85 * np.median(start.distortion)


def test_sees_over_steps(linear, digits):
    """Probes that all get one answer grow until they reach the next step."""
    model = make_pipeline(BitDepthSqueezer(2, value_range=(0, 1)), clone(linear))
    model.fit(digits.X_fit, digits.y_fit)
    X, y = right(model, digits, 30)
    few, many = (
        HopSkipJump(max_queries=n, random_state=0).run(model, X, y) for n in (30, 2000)
    )
    assert np.median(many.distortion) < 0.6 * np.median(few.distortion)


def test_rejected_is_no_success(linear, digits):
    X, y = right(linear, digits, 30)
    strict = LabelsOnly(linear, lambda A: A.mean(axis=1) < 0.33)
    attack = HopSkipJump(max_queries=300, random_state=0)
    result = attack.run(strict, X, y)
    accepted = X.mean(axis=1) < 0.33
    answers = strict.predict(result.X_adv)
    np.testing.assert_array_equal(result.fooled, (answers != y) & (answers != -1))
    assert accepted.any() and result.fooled[accepted].all()


@pytest.mark.parametrize("start", ["rows", "noise"])
def test_no_start(start, digits, linear):
    class Constant(ClassifierMixin, BaseEstimator):
        classes_ = np.arange(10)

        def predict(self, X):
            return np.zeros(len(X), dtype=int)

    X = digits.X[:5]
    attack = HopSkipJump(max_queries=50, start=start, start_queries=20, random_state=0)
    result = attack.run(Constant(), X, np.zeros(5, dtype=int))
    assert not result.fooled.any() and (result.distortion == 0).all()
    assert (result.n_queries == 21).all()
    np.testing.assert_array_equal(result.X_adv, X)
    less = clone(attack).set_params(max_queries=7)
    assert (less.run(Constant(), X, np.zeros(5, dtype=int)).n_queries == 8).all()


def test_targeted(linear, digits):
    X, y = right(linear, digits)
    target = (y + 1) % 10
    result = HopSkipJump(max_queries=500, targeted=True, random_state=0).run(
        linear, X, target
    )
    np.testing.assert_array_equal(linear.predict(result.X_adv) == target, result.fooled)
    assert result.fooled.mean() > 0.9


def test_goal_reject(digits):
    from sk_advdef import RejectingClassifier
    from sk_advdef.detection._dropout import DropoutUncertaintyDetector

    detector = DropoutUncertaintyDetector(random_state=0, n_passes=5)
    detector.fit(digits.X_fit[:400].astype(np.float32), digits.y_fit[:400])
    model = RejectingClassifier(detector.estimator_, detector)
    model.fit(digits.X_fit[:400].astype(np.float32), digits.y_fit[:400])
    X = digits.X[:10].astype(np.float32)
    attack = HopSkipJump(max_queries=150, goal="reject", random_state=0)
    result = attack.run(model, X)
    rejected = model.predict(result.X_adv) == model.reject_label_
    np.testing.assert_array_equal(result.fooled, rejected)
    assert rejected.any()


def test_deterministic_and_alone(forest, digits, global_generators):
    X, y = digits.X[:30], digits.y[:30]
    attack = HopSkipJump(max_queries=300, start="noise", random_state=0)
    first, again = attack.run(forest, X, y), attack.run(forest, X, y)
    few = attack.run(forest, X[:7], y[:7])
    for name in ("X_adv", "fooled", "n_queries", "distortion"):
        one = getattr(first, name)
        np.testing.assert_array_equal(one, getattr(again, name))
        np.testing.assert_array_equal(one[:7], getattr(few, name))
    other = clone(attack).set_params(random_state=1).run(forest, X, y)
    assert (other.X_adv != first.X_adv).any()


def test_blocks_change_nothing(forest, digits, monkeypatch):
    X, y = digits.X[:12], digits.y[:12]
    attack = HopSkipJump(max_queries=300, random_state=0)
    whole = attack.run(forest, X, y)
    monkeypatch.setattr(_hop_skip_jump, "BLOCK", 64 * 7)
    parts = attack.run(forest, X, y)
    np.testing.assert_allclose(parts.X_adv, whole.X_adv, atol=1e-9)
    np.testing.assert_array_equal(parts.n_queries, whole.n_queries)


def test_stacked_images_per_pixel_bounds(digits, forest):
    class Flat(ClassifierMixin, BaseEstimator):
        classes_ = forest.classes_

        def predict(self, X):
            return forest.predict(X.reshape(len(X), -1))

    X, y = digits.X[:10].reshape(-1, 8, 8), digits.y[:10]
    high = np.ones((8, 8))
    high[0] = digits.X.max(axis=0).reshape(8, 8)[0]
    attack = HopSkipJump(max_queries=300, bounds=(0, high), random_state=0)
    result = attack.run(Flat(), X, y)
    assert result.X_adv.shape == X.shape and result.fooled.all()
    assert (result.X_adv <= high).all()


@pytest.mark.parametrize("eps", [None, 0.4])
def test_space(eps, forest, digits):
    space = FeatureSpace(eps=eps, bounds=(0, 1), immutable=range(20, 30))
    X, y = digits.X[:30], digits.y[:30]
    attack = HopSkipJump(max_queries=600, space=space, norm="linf", random_state=0)
    result = attack.run(forest, X, y)
    assert space.contains(result.X_adv, X).all()
    np.testing.assert_array_equal(result.X_adv[:, 20:30], X[:, 20:30])
    np.testing.assert_array_equal(result.fooled, forest.predict(result.X_adv) != y)
    assert result.fooled.mean() > 0.6


@pytest.mark.parametrize(
    "name, value",
    [
        ("max_queries", 0), ("norm", "l0"), ("bounds", (1, 0)), ("eps", -1),
        ("gamma", 0), ("init_queries", 0), ("start_queries", 1.5), ("start", "zero"),
        ("targeted", 1), ("goal", "win"), ("space", 3),
    ],
)  # fmt: skip
def test_bad_parameter(name, value, linear, digits):
    attack = HopSkipJump(max_queries=20).set_params(**{name: value})
    with pytest.raises(ValueError, match=name):
        attack.run(linear, digits.X, digits.y)


def test_outside_bounds(linear, digits):
    with pytest.raises(ValueError, match="outside"):
        HopSkipJump().run(linear, digits.X * 16, digits.y)
