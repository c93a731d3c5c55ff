"""The exact answer for trees, against all there is to try."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from sklearn.base import clone
from sklearn.datasets import load_iris, make_classification
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)
from sklearn.tree import DecisionTreeClassifier, ExtraTreeClassifier

from sk_advdef import (
    BitDepthSqueezer,
    FeatureSpace,
    RandomSearch,
    TreeExact,
    TreeExactResult,
)
from sk_advdef.attacks._base import Problem
from tests._instances import make_rows
from tests.attacks.common import assert_within

MODELS = {
    "tree": DecisionTreeClassifier(max_depth=4, random_state=0),
    "extra tree": ExtraTreeClassifier(max_depth=4, random_state=0),
    "forest": RandomForestClassifier(4, max_depth=3, random_state=0),
    "votes": RandomForestClassifier(5, random_state=0),
    "extra trees": ExtraTreesClassifier(4, max_depth=3, random_state=0),
    "boosting": GradientBoostingClassifier(n_estimators=4, max_depth=2, random_state=0),
    "exponential": GradientBoostingClassifier(
        n_estimators=4, loss="exponential", init="zero", random_state=0
    ),
    "histograms": HistGradientBoostingClassifier(
        max_iter=4, max_leaf_nodes=5, min_samples_leaf=3
    ),
}
every_model = pytest.mark.parametrize(
    "model", [pytest.param(m, id=name) for name, m in MODELS.items()]
)


def tabular(n_classes=3, n=80, seed=0, dtype="float64"):
    X, y = make_classification(
        n, 3, n_informative=3, n_redundant=0, n_classes=n_classes, random_state=seed,
        n_clusters_per_class=1, flip_y=0.1,
    )  # fmt: skip
    return X.astype(dtype), y


def thresholds(model):
    """Return pairs (feature, threshold) of all tests."""
    if hasattr(model, "_predictors"):
        for stage in model._predictors:
            for predictor in stage:
                inner = predictor.nodes[predictor.nodes["is_leaf"] == 0]
                yield from zip(
                    inner["feature_idx"], inner["num_threshold"], strict=True
                )
        return
    for member in np.ravel(getattr(model, "estimators_", [model])):
        tree = member.tree_
        inner = tree.children_left >= 0
        yield from zip(tree.feature[inner], tree.threshold[inner], strict=True)


def candidates(model, lower, upper):
    """Return a value of every cell between thresholds, for each feature of a row."""
    values = [{a, b} for a, b in zip(lower, upper, strict=True)]
    for feature, threshold in thresholds(model):
        near = np.float32(threshold)
        for value in (np.nextafter(near, np.float32(s)) for s in (-9e9, 9e9)):
            values[feature].add(float(value))
        values[feature].add(float(near))
    return [
        sorted(v for v in known if lower[i] <= v <= upper[i])
        for i, known in enumerate(values)
    ]


def by_force(model, attack, X, y, keep=None):
    """Tell for each row whether any point of all cells is answered wrongly."""
    problem = Problem(attack, model, X, y)
    fooled = np.zeros(len(X), dtype=bool)
    for i in range(len(X)):
        own = candidates(model, problem.lower[i], problem.upper[i])
        own = [sorted({*v, problem.X[i, j]}) for j, v in enumerate(own)]
        grid = np.array(list(itertools.product(*own)))
        if attack.norm == "l2":
            grid = grid[np.linalg.norm(grid - problem.X[i], axis=1) <= attack.eps]
        if keep is not None:
            grid = grid[keep(grid, problem.X[i])]
        answers = model.predict(grid.astype(problem.X.dtype))
        fooled[i] = ((answers == y[i]) if attack.targeted else (answers != y[i])).any()
    return fooled


def check(result, model, attack, X, y):
    """Check what holds of every result in which all rows are decided."""
    assert isinstance(result, TreeExactResult)
    assert (result.fooled ^ result.certified).all()
    answers = model.predict(result.X_adv)
    wanted = answers == y if attack.targeted else answers != y
    np.testing.assert_array_equal(result.fooled, wanted)
    assert_within(result.X_adv, X, attack.eps, attack.norm, attack.bounds)
    np.testing.assert_array_equal(result.X_adv[~result.fooled], X[~result.fooled])


@pytest.mark.parametrize("norm, eps", [("linf", 0.25), ("l2", 0.3)])
@pytest.mark.parametrize("n_classes", [2, 3])
@every_model
def test_equals_brute_force(model, n_classes, norm, eps):
    if getattr(model, "loss", None) == "exponential" and n_classes > 2:
        pytest.skip("exponential loss is binary")
    X, y = tabular(n_classes)
    model = clone(model).fit(X, y)
    attack = TreeExact(eps, norm=norm, bounds=None)
    result = attack.run(model, X[:40], y[:40])
    check(result, model, attack, X[:40], y[:40])
    np.testing.assert_array_equal(
        result.fooled, by_force(model, attack, X[:40], y[:40])
    )
    assert 0.1 < result.fooled.mean() < 1


@settings(max_examples=40)
@given(
    name=st.sampled_from(sorted(set(MODELS) - {"exponential"})),
    seed=st.integers(0, 10_000),
    eps=st.floats(0, 1.0),
    norm=st.sampled_from(["linf", "l2"]),
    targeted=st.booleans(),
    dtype=st.sampled_from(["float32", "float64"]),
    boxed=st.booleans(),
)
def test_equals_brute_force_anywhere(name, seed, eps, norm, targeted, dtype, boxed):
    X, y = tabular(seed=seed, dtype=dtype)
    model = clone(MODELS[name]).fit(X, y)
    bounds = (X.min(axis=0), X.max(axis=0)) if boxed else None
    attack = TreeExact(eps, norm=norm, bounds=bounds, targeted=targeted)
    X, y = X[:6], (y[:6] + targeted) % 3
    result = attack.run(model, X, y)
    check(result, model, attack, X, y)
    np.testing.assert_array_equal(result.fooled, by_force(model, attack, X, y))


def test_forest_on_digits(digits):
    X, y = digits.X[:30], digits.y[:30]
    model = RandomForestClassifier(50, random_state=0)
    model.fit(digits.X_fit, digits.y_fit)
    before = None
    for eps in (0.02, 0.06, 0.1):
        attack = TreeExact(eps)
        result = attack.run(model, X, y)
        check(result, model, attack, X, y)
        asked = RandomSearch(eps, max_queries=100, random_state=0).run(model, X, y)
        assert not (asked.fooled & result.certified).any()
        if before is not None:
            assert not (before.fooled & result.certified).any()
        before = result
    assert 0.5 < result.fooled.mean() < 1
    assert (result.n_queries >= 1).all() and result.n_queries.max() < 10


@pytest.mark.parametrize("name", ["boosting", "histograms"])
def test_boosting_on_digits(name, digits):
    model = clone(MODELS[name]).fit(digits.X_fit, digits.y_fit)
    X, y = digits.X[:20], digits.y[:20]
    attack = TreeExact(0.07)
    result = attack.run(model, X, y)
    check(result, model, attack, X, y)
    asked = RandomSearch(0.07, max_queries=60, random_state=0).run(model, X, y)
    assert not (asked.fooled & result.certified).any()
    assert result.certified.any() and result.fooled.any()


@pytest.mark.parametrize("n_trees", [2, 4])
def test_ties(n_trees):
    """Half the trees on either side: the first class is the answer."""
    X, y = tabular(2, n=60)
    model = RandomForestClassifier(n_trees, max_depth=2, random_state=0).fit(X, y)
    for tree in model.estimators_:
        tree.tree_.value[:] = np.rint(tree.tree_.value)
    attack = TreeExact(0.4, bounds=None)
    result = attack.run(model, X, y)
    check(result, model, attack, X, y)
    np.testing.assert_array_equal(result.fooled, by_force(model, attack, X, y))
    right = model.predict(X) == y
    tied = model.predict_proba(result.X_adv)[:, 0] == 0.5
    assert (tied & result.fooled & (y == 1) & right).any()
    assert (result.certified & (y == 0)).any()


def test_ties_of_fractions_are_asked_of_predict():
    """Equal scores that are no votes: only predict knows, and it is asked."""
    X, y = tabular(2, n=60)
    model = RandomForestClassifier(2, max_depth=2, random_state=0).fit(X, y)
    for tree, other in zip(model.estimators_, (0.3, 0.7), strict=True):
        values = tree.tree_.value
        values[:, 0, 0] = np.where(values[:, 0, 0] > 0.5, other, 1 - other)
        values[:, 0, 1] = 1 - values[:, 0, 0]
    attack = TreeExact(0.4, bounds=None)
    y = model.predict(X)
    result = attack.run(model, X, y)
    check(result, model, attack, X, y)
    np.testing.assert_array_equal(result.fooled, by_force(model, attack, X, y))


SCALERS = [
    StandardScaler(), MinMaxScaler((-3, 5)), MaxAbsScaler(), RobustScaler(),
    FunctionTransformer(), "passthrough", BitDepthSqueezer(4),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["votes", "histograms"])
@pytest.mark.parametrize("scaler", SCALERS)
def test_pipeline(scaler, name, dtype):
    X, y = tabular(dtype=dtype)
    model = make_pipeline(scaler, clone(MODELS[name])).fit(X, y)
    bounds = (X.min(axis=0), X.max(axis=0))
    attack = TreeExact(0.2, bounds=bounds)
    result = attack.run(FrozenEstimator(model), X[:40], y[:40])
    check(result, model, attack, X[:40], y[:40])
    asked = RandomSearch(0.2, max_queries=50, bounds=bounds, random_state=0)
    assert not (asked.run(model, X[:40], y[:40]).fooled & result.certified).any()
    assert result.fooled.any() and result.certified.any()
    if scaler == "passthrough":
        plain = attack.run(model[-1], X[:40], y[:40])
        np.testing.assert_array_equal(plain.fooled, result.fooled)


def test_thresholds_to_the_last_bit():
    """The last float below a border, through a scaler that rounds."""
    rng = np.random.default_rng(0)
    X = rng.uniform(1e4, 1e4 + 1, (200, 1))
    y = (X[:, 0] > 1e4 + 0.5).astype(int)
    model = make_pipeline(StandardScaler(), DecisionTreeClassifier()).fit(X, y)
    for dtype in ("float32", "float64"):
        at = X[y == 1][:5].astype(dtype)
        broken = TreeExact(1.0, bounds=None).run(model, at, np.ones(5))
        assert broken.fooled.all()
        edge = broken.X_adv
        assert (model.predict(edge) == 0).all()
        up = np.nextafter(edge, np.array(2e4, dtype=dtype))
        assert (model.predict(up) == 1).all()
        # with the border itself out of reach
        box = (up.min(), 2e4)
        result = TreeExact(1.0, bounds=box).run(model, np.maximum(at, up), np.ones(5))
        assert result.certified.all()


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16"])
def test_dtypes(dtype):
    X, y = load_iris(return_X_y=True)
    X = (X * 10).astype(dtype)
    model = RandomForestClassifier(10, random_state=0).fit(X, y)
    attack = TreeExact(3.5, bounds=(0, 100))
    result = attack.run(model, X[::3], y[::3])
    assert result.X_adv.dtype == dtype
    check(result, model, attack, X[::3].astype(float), y[::3])
    assert 0 < result.fooled.mean() < 1
    asked = RandomSearch(3.5, max_queries=60, bounds=(0, 100), random_state=0)
    assert not (asked.run(model, X[::3], y[::3]).fooled & result.certified).any()


def test_pandas():
    X, y = load_iris(return_X_y=True, as_frame=True)
    names = np.array(["a", "b", "c"])[y]
    model = make_pipeline(StandardScaler(), RandomForestClassifier(8, random_state=0))
    model.fit(X, names)
    part = X.iloc[::4]
    result = TreeExact(0.3, bounds=None).run(model, part, names[::4])
    assert isinstance(result.X_adv, pd.DataFrame)
    pd.testing.assert_index_equal(result.X_adv.index, part.index)
    np.testing.assert_array_equal(
        result.fooled, model.predict(result.X_adv) != names[::4]
    )
    assert (result.fooled ^ result.certified).all()


# --- spaces


def test_space_with_few_changes_and_categories():
    rng = np.random.default_rng(0)
    hot = rng.integers(0, 3, 150)
    X = np.column_stack(
        [rng.normal(size=(150, 2)), np.eye(3)[hot], rng.integers(0, 9, 150)]
    )
    y = ((X[:, 0] + X[:, 3] - X[:, 4] + 0.2 * X[:, 5]) > 1).astype(int)
    model = RandomForestClassifier(5, max_depth=4, random_state=0).fit(X, y)
    space = FeatureSpace(
        eps=[0.5, 0.5, 1, 1, 1, 2], one_hot=[[2, 3, 4]], integer=[5],
        increasing=[1], max_changed=2,
    )  # fmt: skip
    result = TreeExact(None, space=space, bounds=None).run(model, X[:40], y[:40])
    assert (result.fooled ^ result.certified).all()
    assert space.contains(result.X_adv, X[:40]).all()

    def keep(grid, x):
        change = grid != x
        count = change[:, [0, 1, 5]].sum(axis=1) + change[:, 2:5].any(axis=1)
        cells = np.isin(grid[:, 2:5], (0, 1)).all(axis=1)
        return cells & (grid[:, 2:5].sum(axis=1) == 1) & (count <= 2)

    problem = TreeExact(None, space=space, bounds=None)
    expected = by_force(model, problem, X[:40], y[:40], keep)
    np.testing.assert_array_equal(result.fooled, expected)
    for k in (1, 3):
        other = FeatureSpace(
            eps=[0.5, 0.5, 1, 1, 1, 2], one_hot=[[2, 3, 4]], integer=[5],
            increasing=[1], max_changed=k,
        )  # fmt: skip
        more = TreeExact(None, space=other, bounds=None).run(model, X[:40], y[:40])
        order = (more, result) if k < 2 else (result, more)
        assert (order[0].fooled <= order[1].fooled).all()


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    weight=st.sampled_from([-1.0, 0.5, 2.0]),
    k=st.sampled_from([None, 1]),
)
def test_space_with_relations(seed, weight, k):
    """The dependent feature follows, and nothing else that is sampled wins."""
    X, y = tabular(2, seed=seed)
    model = RandomForestClassifier(4, max_depth=4, random_state=0).fit(X, y)
    space = FeatureSpace(
        eps=[0.4, 0.4, 0.5], relations={2: {0: weight, 1: 1.0}}, max_changed=k
    )
    X, y = X[:15], y[:15]
    result = TreeExact(None, space=space, bounds=None).run(model, X, y)
    np.testing.assert_array_equal(result.fooled, model.predict(result.X_adv) != y)
    assert space.contains(result.X_adv, X).all()
    assert (result.fooled | result.certified).mean() >= 0.8
    rng = np.random.default_rng(seed)
    for _ in range(30):
        tried = space.project(X + rng.uniform(-0.5, 0.5, X.shape), X)
        assert not ((model.predict(tried) != y) & result.certified).any()


def test_l2_with_relations_is_refused():
    X, y = tabular()
    model = clone(MODELS["votes"]).fit(X, y)
    space = FeatureSpace(eps=0.1, relations={2: {0: 1.0}})
    with pytest.raises(ValueError, match='needs norm="linf"'):
        TreeExact(None, norm="l2", space=space, bounds=None).run(model, X, y)


# --- limits, jobs, errors


def test_time_limit_leaves_rows_unknown(digits):
    model = RandomForestClassifier(30, random_state=0)
    model.fit(digits.X_fit, digits.y_fit)
    X, y = digits.X[:10], digits.y[:10]
    result = TreeExact(0.1, time_limit=1e-9).run(model, X, y)
    unknown = ~result.fooled & ~result.certified
    assert unknown.any()
    np.testing.assert_array_equal(result.X_adv[unknown], X[unknown])
    assert not result.fooled[unknown].any()


def test_n_jobs_and_verbose(capsys):
    X, y = tabular()
    model = clone(MODELS["forest"]).fit(X, y)
    one = TreeExact(0.2, bounds=None).run(model, X, y)
    assert capsys.readouterr() == ("", "")
    two = TreeExact(0.2, bounds=None, n_jobs=2, verbose=1).run(model, X, y)
    assert "TreeExact" in capsys.readouterr().err
    for name in ("X_adv", "fooled", "certified", "n_queries"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_wrong_from_the_start_and_unknown_labels():
    X, y = tabular()
    model = clone(MODELS["forest"]).fit(X, y)
    y = np.where(np.arange(len(y)) % 2, model.predict(X), 17)
    result = TreeExact(0.0, bounds=None).run(model, X, y)
    np.testing.assert_array_equal(result.fooled, y == 17)
    np.testing.assert_array_equal(result.certified, y != 17)
    nothing = TreeExact(0.1, bounds=None).run(model, X[:1], [17])
    assert nothing.fooled.all()


def test_rows_to_train_on():
    X, y = tabular()
    model = clone(MODELS["forest"]).fit(X, y)
    attack = TreeExact(0.2, bounds=None)
    rows = attack.rows_to_train_on(model, X, y)
    assert (model.predict(rows) != y).mean() == attack.run(model, X, y).fooled.mean()


def test_no_tests_at_all():
    X, y = tabular()
    model = HistGradientBoostingClassifier(max_iter=2, min_samples_leaf=80).fit(X, y)
    y = model.predict(X)
    assert TreeExact(5.0, bounds=None).run(model, X, y).certified.all()


class Turned(StandardScaler):
    def transform(self, X, copy=None):
        return -super().transform(X, copy)


class Named(StandardScaler):
    """Transforms as its parent does."""


def test_a_subclass_of_a_scaler_that_answers_otherwise_is_refused():
    X, y = make_rows(n_samples=60)
    trees = DecisionTreeClassifier(max_depth=3, random_state=0)
    turned, named, plain = (
        make_pipeline(step, trees).fit(X, y)
        for step in (Turned(), Named(), StandardScaler())
    )
    with pytest.raises(TypeError, match="Got Turned"):
        TreeExact(0.3, bounds=None).run(turned, X[:5], y[:5])
    found, wanted = (
        TreeExact(0.3, bounds=None).run(model, X[:9], y[:9]) for model in (named, plain)
    )
    np.testing.assert_array_equal(found.X_adv, wanted.X_adv)


class Contrary(RandomForestClassifier):
    """A forest that answers otherwise than its trees."""


def test_other_estimators():
    X, y = tabular()
    attack = TreeExact(0.1, bounds=None)
    for model in (
        LogisticRegression(),
        Contrary(3),
        GradientBoostingClassifier(n_estimators=2, init=LogisticRegression()),
        make_pipeline(PolynomialFeatures(), DecisionTreeClassifier()),
        make_pipeline(FunctionTransformer(np.negative), DecisionTreeClassifier()),
        HistGradientBoostingClassifier(max_iter=2, categorical_features=[0]),
    ):
        part = np.abs(np.trunc(X))
        with pytest.raises(TypeError, match=r"TreeExact"):
            attack.run(model.fit(part, y), part, y)
    many = DecisionTreeClassifier().fit(X, np.column_stack([y, y]))
    with pytest.raises((TypeError, ValueError)):
        attack.run(many, X, y)


def test_a_model_that_was_tampered_with():
    X, y = tabular(2)
    model = clone(MODELS["forest"]).fit(X, y)
    model.predict = lambda X: 1 - RandomForestClassifier.predict(model, X)
    with pytest.raises(RuntimeError, match="not what predict answers"):
        TreeExact(0.1, bounds=None).run(model, X, model.predict(X))


@pytest.mark.parametrize(
    "name, value",
    [("time_limit", 0), ("time_limit", "long"), ("norm", "l1"), ("eps", -1),
     ("eps", None), ("verbose", -1), ("targeted", 2), ("space", 3)],
)  # fmt: skip
def test_bad_parameter(name, value):
    X, y = tabular()
    model = clone(MODELS["tree"]).fit(X, y)
    attack = TreeExact(**{"eps": 0.1, "bounds": None, name: value})
    with pytest.raises(ValueError, match=name):
        attack.run(model, X, model.predict(X))


def test_questions_alone_come_near_the_exact_answer(digits):
    model = RandomForestClassifier(50, random_state=0)
    model.fit(digits.X_fit, digits.y_fit)
    exact = TreeExact(0.1).run(model, digits.X, digits.y)
    asked = RandomSearch(0.1, random_state=0).run(model, digits.X, digits.y)
    corners = RandomSearch(0.1, interior=False, random_state=0)
    corners = corners.run(model, digits.X, digits.y)
    assert not (asked.fooled & ~exact.fooled).any()
    assert (exact.fooled | exact.certified).all()
    assert exact.fooled.mean() - asked.fooled.mean() <= 0.05
    assert asked.fooled.sum() > corners.fooled.sum()


def test_interior_is_a_flag_or_none(digits, forest):
    attack = RandomSearch(0.1, interior="yes")
    with pytest.raises(ValueError, match="'interior' parameter of RandomSearch"):
        attack.run(forest, digits.X, digits.y)


def test_few_changes_where_nothing_may_change_and_votes_tie():
    X = np.repeat([[0.0, 0], [0, 1], [1, 0], [1, 1]], 10, axis=0)
    y = np.random.default_rng(0).integers(0, 2, 40)
    forest = RandomForestClassifier(2, max_depth=2, random_state=0).fit(X, y)
    for most in (None, 1):
        space = FeatureSpace(eps=[0, 0], bounds=(0, 1), max_changed=most)
        result = TreeExact(None, space=space).run(forest, X, forest.predict(X))
        assert result.certified.all()


def test_a_dependent_feature_that_cannot_move():
    """Who has no reach blocks nobody else, and proves nothing."""
    X = np.array([[0.0, 0, 0], [1, 0, 1], [0, 1, 0], [1, 1, 1]])
    y = np.array([0, 0, 1, 1])
    trees = DecisionTreeClassifier(random_state=0).fit(X, y)
    space = FeatureSpace(eps=[1, 1, 0], relations={2: {0: 1}})
    result = TreeExact(None, bounds=None, space=space).run(trees, X, y)
    assert result.fooled.all() and not result.certified.any()
