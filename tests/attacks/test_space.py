"""What may be changed in tabular data: the same for every attack."""

import copy
import pickle
from types import SimpleNamespace

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sk_advdef import (
    APGD,
    DDN,
    FGSM,
    JSMA,
    PGD,
    AdversariallyAugmentedClassifier,
    CarliniWagnerL2,
    DeepFool,
    DropoutUncertaintyDetector,
    FeatureSpace,
    HopSkipJump,
    RandomSearch,
    RejectingClassifier,
    SigmaZero,
    TreeExact,
    make_robust_scorer,
    rejection_robust_error,
    robust_accuracy_score,
)

ATTACKS = {
    "fgsm": FGSM(None, bounds=None),
    "pgd": PGD(None, steps=5, bounds=None, random_state=0),
    "pgd-l2": PGD(None, steps=5, norm="l2", bounds=None, random_state=0),
    "apgd": APGD(None, steps=8, bounds=None, random_state=0),
    "apgd-l2": APGD(None, steps=8, norm="l2", loss="dlr", bounds=None, random_state=0),
    "search": RandomSearch(None, max_queries=15, bounds=None, random_state=0),
    "search-l2": RandomSearch(
        None, max_queries=15, norm="l2", bounds=None, random_state=0
    ),
    "trees": TreeExact(None, bounds=None),
}
MINIMAL = {
    "deepfool": DeepFool(bounds=None),
    "ddn": DDN(bounds=None, steps=30),
    "cw": CarliniWagnerL2(
        bounds=None, steps=60, learning_rate=0.5, initial_const=1, binary_search_steps=3
    ),
    "jsma": JSMA(bounds=None, gamma=1.0),
    "jsma-down": JSMA(bounds=None, gamma=1.0, theta=-1.0),
    "sigma-zero": SigmaZero(bounds=None, steps=60),
}
every_attack = pytest.mark.parametrize(
    "attack", [pytest.param(a, id=name) for name, a in ATTACKS.items()]
)

# columns: 0 to 2 free, 3 integer, 4 to 6 one-hot, 7 one way, 8 follows 0 and 3
WIDTH = 9
GROUP = [4, 5, 6]


def rows(n=60, seed=0, dtype="float64"):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, WIDTH))
    X[:, 3] = rng.integers(0, 10, n)
    X[:, GROUP] = np.eye(3)[rng.integers(0, 3, n)]
    return X.astype(dtype)


def labels(X):
    return (
        X[:, 0] - X[:, 1] + 0.3 * X[:, 3] + 2 * X[:, 4] + X[:, 7] - X[:, 8] > 2
    ).astype(int)


def full_space(**params):
    given = {
        "eps": [0.5, 0.4, 0.3, 2.2, 1, 1, 1, 0.5, 2.0],
        "bounds": ([-9.0] * WIDTH, [11.0] * WIDTH),
        "immutable": [2],
        "increasing": [7],
        "integer": [3],
        "one_hot": [GROUP],
        "relations": {8: {0: 1.5, 3: -0.25}},
        "max_changed": 3,
    }
    return FeatureSpace(**given | params)


def assert_inside(found, X, *, eps=None, k=3, weights=(1.5, -0.25)):
    """Check by the definition, not by the code under test."""
    eps = np.array([0.5, 0.4, 0, 2.2, 1, 1, 1, 0.5, 2.0]) if eps is None else eps
    delta = found.astype(np.float64) - X
    assert (np.abs(delta) <= eps).all()
    assert ((found >= -9) & (found <= 11)).all()
    assert (delta[:, 2] == 0).all() and (delta[:, 7] >= 0).all()
    assert (found[:, 3] == np.rint(found[:, 3])).all()
    assert np.isin(found[:, GROUP], (0, 1)).all()
    assert (found[:, GROUP].sum(axis=1) == 1).all()
    follows = X[:, 8].astype(np.float64) + (
        weights[0] * delta[:, 0] + weights[1] * delta[:, 3]
    )
    np.testing.assert_array_equal(found[:, 8], follows.astype(X.dtype))
    changed = (delta[:, [0, 1, 2, 3, 7]] != 0).sum(axis=1)
    assert (changed + (delta[:, GROUP] != 0).any(axis=1) <= k).all()


@settings(max_examples=80)
@given(
    seed=st.integers(0, 10_000),
    size=st.sampled_from([0.0, 0.3, 3.0, 1e6]),
    dtype=st.sampled_from(["float32", "float64"]),
    k=st.integers(1, 6),
    weight=st.floats(-50, 50),
)
def test_projection(seed, size, dtype, k, weight):
    X = rows(seed=seed, dtype=dtype)
    space = full_space(max_changed=k, relations={8: {0: weight, 3: -0.25}})
    rng = np.random.default_rng(seed)
    moved = X + (size * rng.normal(size=X.shape)).astype(dtype)
    found = space.project(moved, X)
    assert found.dtype == dtype
    assert_inside(found, X, k=k, weights=(weight, -0.25))
    np.testing.assert_array_equal(space.project(found, X), found)
    assert space.contains(found, X).all() and space.contains(X, X).all()
    lower, upper = space.limits(X)
    assert ((found >= lower) & (found <= upper)).all()
    assert ((lower <= X) & (upper >= X)).all()
    far = (np.abs(moved - X).max(axis=1) > 3) & (size > 1)
    assert not space.contains(moved, X)[far].any()


@settings(max_examples=40)
@given(seed=st.integers(0, 1000), name=st.sampled_from(sorted(ATTACKS | MINIMAL)))
def test_every_attack_stays_inside(seed, name):
    X = rows(20, seed=seed)
    X, y = np.concatenate([X, rows(100)]), labels(np.concatenate([X, rows(100)]))
    trees = name in ("trees", "search")
    model = RandomForestClassifier(5, max_depth=3, random_state=0)
    model = model if trees else LogisticRegression()
    model.fit(X, y)
    space = full_space()
    if name == "trees" and seed % 2:
        space = full_space(max_changed=1)
    attack = clone((ATTACKS | MINIMAL)[name]).set_params(space=space)
    result = attack.run(model, X[:20], y[:20])
    assert_inside(result.X_adv, X[:20])
    assert space.contains(result.X_adv, X[:20]).all()
    np.testing.assert_array_equal(result.fooled, model.predict(result.X_adv) != y[:20])
    if attack.norm == "l2":
        eps = np.array([0.5, 0.4, np.inf, 2.2, np.inf, np.inf, np.inf, 0.5, 2.0])
        length = np.linalg.norm((result.X_adv - X[:20]) / eps, axis=1)
        assert (length <= 1 + 1e-12).all()


@pytest.mark.parametrize("eps", [0.5, np.linspace(0.1, 1, WIDTH)])
@every_attack
def test_eps_of_the_attack(attack, eps):
    X = rows(80)
    y = labels(X)
    model = RandomForestClassifier(5, random_state=0)
    if not isinstance(attack, (TreeExact, RandomSearch)):
        model = LogisticRegression()
    model.fit(X, y)
    space = FeatureSpace(one_hot=[GROUP], integer=[3], immutable=[2])
    X_adv = clone(attack).set_params(eps=eps, space=space).perturb(model, X, y)
    delta = X_adv - X
    numbers = [i for i in range(WIDTH) if i not in GROUP]
    assert (np.abs(delta) <= eps)[:, numbers].all() and (delta[:, [2, 3]] == 0).all()
    assert (X_adv[:, GROUP].sum(axis=1) == 1).all()


def test_who_brings_eps_and_bounds():
    X = rows()
    model = LogisticRegression().fit(X, labels(X))
    both = PGD(0.1, bounds=None, space=FeatureSpace(eps=0.1))
    with pytest.raises(ValueError, match="Both PGD and its space bring eps"):
        both.run(model, X)
    with pytest.raises(ValueError, match="'eps' parameter of PGD"):
        PGD(None, bounds=None, space=FeatureSpace(immutable=[0])).run(model, X)
    with pytest.raises(ValueError, match=r"'eps' .* or a space that brings one"):
        PGD(None, bounds=None).run(model, X)
    with pytest.raises(ValueError, match="'space' parameter of FGSM"):
        FGSM(0.1, bounds=None, space={"eps": 1}).run(model, X)
    with pytest.raises(ValueError, match=r"outside the bounds=.* of PGD"):
        PGD(None, space=FeatureSpace(eps=0.1)).run(model, X)
    # the bounds of the space take the place of those of the attack
    X_adv = PGD(None, space=FeatureSpace(eps=0.1, bounds=(-4, 11))).perturb(model, X)
    assert X_adv.min() < 0 < np.abs(X_adv - X).max() <= 0.1
    with pytest.raises(ValueError, match=r"infinite eps .* needs finite bounds"):
        PGD(None, bounds=None, space=FeatureSpace(eps=np.inf)).run(model, X)
    free = FeatureSpace(eps=np.inf, bounds=(-4, 11))
    assert PGD(None, space=free, random_state=0).run(model, X).fooled.all()


def test_gradient_attack_of_a_few_features_is_exact_for_a_linear_model():
    """The best k changes of a linear model are those of the steepest features."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 12))
    y = (X @ rng.normal(size=12) > 0).astype(int)
    model = LogisticRegression().fit(X, y)
    eps, k = rng.uniform(0.2, 0.6, 12), 3
    gain = np.sort(np.abs(model.coef_[0]) * eps)[-k:].sum()
    margin = np.where(y == 1, 1, -1) * model.decision_function(X)
    falls = margin < gain
    assert 0.1 < falls.mean() < 0.9
    space = FeatureSpace(eps=eps, max_changed=k)
    for attack in (
        FGSM(None, bounds=None, space=space),
        PGD(None, steps=10, bounds=None, space=space, random_state=0),
        APGD(None, steps=10, bounds=None, space=space, random_state=0),
    ):
        np.testing.assert_array_equal(attack.run(model, X, y).fooled, falls)
    search = RandomSearch(None, max_queries=300, bounds=None, space=space)
    fooled = search.set_params(random_state=0).run(model, X, y).fooled
    assert not (fooled & ~falls).any() and fooled.sum() > 0.95 * falls.sum()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_has_no_length_is_changed_for_nothing(norm):
    """Of a linear model it is known which rows fall: by how much each part can help."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 7))
    X[:, 3:6] = np.eye(3)[rng.integers(3, size=200)]
    X[:, 6] = rng.uniform(0, 50, size=200)
    w = np.array([1, -0.5, 0.8, 1, -0.6, 0.1, 0.02])
    model = LogisticRegression().fit(X, X @ w > 0.4)
    model.coef_, model.intercept_ = w[None], np.array([-0.4])
    y = model.predict(X)
    eps = np.array([0.3, 0.5, 0.2, 0.1, 0.1, 0.1, np.inf])
    toward = np.where(y, -1, 1)[:, None] * w
    ball = np.linalg.norm((w * eps)[:3], ord=1 if norm == "linf" else 2)
    category = toward[:, 3:6].max(axis=1) - (toward * X)[:, 3:6].sum(axis=1)
    end = np.maximum(toward[:, 6] * -X[:, 6], toward[:, 6] * (50 - X[:, 6]))
    margin = np.abs(model.decision_function(X))
    falls = margin < ball + category + end
    # neither the ball nor what has no length is enough
    assert falls.mean() > 0.05 + max((margin < p).mean() for p in (ball, category, end))
    space = FeatureSpace(eps=eps, one_hot=[[3, 4, 5]], bounds={6: (0, 50)})
    common = {"norm": norm, "bounds": None, "space": space}
    seeded = PGD(None, random_state=0), APGD(None, random_state=0)
    for attack in (FGSM(None), *seeded):
        attack.set_params(**common)
        np.testing.assert_array_equal(attack.run(model, X, y).fooled, falls)
    searches = [HopSkipJump(start=s, max_queries=400) for s in ("rows", "noise")]
    for attack in (RandomSearch(None, max_queries=400), *searches):
        fooled = attack.set_params(random_state=0, **common).run(model, X, y).fooled
        assert not (fooled & ~falls).any()
        assert fooled.sum() > 0.95 * falls.sum()


class Inside(ClassifierMixin, BaseEstimator):
    """Is wrong where a feature lies in the middle of its range only."""

    classes_ = np.array([0, 1])

    def fit(self, X, y=None):
        return self

    def predict_proba(self, X):
        wrong = 1 / (1 + np.abs(X[:, 0] - 0.525) / 0.075)
        return np.stack([1 - wrong, wrong], axis=1)

    def predict(self, X):
        return self.predict_proba(X).argmax(axis=1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_queries_look_between_the_ends_of_what_has_no_length(norm):
    X = np.random.default_rng(0).uniform(0, 0.3, size=(20, 4))
    space = FeatureSpace(eps=[np.inf, 0.1, 0.1, 0.1], bounds=(0, 1))
    search = RandomSearch(None, norm=norm, max_queries=300, space=space, random_state=0)
    assert search.run(Inside(), X, np.zeros(20, dtype=int)).fooled.mean() > 0.9


@pytest.mark.parametrize("k", [0, 1, 6])
def test_queries_use_the_whole_ball_beside_what_has_no_length(k):
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(20, 6 + k))
    model = LogisticRegression().fit(X, rng.integers(2, size=20))
    model.coef_, model.intercept_ = np.ones((1, 6 + k)), np.array([99.0])  # never
    space = FeatureSpace(eps=[0.1] * 6 + [np.inf] * k, bounds=(-2, 2))
    search = RandomSearch(None, norm="l2", max_queries=150, space=space, random_state=0)
    moved = search.run(model, X, np.ones(20, dtype=int)).X_adv - X
    length = np.linalg.norm(moved[:, :6], axis=1) / 0.1
    assert (length <= 1 + 1e-9).all() and length.mean() > 0.95


def test_what_follows_something_without_length_is_not_lost():
    """Shortened with its source, where the ball asks for it."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    model = LogisticRegression().fit(X, X.sum(axis=1) > 0)
    y = model.predict(X)
    both = {1: {0: 1.0}, 2: {0: 1.0}}
    space = FeatureSpace(
        eps={0: np.inf, 1: 0.3, 2: 0.3}, bounds={0: (-9, 9)}, relations=both
    )
    for attack in (PGD(None), APGD(None)):
        attack.set_params(norm="l2", bounds=None, space=space, random_state=0)
        moved = attack.run(model, X, y).X_adv - X
        length = np.linalg.norm(moved[:, 1:] / 0.3, axis=1)
        assert (length <= 1 + 1e-9).all() and (length > 0.5).mean() > 0.9


def test_categories_change_under_every_attack():
    X = rows(200)
    y = (X[:, 4] > 0).astype(int)
    space = FeatureSpace(eps=0.1, one_hot=[GROUP])
    for name, attack in (ATTACKS | MINIMAL).items():
        if name == "jsma-down":  # it lowers members, and a category is one raised
            continue
        trees = isinstance(attack, TreeExact)
        model = RandomForestClassifier(5, random_state=0)
        model = (model if trees else LogisticRegression(C=100)).fit(X, y)
        attack = clone(attack).set_params(space=space)
        if isinstance(attack, RandomSearch):
            attack.set_params(max_queries=60)
        assert attack.run(model, X, y).fooled.mean() > 0.9, attack


def test_gradient_reaches_what_a_dependent_feature_depends_on():
    X = rows(100)
    y = (X[:, 8] > 0).astype(int)
    model = LogisticRegression(C=100).fit(X[:, [8]], y)
    wide = LogisticRegression(C=100).fit(X, y)
    wide.coef_ = np.zeros((1, WIDTH))
    wide.coef_[0, 8] = model.coef_[0, 0]
    wide.intercept_ = model.intercept_
    space = FeatureSpace(eps=[1, 0, 0, 0, 0, 0, 0, 0, 9], relations={8: {0: -1}})
    falls = np.abs(wide.decision_function(X)) < np.abs(wide.coef_).sum() * (1 - 1e-9)
    assert 0.1 < falls.mean() < 0.9
    for attack in [FGSM(None), PGD(None), APGD(None), DeepFool(), DDN()]:
        result = attack.set_params(bounds=None, space=space).run(wide, X, y)
        assert not (result.fooled & ~falls).any()
        # the smallest change may stop short of a border that only the whole eps reaches
        missed = 0.02 * isinstance(attack, (DeepFool, DDN))
        assert (falls & ~result.fooled).mean() <= missed


# --- DataFrames


@pytest.fixture(scope="module")
def people():
    rng = np.random.default_rng(0)
    n = 200
    frame = pd.DataFrame(
        {
            "age": rng.integers(18, 90, n),
            "city": rng.choice(["Bern", "Rome", "Oslo"], n),
            "income": rng.uniform(1e3, 9e3, n),
            "debt": rng.uniform(0, 5e3, n).astype(np.float32),
            "owner": rng.random(n) < 0.5,
        },
        index=[f"id {i}" for i in range(n)],
    )
    score = frame["income"] - frame["debt"] + 20 * frame["age"]
    score += 800 * (frame["city"] == "Rome")
    y = np.where(score > score.median(), "good", "bad")
    encode = make_column_transformer(
        (OneHotEncoder(), ["city"]), remainder=StandardScaler()
    )
    model = make_pipeline(encode, LogisticRegression()).fit(frame, y)
    return SimpleNamespace(X=frame, y=y, model=model)


def test_text_columns_are_kept(people):
    X, y = people.X, people.y
    space = FeatureSpace.from_data(X, eps=0.3, immutable=["city"], increasing=["age"])
    assert set(space.eps) == {"age", "income", "debt", "owner"}
    assert space.bounds["age"] == (X["age"].min(), X["age"].max())
    attack = RandomSearch(None, max_queries=40, space=space, random_state=0)
    before = X.copy()
    result = attack.run(people.model, X, y)
    pd.testing.assert_frame_equal(X, before)
    found = result.X_adv
    pd.testing.assert_series_equal(found.dtypes, X.dtypes)
    pd.testing.assert_index_equal(found.index, X.index)
    assert (found["city"] == X["city"]).all() and (found["age"] >= X["age"]).all()
    assert (found["age"] != X["age"]).any()
    assert space.contains(found, X).all()
    assert not space.contains(found.assign(city="Paris"), X).any()
    np.testing.assert_array_equal(result.fooled, people.model.predict(found) != y)
    assert result.fooled.mean() > 0.2
    with pytest.raises(ValueError, match=r"\['city'\] of X are not numeric.*space"):
        clone(attack).set_params(space=None, eps=0.1, bounds=None).run(
            people.model, X, y
        )


def test_gradients_need_numbers(people):
    numeric = people.X.drop(columns="city")
    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(numeric, people.y)
    space = FeatureSpace.from_data(numeric, eps=0.3, integer=["age"])
    result = PGD(None, steps=5, space=space, random_state=0).run(
        model, numeric, people.y
    )
    assert space.contains(result.X_adv, numeric).all() and result.fooled.mean() > 0.2
    assert (result.X_adv["age"] != numeric["age"]).any()
    with pytest.raises(ValueError, match=r"not all columns\s+of X are numeric"):
        # the steps before are not looked at, so that the message is ours
        broken = LogisticRegression().fit(numeric, people.y)
        broken.predict = lambda X: people.y[: len(X)]
        PGD(None, space=FeatureSpace(eps=1, bounds=(-1e9, 1e9))).run(
            broken, people.X, people.y
        )


def test_columns_in_another_order(people):
    space = FeatureSpace(
        eps={"income": 100, "debt": 50},
        relations={"debt": {"income": 0.5}},
        max_changed=1,
    )
    moved = people.X.assign(income=people.X["income"] + 60, age=0)
    found = space.project(moved, people.X)
    order = ["debt", "income", "owner", "city", "age"]
    other = space.project(moved[order], people.X[order])
    pd.testing.assert_frame_equal(other[people.X.columns], found)
    np.testing.assert_allclose(found["debt"] - people.X["debt"], 30, atol=1e-3)
    assert (found["age"] == people.X["age"]).all()


def test_polars(people):
    X = pl.from_pandas(people.X)
    space = FeatureSpace.from_data(X, eps=0.3)
    assert space == FeatureSpace.from_data(people.X, eps=0.3)
    moved = X.with_columns(age=pl.lit(99), city=pl.lit("Rome"), debt=pl.lit(0.0))
    found = space.project(moved, X)
    assert found.schema == X.schema
    assert found["city"].to_list() == X["city"].to_list()
    expected = space.project(people.X.assign(age=99, debt=0.0), people.X)
    np.testing.assert_array_equal(found["age"], expected["age"])
    assert found.equals(pl.from_pandas(expected))


def test_names_for_arrays():
    names = [f"f{i}" for i in range(WIDTH)]
    X = rows()
    named = FeatureSpace(
        eps={"f0": 0.5, "f4": 1, "f5": 1, "f6": 1},
        one_hot=[["f4", "f5", "f6"]],
        feature_names=names,
    )
    plain = FeatureSpace(eps={0: 0.5, 4: 1, 5: 1, 6: 1}, one_hot=[GROUP])
    moved = X + np.random.default_rng(0).normal(size=X.shape)
    np.testing.assert_array_equal(named.project(moved, X), plain.project(moved, X))
    with pytest.raises(ValueError, match=r"names 'f0', which X does not have. Pass a"):
        FeatureSpace(eps={"f0": 0.5}).check(X)
    assert named.eps["f0"] == 0.5
    read = FeatureSpace.from_data(X, eps=0.1, feature_names=names)
    assert read.eps.keys() == set(names)


def test_rows_to_read_from_need_be_in_no_group():
    X = pd.DataFrame({"a": [0.5, 1, 2], "p": [1, 0, 0], "q": [0, 1, 0]})
    space = FeatureSpace.from_data(X, eps=0.1, one_hot=[["p", "q"]], integer=["a"])
    space.check(X[1:2])
    with pytest.raises(ValueError, match="single 1"):
        space.check(X[2:])


def test_a_column_that_is_not_there_is_told_at_once(people):
    with pytest.raises(ValueError, match="agee"):
        FeatureSpace.from_data(people.X, eps=0.3, immutable=["agee"])


@pytest.mark.parametrize("scale", ["iqr", "std", "range", None])
def test_from_data(scale):
    X = rows(500)
    X[:, 1] = np.where(np.arange(500) < 10, 5.0, 0.0)
    X[:, 2] = 3.0
    space = FeatureSpace.from_data(X, eps=0.5, scale=scale)
    low, high = np.percentile(X, [25, 75], axis=0)
    units = {
        "iqr": np.where(high > low, high - low, X.std(axis=0)),
        "std": X.std(axis=0),
        "range": np.ptp(X, axis=0),
        None: np.ones(WIDTH),
    }[scale]
    np.testing.assert_allclose(space.eps, 0.5 * units)
    assert space.eps[1] > 0 and (space.eps[2] == 0 or scale is None)
    np.testing.assert_array_equal(space.bounds, (X.min(axis=0), X.max(axis=0)))
    other = FeatureSpace.from_data(X, eps={0: 2.0}, scale=scale, bounds=(-20, 20))
    np.testing.assert_allclose(other.eps, 2.0 * units * (np.arange(WIDTH) == 0))
    assert other.bounds == (-20, 20)


# --- the value object


def test_value_object():
    space = full_space()
    assert not hasattr(space, "get_params") and not hasattr(space, "fit")
    twin = full_space()
    assert space == twin and hash(space) == hash(twin) and space != full_space(eps=1)
    for other in (
        clone(space, safe=False),
        copy.deepcopy(space),
        copy.copy(space),
        pickle.loads(pickle.dumps(space)),
    ):
        assert other == space and hash(other) == hash(space)
    assert clone(PGD(None, space=space)).space == space
    with pytest.raises(AttributeError):
        space.eps = 3
    with pytest.raises(TypeError, match="never changed"):
        space.relations[1] = {}
    assert repr(FeatureSpace(eps=1, immutable=[2])) == (
        "FeatureSpace(eps=1.0, immutable=(2,))"
    )
    assert eval(repr(space), {"FeatureSpace": FeatureSpace}) == space


def test_search_over_spaces():
    X = rows(90)
    y = labels(X)
    scorer = make_robust_scorer(space=full_space(), random_state=0)
    assert "space=FeatureSpace(eps=" in repr(scorer)
    search = GridSearchCV(
        LogisticRegression(), {"C": [0.01, 1.0]}, scoring=scorer, cv=2
    )
    assert 0 <= search.fit(X, y).best_score_ <= search.best_estimator_.score(X, y)
    spaces = [FeatureSpace(eps=0.1), FeatureSpace(eps=0.2)]
    training = AdversariallyAugmentedClassifier(
        LogisticRegression(), attack=FGSM(None, bounds=None, space=spaces[0])
    )
    search = GridSearchCV(training, {"attack__space": spaces}, cv=2).fit(X, y)
    assert search.best_params_["attack__space"] in spaces


def test_scores_with_a_space():
    X = rows(120)
    y = labels(X)
    model = LogisticRegression().fit(X, y)
    part = X[:50], y[:50]
    few = robust_accuracy_score(
        model, *part, space=full_space(max_changed=1), random_state=0
    )
    more = robust_accuracy_score(model, *part, space=full_space(), random_state=0)
    assert 0 < more < few < model.score(*part)
    with pytest.raises(ValueError, match=r"space=\.\.\. that brings one"):
        robust_accuracy_score(model, X, y, space=FeatureSpace(immutable=[1]))
    with pytest.raises(ValueError, match="Both attack and space"):
        make_robust_scorer([FGSM(0.1)], space=full_space())
    with pytest.raises(ValueError, match="bring eps"):
        robust_accuracy_score(model, X, y, eps=0.1, space=full_space())
    detector = DropoutUncertaintyDetector(n_passes=5, random_state=0).fit(X, y)
    defended = RejectingClassifier(detector.estimator_, detector).fit(X, y)
    errors = rejection_robust_error(
        defended, X[:20], y[:20], space=full_space(), clean_rejection=(0.05,),
        random_state=0,
    )  # fmt: skip
    assert 0 < errors[0.05] <= 1


BAD = [
    ("eps", -1), ("eps", "big"), ("eps", np.nan), ("eps", {"a": -1}), ("eps", True),
    ("eps", [[1, 2]]), ("bounds", 3), ("bounds", (1, 0)), ("bounds", {"a": (2, 1)}),
    ("bounds", (0, "x")), ("immutable", "age"), ("integer", 3), ("one_hot", [["a"]]),
    ("one_hot", "abc"), ("one_hot", [[1, 2], [2, 3]]), ("relations", {1: 2}),
    ("relations", [1]), ("relations", {1: {2: np.inf}}), ("max_changed", 0),
    ("max_changed", 1.5), ("feature_names", ["a", "a"]),
]  # fmt: skip


@pytest.mark.parametrize("name, value", BAD)
def test_bad_parameter(name, value):
    with pytest.raises(ValueError, match=f"'{name}' parameter of FeatureSpace"):
        FeatureSpace(**{name: value})


@pytest.mark.parametrize(
    "params, message",
    [
        ({"eps": [1, 2]}, r"eps of FeatureSpace has 2 entries, and X has 9"),
        ({"bounds": (0, 1)}, r"outside the bounds of FeatureSpace in .*\[0, 1"),
        ({"integer": [0]}, r"fractions in the integer columns \[0\]"),
        ({"one_hot": [[0, 1]]}, r"one-hot group \[0, 1\].*single 1"),
        ({"immutable": [12]}, r"names 12, which X does not have"),
        ({"relations": {3: {0: 1.0}}}, r"gives fractions.* integer feature"),
        ({"relations": {4: {3: 1.0}}}, r"must be free"),
        ({"relations": {8: {0: 1}, 0: {1: 1}}}, r"sources must not be dependent"),
    ],
)
def test_rows_that_do_not_fit(params, message):
    given = {"integer": [3], "one_hot": [GROUP]}
    with pytest.raises(ValueError, match=rf"(?s){message}"):
        FeatureSpace(**given | params).check(rows())


def test_shapes_and_text(people):
    with pytest.raises(ValueError, match="describes rows of features"):
        FeatureSpace(eps=1).check(np.zeros((3, 4, 4)))
    with pytest.raises(ValueError, match=r"values has shape \(2, 9\)"):
        FeatureSpace(eps=1).project(rows(2), rows(3))
    with pytest.raises(ValueError, match=r"one_hot .* not numeric"):
        FeatureSpace(one_hot=[["city", "age"]]).check(people.X)
    with pytest.raises(ValueError, match=r"names 'town'.*Its columns are \['age'"):
        FeatureSpace(immutable=["town"]).check(people.X)
    for params in ({"eps": None}, {"scale": "mad"}, {"bounds": "x"}):
        with pytest.raises(ValueError, match=r"FeatureSpace\.from_data"):
            FeatureSpace.from_data(rows(), **{"eps": 1} | params)


def test_a_category_that_may_not_be():
    X = rows()
    none = FeatureSpace(eps=[1] * 4 + [1, 1, 0, 1, 1], one_hot=[GROUP])
    held = FeatureSpace(eps=1, one_hot=[GROUP], increasing=[4])
    moved = X.copy()
    moved[:, GROUP] = [0, 0, 5]
    assert (none.project(moved, X)[:, 6] == X[:, 6]).all()
    kept = held.project(moved, X)
    assert (kept[X[:, 4] == 1, 4] == 1).all() and (kept[X[:, 4] == 0, 6] == 1).all()


def test_integer_dependents_and_shared_sources():
    X = np.tile([[5.0, 5.0, 20.0, 3.0]], (40, 1))
    space = FeatureSpace(
        eps=[3, 3, 4, 1.5],
        integer=[0, 1, 2],
        relations={2: {0: 2, 1: 1}, 3: {0: -0.5}},
    )
    moved = X + np.random.default_rng(0).normal(scale=4, size=X.shape)
    found = space.project(moved, X)
    delta = found - X
    np.testing.assert_array_equal(delta[:, 2], 2 * delta[:, 0] + delta[:, 1])
    np.testing.assert_array_equal(delta[:, 3], -0.5 * delta[:, 0])
    assert (np.abs(delta) <= [3, 3, 4, 1.5]).all() and (delta[:, 0] != 0).any()
    assert space.contains(found, X).all()
    # a category that a dependent column cannot follow
    hot = FeatureSpace(eps=[1, 1, 0.3], one_hot=[[0, 1]], relations={2: {0: 1.0}})
    row = np.array([[1.0, 0.0, 0.5]])
    np.testing.assert_array_equal(hot.project([[0.0, 1.0, 0.0]], row), row)


def test_a_step_is_told_in_features_and_not_in_categories():
    """One-hot columns, which move by a category, leave ``step_size`` as it is."""
    rng = np.random.default_rng(0)
    X = np.zeros((60, 6))
    X[:, :3] = rng.uniform(0.3, 0.7, (60, 3))
    X[np.arange(60), 3 + rng.integers(0, 3, 60)] = 1
    y = (X[:, 0] + X[:, 4] > 0.8).astype(int)
    model = LogisticRegression(C=0.01).fit(X, y)
    space = FeatureSpace(one_hot=[[3, 4, 5]], eps=[0.2, 0.2, 0.2, 1, 1, 1])
    attack = PGD(None, space=space, step_size=0.05, steps=20, random_start=False)
    result = attack.run(model, X, y)
    held = ~result.fooled
    reached = np.abs(result.X_adv - X)[held, :3].max(axis=0)
    np.testing.assert_allclose(reached, 0.2, atol=1e-6)
