"""What holds for every attack."""

import pickle

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import example, given, settings
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler
from sklearn.svm import SVC
from torch import nn

from sk_advdef import (
    APGD,
    DDN,
    FGSM,
    JSMA,
    PGD,
    CarliniWagnerL2,
    DeepFool,
    RandomSearch,
    SigmaZero,
)
from sk_advdef.attacks._geometry import shortened_to_ball
from tests.attacks.common import ATTACKS, GRADIENT, assert_within, fitted, net

every_attack = pytest.mark.parametrize(
    "attack", [pytest.param(a, id=name) for name, a in ATTACKS.items()]
)
each_class = pytest.mark.parametrize("cls", [APGD, FGSM, PGD, RandomSearch])


class Normed(nn.Module):
    """A net whose batch statistics an attack could spoil."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, 32),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(32, 10),
        )

    def forward(self, X):
        return self.layers(X)


def linear_model(coef):
    """A binary linear model with these weights."""
    model = LogisticRegression()
    model.coef_, model.intercept_ = np.atleast_2d(coef), np.zeros(1)
    model.classes_, model.n_features_in_ = np.arange(2), np.size(coef)
    return model


def quick(attack, **params):
    """A copy that spends little."""
    spend = "max_queries" if "max_queries" in attack.get_params() else "steps"
    if spend in attack.get_params():
        params.setdefault(spend, 6)
    return clone(attack).set_params(**params)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int64"])
@every_attack
def test_ball_box_dtype(attack, dtype, digits):
    unit = 1 if dtype.startswith("float") else 240
    model = make_pipeline(MaxAbsScaler(), LogisticRegression(C=0.1, max_iter=1000))
    model.fit((digits.X_fit * unit).astype(dtype), digits.y_fit)
    X = (digits.X * unit).astype(dtype)
    attack = clone(attack).set_params(eps=attack.eps * unit, bounds=(0, unit))
    if getattr(attack, "step_size", None):
        attack.set_params(step_size=attack.step_size * unit)
    result = attack.run(model, X, digits.y)
    assert type(result.X_adv) is np.ndarray
    assert result.X_adv.dtype == dtype and result.X_adv.shape == X.shape
    assert_within(result.X_adv, X, attack.eps, attack.norm, attack.bounds)
    assert result.fooled.mean() > 1.05 - model.score(X, digits.y)
    np.testing.assert_array_equal(
        result.fooled, model.predict(result.X_adv) != digits.y
    )


@settings(max_examples=60)
@example(name="pgd-l2", seed=0, offset=1e4, dtype="float32", many=False, boxed=False)
@example(name="search-l2", seed=0, offset=1e4, dtype="float32", many=True, boxed=True)
@given(
    name=st.sampled_from([n for n in ATTACKS if not n.startswith("square")]),
    seed=st.integers(0, 1000),
    offset=st.sampled_from([0.0, 1.0, 1e4, -1e7]),
    dtype=st.sampled_from(["float32", "float64"]),
    many=st.booleans(),
    boxed=st.booleans(),
)
def test_ball_and_box_anywhere(name, seed, offset, dtype, many, boxed):
    rng = np.random.default_rng(seed)
    X = (rng.normal(size=(8, 5)) + offset).astype(dtype)
    eps = rng.uniform(0, 0.5, size=5) * [1, 1, 0, 1, 1] if many else rng.uniform(0, 0.5)
    bounds = (X.min(axis=0), X.max(axis=0)) if boxed else None
    model = linear_model(rng.normal(size=5))
    attack = quick(ATTACKS[name], eps=eps, bounds=bounds)
    X_adv = attack.perturb(model, X, model.predict(X))
    assert_within(X_adv, X, eps, attack.norm, bounds)


@every_attack
def test_eps_zero_returns_x(attack, linear, digits):
    result = quick(attack, eps=0).run(linear, digits.X, digits.y)
    np.testing.assert_array_equal(result.X_adv, digits.X)
    np.testing.assert_array_equal(result.fooled, linear.predict(digits.X) != digits.y)
    assert (result.distortion == 0).all()


def test_eps_zero_with_a_step_size(mlp, digits):
    X = digits.X.astype(np.float32)
    for norm in ("linf", "l2"):
        X_adv = PGD(0.0, step_size=0.1, steps=2, norm=norm).perturb(mlp, X, digits.y)
        np.testing.assert_array_equal(X_adv, X)


@every_attack
def test_eps_and_bounds_per_feature(attack, linear, digits):
    eps = np.where(np.arange(64) % 3, attack.eps, 0)
    bounds = (np.zeros(64), np.where(np.arange(64) % 2, 1.0, digits.X.max(axis=0)))
    attack = clone(attack).set_params(eps=eps, bounds=bounds)
    result = attack.run(linear, digits.X, digits.y)
    assert_within(result.X_adv, digits.X, eps, attack.norm, bounds)
    assert result.fooled.mean() > np.mean(linear.predict(digits.X) != digits.y)


@every_attack
def test_bounds_taken_before_a_cast(attack):
    X = np.random.default_rng(0).normal(size=(30, 64))
    model = linear_model(np.ones(64))
    bounds = (X.min(axis=0), X.max(axis=0))
    X = X.astype(np.float32)
    X_adv = quick(attack, bounds=bounds).perturb(model, X, model.predict(X))
    low, high = (b.astype(np.float32) for b in bounds)
    assert ((X_adv >= low) & (X_adv <= high)).all()


@every_attack
def test_result(attack, linear, digits):
    X, y = digits.X, digits.y
    result = attack.run(linear, X, y)
    fooled = linear.predict(result.X_adv) != y
    np.testing.assert_array_equal(result.fooled, fooled)
    delta = (result.X_adv - X).reshape(len(X), -1)
    order = np.inf if attack.norm == "linf" else 2
    np.testing.assert_allclose(
        result.distortion, np.linalg.norm(delta, order, axis=1), rtol=1e-12
    )
    wrong = linear.predict(X) != y
    assert wrong.any() and not wrong.all()
    np.testing.assert_array_equal(result.X_adv[wrong], X[wrong])
    assert result.fooled[wrong].all() and (result.n_queries[wrong] == 1).all()
    params = attack.get_params()
    # a pass a step and one at the start, twice; predict before and after each
    tries = params.get("restarts", 1) * 2 * (params.get("steps", 1) + 2)
    most = 1 + max(tries, 2 * params.get("max_queries", 0) + 1)
    assert result.n_queries.dtype.kind == "i"
    assert (result.n_queries[~wrong] > 1).all() and result.n_queries.max() <= most
    assert result.fooled.dtype == bool
    np.testing.assert_array_equal(attack.perturb(linear, X, y), result.X_adv)


@every_attack
def test_does_not_touch(attack, digits, global_generators):
    X = digits.X.astype(np.float32)
    X.flags.writeable = False
    before = X.copy()
    model = fitted(
        net(Normed, max_epochs=1), digits.X_fit.astype(np.float32), digits.y_fit
    )
    model.module_.layers[0].bias.requires_grad_(False)
    for mode in (True, False):
        module = model.module_.train(mode)
        state = {k: v.clone() for k, v in module.state_dict().items()}
        grads = [
            None if p.grad is None else p.grad.clone() for p in module.parameters()
        ]
        params = attack.get_params()
        attack.run(model, X, digits.y)
        clone(attack).set_params(
            **{"random_state": None} if "random_state" in params else {}
        ).run(model, X[:5], digits.y[:5])
        assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())
        for weight, grad in zip(module.parameters(), grads, strict=True):
            assert (weight.grad is None) == (grad is None)
            assert grad is None or torch.equal(weight.grad, grad)
        assert [p.requires_grad for p in module.parameters()] == [
            name != "layers.0.bias" for name, _ in module.named_parameters()
        ]
        # skorch's own predict puts the module in eval mode
        assert {m.training for m in module.modules()} <= {mode, False}
        assert attack.get_params() == params and vars(attack) == params
    np.testing.assert_array_equal(X, before)


@every_attack
def test_scikit_learn_model_untouched(attack, linear, digits):
    before = pickle.dumps(linear)
    first = attack.run(linear, digits.X, digits.y)
    again = attack.run(FrozenEstimator(linear), digits.X, digits.y)
    assert pickle.dumps(linear) == before
    for name in ("X_adv", "fooled", "n_queries", "distortion"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))


@pytest.mark.parametrize(
    "name", ["apgd", "pgd", "pgd-l2", "search", "search-l2", "square"]
)
def test_random_state(name, linear, digits):
    one = ATTACKS[name]
    other = clone(one).set_params(random_state=1)
    same = clone(one).set_params(random_state=np.random.RandomState(0))
    X, y = digits.X, linear.predict(digits.X)
    assert (one.perturb(linear, X, y) != other.perturb(linear, X, y)).any()
    assert (same.perturb(linear, X, y) != same.perturb(linear, X, y)).any()
    free = clone(one).set_params(random_state=None)
    assert (free.perturb(linear, X, y) != free.perturb(linear, X, y)).any()


@settings(max_examples=20)
@given(name=st.sampled_from(list(GRADIENT)), size=st.integers(1, 120))
def test_batch_size(name, size, linear, digits):
    attack = quick(GRADIENT[name])
    whole = attack.run(linear, digits.X, digits.y)
    parts = clone(attack).set_params(batch_size=size).run(linear, digits.X, digits.y)
    np.testing.assert_allclose(parts.X_adv, whole.X_adv, atol=1e-12)
    np.testing.assert_array_equal(parts.fooled, whole.fooled)
    np.testing.assert_array_equal(parts.n_queries, whole.n_queries)


@settings(max_examples=20)
@given(name=st.sampled_from(list(ATTACKS)), k=st.integers(1, 99))
def test_rows_that_follow_do_not_matter(name, k, linear, forest, digits):
    # trees, unlike a matrix product, answer to the bit alike in any batch
    model = linear if name in GRADIENT else forest
    attack = quick(ATTACKS[name])
    few = attack.run(model, digits.X[:k], digits.y[:k])
    all_ = attack.run(model, digits.X, digits.y)
    np.testing.assert_allclose(few.X_adv, all_.X_adv[:k], atol=1e-12)
    np.testing.assert_array_equal(few.fooled, all_.fooled[:k])
    np.testing.assert_array_equal(few.n_queries, all_.n_queries[:k])


@every_attack
def test_images(attack, cnn, digits):
    X = digits.X.astype(np.float32).reshape(-1, 8, 8)[:40]
    y = digits.y[:40]
    attack = clone(attack)
    if "image_shape" in attack.get_params():
        attack.set_params(image_shape=None)
    result = attack.run(cnn, X, y)
    assert result.X_adv.shape == X.shape and result.X_adv.dtype == np.float32
    assert_within(result.X_adv, X, attack.eps, attack.norm, (0, 1))
    np.testing.assert_array_equal(result.fooled, cnn.predict(result.X_adv) != y)
    assert result.fooled.mean() > np.mean(cnn.predict(X) != y)


@pytest.mark.parametrize("name", ["pgd", "pgd-l2", "search", "search-l2"])
def test_pandas(name):
    rng = np.random.default_rng(0)
    X = pd.DataFrame(
        {
            "age": rng.integers(0, 10, 60),
            "income": rng.uniform(0, 10, 60),
            "rate": rng.uniform(0, 10, 60).astype(np.float32),
            "flag": rng.integers(0, 2, 60).astype(np.uint8),
        },
        index=[f"row {i}" for i in range(60)],
    )
    y = np.where(X.sum(axis=1) > X.sum(axis=1).median(), "high", "low")
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    before = X.copy()
    bounds = (X.min().to_numpy(), X.max().to_numpy())
    attack = clone(ATTACKS[name]).set_params(eps=2.5, bounds=bounds)
    result = attack.run(model, X, y)
    pd.testing.assert_frame_equal(X, before)
    X_adv = result.X_adv
    assert isinstance(X_adv, pd.DataFrame)
    pd.testing.assert_index_equal(X_adv.index, X.index)
    pd.testing.assert_series_equal(X_adv.dtypes, X.dtypes)
    assert_within(X_adv, X, 2.5, attack.norm, bounds)
    assert (X_adv["age"] != X["age"]).any()
    np.testing.assert_array_equal(result.fooled, model.predict(X_adv) != y)
    assert result.fooled.mean() > 0.2
    np.testing.assert_allclose(
        result.distortion,
        np.linalg.norm(
            X_adv.astype(float) - X, np.inf if attack.norm == "linf" else 2, axis=1
        ),
    )


@every_attack
def test_polars_and_lists(attack, linear, digits):
    named = LogisticRegression(C=0.1, max_iter=1000)
    frame = pl.DataFrame(digits.X, schema=[f"pixel {i}" for i in range(64)])
    fit_on = pl.DataFrame(digits.X_fit, schema=frame.columns)
    named.fit(fit_on, digits.y_fit)
    X_adv = attack.perturb(named, frame, list(digits.y))
    assert isinstance(X_adv, pl.DataFrame) and X_adv.schema == frame.schema
    expected = attack.perturb(linear, digits.X, digits.y)
    np.testing.assert_allclose(X_adv.to_numpy(), expected, atol=1e-12)
    from_list = attack.perturb(linear, digits.X.tolist(), digits.y)
    np.testing.assert_array_equal(from_list, expected)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "bool", "float16", "int64"])
@every_attack
def test_without_bounds_values_stay_in_the_dtype(attack, dtype):
    """A cast of what leaves the dtype would come out at its other end."""
    rng = np.random.default_rng(0)
    X = rng.integers(0, 2, size=(12, 64)).astype(dtype)
    if dtype == "float16":
        X *= np.finfo(dtype).max
    wide = 1e4 if dtype == "int64" else 1e3
    model = linear_model(rng.normal(size=64))
    labels = model.predict(X.astype(np.float64))
    attack = quick(attack, eps=np.float64(wide), bounds=None)
    with np.errstate(over="ignore"):
        result = attack.run(model, X, labels)
    assert result.X_adv.dtype == dtype
    exact = result.X_adv.astype(np.float64) - X
    assert np.isfinite(exact).all()
    order = np.inf if attack.norm == "linf" else 2
    np.testing.assert_allclose(
        result.distortion, np.linalg.norm(exact, order, axis=1), rtol=1e-6
    )
    np.testing.assert_array_equal(
        result.fooled, model.predict(result.X_adv.astype(np.float64)) != labels
    )


def test_whole_numbers_that_float64_does_not_hold():
    X = np.full((3, 2), 2**53 + 1)
    model = linear_model(np.ones(2))
    with pytest.raises(ValueError, match=r"whole numbers up to .* 2\*\*53"):
        FGSM(1, bounds=None).run(model, X)
    X_adv = FGSM(5, bounds=None).perturb(model, X - 2)
    assert (np.abs(X_adv - (X - 2)) <= 5).all() and X_adv.max() <= 2**53


@pytest.mark.parametrize("dtype", ["Float64", "Float32", "Int64", "UInt8", "boolean"])
def test_dtypes_of_pandas_own(dtype):
    values = np.random.default_rng(0).integers(0, 2, size=(20, 3))
    X = pd.DataFrame(values, columns=list("abc")).astype(dtype)
    model = linear_model([1.0, -1.0, 0.5])
    model.feature_names_in_ = np.array(list("abc"), dtype=object)
    X_adv = PGD(2, bounds=None, steps=3, random_state=0).perturb(model, X)
    pd.testing.assert_series_equal(X_adv.dtypes, X.dtypes)
    assert not X_adv.equals(X)


def test_polars_keeps_integers():
    X = pl.DataFrame({"a": [1, 2, 3, 4], "b": [0.5, 1.5, 2.5, 3.5]})
    model = LogisticRegression().fit(X, [0, 0, 1, 1])
    X_adv = PGD(1.2, bounds=None, random_state=0).perturb(model, X, [0, 0, 1, 1])
    assert X_adv.schema == X.schema
    assert np.abs((X_adv["a"] - X["a"]).to_numpy()).max() == 1


@every_attack
def test_labels(attack, linear, digits):
    names = np.array([f"digit {i}" for i in range(10)])
    model = LogisticRegression(C=0.1, max_iter=1000)
    model.fit(digits.X_fit, names[digits.y_fit])
    named = attack.run(model, digits.X, pd.Series(names[digits.y], index=range(5, 105)))
    plain = attack.run(linear, digits.X, digits.y)
    np.testing.assert_array_equal(named.X_adv, plain.X_adv)
    unnamed = attack.run(model, digits.X)
    own = attack.run(model, digits.X, model.predict(digits.X))
    np.testing.assert_array_equal(unnamed.X_adv, own.X_adv)
    assert not unnamed.fooled.all() and unnamed.fooled.any()


@pytest.mark.parametrize("switch", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    "attack",
    [
        PGD(0.1, steps=3, random_state=0),
        APGD(0.1, steps=3, random_state=0),
        CarliniWagnerL2(steps=3, binary_search_steps=1),
        DDN(steps=3),
        DeepFool(steps=3),
        JSMA(gamma=0.05),
        SigmaZero(steps=3),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_gradients_that_were_switched_off(attack, switch, mlp, digits):
    X, y = digits.X[:5], digits.y[:5]
    expected = attack.run(mlp, X, y)
    with switch():
        found = attack.run(mlp, X, y)
        assert not torch.is_grad_enabled()
    np.testing.assert_array_equal(found.X_adv, expected.X_adv)


@every_attack
def test_labels_of_another_kind_are_refused(attack, linear, digits):
    with pytest.raises(TypeError, match="must be of the kind of the model's classes"):
        quick(attack).run(linear, digits.X[:3], digits.y[:3].astype(str))


@pytest.mark.parametrize("label", [17, -1])
@every_attack
def test_unknown_label_is_lost_from_the_start(attack, label, linear, digits):
    result = quick(attack).run(linear, digits.X[:3], np.array([label] * 3))
    assert result.fooled.all() and (result.n_queries == 1).all()
    np.testing.assert_array_equal(result.X_adv, digits.X[:3])


@every_attack
def test_targeted(attack, linear, digits):
    target = (digits.y + 1) % 10
    attack = clone(attack).set_params(targeted=True, eps=attack.eps * 2)
    result = attack.run(linear, digits.X, target)
    hit = linear.predict(result.X_adv) == target
    np.testing.assert_array_equal(result.fooled, hit)
    assert hit.mean() > np.mean(linear.predict(digits.X) == target) + 0.1
    assert_within(result.X_adv, digits.X, attack.eps, attack.norm, (0, 1))
    with pytest.raises(ValueError, match=r"targeted=True\) needs y"):
        attack.run(linear, digits.X)
    with pytest.raises(ValueError, match=r"targets \[77\] are no classes"):
        attack.run(linear, digits.X, np.full(len(digits.X), 77))


@every_attack
def test_parameter_object(attack):
    twin = clone(attack)
    assert twin is not attack and twin.get_params() == attack.get_params()
    assert repr(twin) == repr(attack) and repr(attack).startswith(type(attack).__name__)
    assert twin.set_params(eps=0.5).eps == 0.5 and attack.eps != 0.5
    assert pickle.loads(pickle.dumps(attack)).get_params() == attack.get_params()
    assert not hasattr(attack, "fit")
    array = clone(attack).set_params(eps=np.full(3, 0.1))
    np.testing.assert_array_equal(clone(array).eps, array.eps)


BAD = [
    ("eps", -0.1), ("eps", "big"), ("eps", np.nan), ("eps", np.inf), ("eps", None),
    ("eps", np.ones(3)), ("eps", np.full(64, -1.0)), ("norm", "l7"), ("norm", np.inf),
    ("bounds", (1, 0)), ("bounds", 1), ("bounds", (0, 1, 2)), ("bounds", (0, np.nan)),
    ("bounds", (np.zeros(3), 1)), ("targeted", 1), ("loss", "hinge"), ("steps", 0),
    ("steps", 2.5), ("steps", True), ("step_size", 0), ("restarts", 0),
    ("random_start", "yes"), ("batch_size", 0), ("max_queries", 0), ("p_init", 0),
    ("p_init", 1.5), ("image_shape", (3, 3)), ("channel_axis", 5),
]  # fmt: skip


@pytest.mark.parametrize(
    "cls, name, value",
    [
        (cls, name, value)
        for cls in (APGD, FGSM, PGD, RandomSearch)
        for name, value in BAD
        if name in cls(0.1).get_params()
    ],
)
def test_bad_parameter(cls, name, value, linear, digits):
    params = {"image_shape": (4, 4, 4)} if name == "channel_axis" else {}
    attack = cls(**{"eps": 0.1, **params, name: value})
    with pytest.raises(ValueError, match=name):
        attack.run(linear, digits.X, digits.y)


@each_class
def test_bad_input(cls, linear, digits):
    X, y = digits.X, digits.y
    attack = cls(0.1)
    with pytest.raises(ValueError, match=r"(?s)outside .*bounds.* of .*bounds=\(X.min"):
        attack.run(linear, X * 16, y)
    with pytest.raises(ValueError, match="NaN"):
        attack.run(linear, np.where(X == 0, np.nan, X), y)
    with pytest.raises(ValueError, match="features"):
        attack.run(linear, X[:, :5], y)
    with pytest.raises(ValueError, match="100 rows and y has 3 labels"):
        attack.run(linear, X, y[:3])
    with pytest.raises(ValueError, match="2D array"):
        attack.run(linear, X[0], y[:1])
    with pytest.raises(ValueError, match=r"columns \['b'\] of X are not numeric"):
        attack.run(linear, pd.DataFrame({"a": [1.0], "b": ["x"]}), [0])


@pytest.mark.parametrize("attack", [FGSM(0.1), PGD(0.1)])
def test_no_view(attack, forest, digits):
    with pytest.raises(TypeError, match=r"RandomForestClassifier.*RandomSearch"):
        attack.run(forest, digits.X, digits.y)


def test_no_scores(digits):
    class Silent(ClassifierMixin, BaseEstimator):
        classes_ = np.array([False, True])

        def predict(self, X):
            return X[:, 20] > 0.5

    model = Silent()
    with pytest.raises(TypeError, match=r"neither\s+decision_function nor"):
        RandomSearch(0.1).run(model, digits.X, digits.y > 4)


def test_votes_are_no_scores(digits):
    rows = digits.y_fit < 4
    votes = SVC(decision_function_shape="ovo").fit(
        digits.X_fit[rows], digits.y_fit[rows]
    )
    with pytest.raises(ValueError, match='decision_function_shape="ovr"'):
        RandomSearch(0.1).run(votes, digits.X[:20], votes.predict(digits.X[:20]))


def test_search_where_predict_has_another_threshold(digits):
    """Success is what predict says, not where two scores are equal."""
    X, y = digits.X_fit, digits.y_fit > 4
    model = RandomForestClassifier(20, max_depth=6, random_state=0).fit(X, y)
    careful = FixedThresholdClassifier(FrozenEstimator(model), threshold=0.2).fit(X, y)
    X, y = digits.X, digits.y > 4
    genuine = ~y & (careful.predict(X) == y)
    attack = RandomSearch(0.1, max_queries=60, random_state=0)
    result = attack.run(careful, X[genuine], y[genuine])
    proba = careful.predict_proba(result.X_adv)[:, 1]
    np.testing.assert_array_equal(result.fooled, proba >= 0.2)
    assert (result.fooled & (proba < 0.5)).any()


def test_search_takes_ties(digits):
    """Half the trees on either side: the first class is the answer."""
    X, y = digits.X_fit, digits.y_fit > 4
    model = RandomForestClassifier(2, max_depth=3, random_state=0).fit(X, y)
    for tree in model.estimators_:
        tree.tree_.value[:] = np.rint(tree.tree_.value)
    X, y = digits.X, digits.y > 4
    genuine = y & (model.predict(X) == y)
    attack = RandomSearch(0.2, max_queries=40, random_state=0)
    result = attack.run(model, X[genuine], y[genuine])
    tied = model.predict_proba(result.X_adv)[:, 0] == 0.5
    assert tied.any() and result.fooled[tied].all()


@pytest.mark.parametrize(
    "attack",
    [
        PGD(2.0, norm="l2", bounds=None, random_state=0),
        FGSM(2.0, norm="l2", bounds=None),
        RandomSearch(2.0, norm="l2", bounds=None, max_queries=300, random_state=0),
        PGD(1.0, bounds=None, random_state=0),
        PGD(1.7, bounds=None, random_state=0),
    ],
)
@pytest.mark.parametrize("kind", [np.int64, np.uint8])
def test_whole_numbers_are_attacked_by_whole_steps(attack, kind):
    """Rounding takes back no more than it has to, and leaves nothing outside."""
    rng = np.random.default_rng(0)
    X = rng.integers(1, 4, (200, 20)).astype(kind)
    values = X @ rng.normal(size=20)
    y = values > np.median(values)
    model = LogisticRegression().fit(X, y)
    result = attack.run(model, X[:80], y[:80])
    assert result.fooled.mean() > 0.7 and result.X_adv.dtype == kind
    delta = result.X_adv.astype(float) - X[:80]
    length = np.abs(delta).max(1) if attack.norm == "linf" else (delta**2).sum(1) ** 0.5
    assert length.max() <= attack.eps + 1e-9


@given(
    eps=st.lists(st.floats(0.3, 4), min_size=4, max_size=4),
    seed=st.integers(0, 10**6),
)
def test_rounding_that_is_taken_back_ends_in_the_ball(eps, seed):
    eps, rng = np.array(eps), np.random.default_rng(seed)
    delta = rng.normal(size=(6, 4)) * eps
    delta /= np.maximum(np.linalg.norm(delta / eps, axis=1), 1)[:, None]
    found = shortened_to_ball(np.rint(delta), delta, eps)
    assert (np.linalg.norm(found / eps, axis=1) <= 1 + 1e-12).all()
    assert (np.abs(found - delta) < 1).all() and (found == np.rint(found)).all()
    # nothing is taken back where nothing needs to be
    inside = np.linalg.norm(np.rint(delta) / eps, axis=1) <= 1
    np.testing.assert_array_equal(found[inside], np.rint(delta)[inside])


@pytest.mark.parametrize(
    "attack", [PGD(0.3, bounds=None), FGSM(0.3, bounds=None), DDN(bounds=None)]
)
def test_rows_to_train_on_of_labels_that_the_model_does_not_know(attack):
    X, y = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=500).fit(X[:100], y[:100])
    found = attack.rows_to_train_on(model, X, y)
    np.testing.assert_array_equal(found[100:], X[100:])
    np.testing.assert_array_equal(
        found[:100], attack.rows_to_train_on(model, X[:100], y[:100])
    )


def test_classes_that_nobody_sorted():
    """Third-party classifiers may list their classes in any order."""

    class Turned(LogisticRegression):
        def fit(self, X, y):
            super().fit(X, y)
            self.classes_ = self.classes_[::-1]
            return self

        def decision_function(self, X):
            return super().decision_function(X)[:, ::-1]

        def predict_proba(self, X):
            return softmax(self.decision_function(X), axis=1)

        def predict(self, X):
            return self.classes_[self.decision_function(X).argmax(axis=1)]

    X, y = load_iris(return_X_y=True)
    attack = RandomSearch(0.5, bounds=None, max_queries=200, random_state=0)
    plain = attack.run(LogisticRegression(max_iter=500).fit(X, y), X, y)
    turned = attack.run(Turned(max_iter=500).fit(X, y), X, y)
    assert turned.fooled.sum() >= plain.fooled.sum() - 3
