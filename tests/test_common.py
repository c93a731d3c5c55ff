"""What every public estimator must do, each from the list in ``_instances.py``."""

import json
import pickle
import re
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch  # noqa: F401 - for the fixture that watches its generator
from scipy import sparse
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import estimator_checks_generator

from sk_advdef._torch._models import is_frozen
from tests._instances import (
    ANY_INSTANCE,
    FEW,
    INSTANCES,
    METHODS,
    assert_same_outputs,
    check_id,
    outputs,
    public_estimators,
    run_check,
)


def fit(instance, X=None, y=None):
    if X is None:
        X, y = instance.data()
    return clone(instance.estimator).fit(X, y)


@pytest.mark.parametrize("cls", public_estimators(), ids=check_id)
def test_every_public_estimator_has_an_instance(cls):
    assert any(
        type(instance.estimator) is cls and not instance.own_width
        for instance in INSTANCES
    )


@ANY_INSTANCE
def test_expected_failures_have_reasons(instance):
    assert all(len(why.split()) > 3 for why in instance.expected_failures.values())


@pytest.mark.parametrize("instance", INSTANCES, ids=str)
def test_kind(instance):
    assert instance.kind in ("transformer", "classifier", "detector", "monitor")


def scikit_learn_checks():
    for instance in INSTANCES:
        if instance.own_width:
            continue
        for estimator, check in estimator_checks_generator(instance.estimator):
            why = instance.expected_failures.get(check_id(check).partition("-")[0])
            marks = instance.marks + ([pytest.mark.xfail(reason=why)] if why else [])
            name = f"{instance}-{check_id(check)}"
            yield pytest.param(estimator, check, marks=marks, id=name)


@pytest.mark.parametrize("estimator, check", list(scikit_learn_checks()))
def test_scikit_learn(estimator, check):
    run_check(estimator, check)


# check_estimator never yields these
MORE_CHECKS = {
    "transformer": [
        "check_get_feature_names_out_error",
        "check_transformer_get_feature_names_out",
        "check_transformer_get_feature_names_out_pandas",
        "check_set_output_transform",
        "check_set_output_transform_pandas",
        "check_set_output_transform_polars",
        "check_global_output_transform_pandas",
        "check_global_set_output_transform_polars",
    ],
    "any": [
        "check_dataframe_column_names_consistency",
        "check_inplace_ensure_writeable",
    ],
}


# the checks mix frames and arrays on purpose
@pytest.mark.filterwarnings("ignore:X .* feature names:UserWarning")
@pytest.mark.parametrize(
    "instance, check",
    [
        pytest.param(instance, check, id=f"{instance}-{check}", marks=instance.marks)
        for instance in INSTANCES
        for check in MORE_CHECKS["any"] + MORE_CHECKS.get(instance.kind, [])
        if not instance.own_width
    ],
)
def test_scikit_learn_more(instance, check):
    name = type(instance.estimator).__name__
    estimator = clone(instance.estimator)
    run_check(estimator, getattr(estimator_checks, check), name)


def in_order(estimator):
    """Return the repr, members of skorch's sets sorted: a copy may order them anew."""
    return re.sub(
        r"\{('[^{}:]*')\}",
        lambda found: str(sorted(found[1].split(", "))),
        repr(estimator),
    )


@ANY_INSTANCE
def test_clone_and_params(instance):
    fitted = fit(instance)
    twin = clone(fitted)
    assert not any(name.endswith("_") for name in vars(twin))
    assert in_order(twin) == in_order(fitted) == in_order(instance.estimator)
    pipe = make_pipeline(StandardScaler(), twin)
    step = pipe.steps[-1][0]
    for name, values in instance.grid.items():
        pipe.set_params(**{f"{step}__{name}": values[0]})
        assert pipe.get_params()[f"{step}__{name}"] is values[0]
        assert pipe[-1].get_params()[name] is values[0]
    pipe.fit(*instance.data())


@ANY_INSTANCE
def test_grid_search_in_a_pipeline(instance):
    last = clone(instance.estimator)
    steps = [StandardScaler(), last]
    if instance.kind == "transformer":
        steps.append(LogisticRegression())
    pipe = make_pipeline(*steps)
    step = pipe.steps[1][0]
    grid = {f"{step}__{name}": values for name, values in instance.grid.items()}
    X, y = instance.data()
    search = GridSearchCV(
        pipe, grid, cv=2, scoring=instance.scoring, error_score="raise"
    )
    search.fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert_same_outputs(
        outputs(search.best_estimator_, X),
        outputs(clone(search.best_estimator_).fit(X, y), X),
    )


OPEN = """
import sys, joblib, numpy as np
for place in sys.argv[1:]:
    estimator = joblib.load(place + "/model.joblib")
    X, methods = joblib.load(place + "/../questions.joblib")[int(place.split("-")[-1])]
    answers = {m: np.asarray(getattr(estimator, m)(X)) for m in methods}
    joblib.dump(answers, place + "/answers.joblib")
"""


@pytest.fixture(scope="module")
def opened_elsewhere(tmp_path_factory):
    """Answers of every fitted instance, here and from a fresh process."""
    root = tmp_path_factory.mktemp("models")
    here, questions, places = [], [], []
    for number, instance in enumerate(INSTANCES):
        with instance.its_warning_ignored():
            model, (X, _) = fit(instance), instance.data()
        here.append(outputs(model, X))
        questions.append((X, list(here[-1])))
        places.append(root / f"model-{number}")
        places[-1].mkdir()
        joblib.dump(model, places[-1] / "model.joblib")
        assert [p.name for p in places[-1].iterdir()] == ["model.joblib"]
    joblib.dump(questions, root / "questions.joblib")
    empty = tmp_path_factory.mktemp("elsewhere")
    command = [sys.executable, "-c", OPEN, *map(str, places)]
    done = subprocess.run(
        command, cwd=empty, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    there = [joblib.load(place / "answers.joblib") for place in places]
    return list(zip(there, here, strict=True))


@ANY_INSTANCE
def test_joblib_into_another_process(instance, opened_elsewhere):
    there, here = opened_elsewhere[INSTANCES.index(instance)]
    assert_same_outputs(there, here)
    for method, values in there.items():
        assert values.dtype == here[method].dtype


@ANY_INSTANCE
def test_pickle_and_fit_again(instance):
    X, y = instance.data()
    fitted = fit(instance)
    expected = outputs(fitted, X)
    assert_same_outputs(outputs(pickle.loads(pickle.dumps(fitted)), X), expected)
    assert_same_outputs(outputs(fitted.fit(X, y), X), expected)


@ANY_INSTANCE
def test_html(instance):
    name = type(instance.estimator).__name__
    assert name in clone(instance.estimator)._repr_html_()
    assert name in fit(instance)._repr_html_()
    json.dumps(fit(instance)._repr_mimebundle_())


@ANY_INSTANCE
def test_batch_single_and_shuffled_rows(instance):
    X, _ = instance.data()
    fitted = fit(instance)
    expected = outputs(fitted, X)
    singles = [outputs(fitted, X[i : i + 1]) for i in range(len(X))]
    assert_same_outputs(
        {m: np.concatenate([one[m] for one in singles]) for m in expected}, expected
    )
    order = np.random.default_rng(0).permutation(len(X))
    assert_same_outputs(
        outputs(fitted, X[order]), {m: v[order] for m, v in expected.items()}
    )


@ANY_INSTANCE
def test_float32_and_float64(instance):
    X, y = instance.data()
    narrow = X.astype(np.float32)
    wide = narrow.astype(np.float64)
    fitted = fit(instance, wide, y)
    of_narrow, of_wide = outputs(fitted, narrow), outputs(fitted, wide)
    assert_same_outputs(of_narrow, of_wide, rtol=1e-4, atol=1e-4)
    if instance.kind == "transformer":
        for given in (narrow, wide):
            assert fitted.transform(given).dtype == given.dtype
            assert fit(instance, given, y).transform(given).dtype == given.dtype
    if instance.kind == "detector":
        assert of_narrow["decision_function"].dtype == np.float64


@ANY_INSTANCE
@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_data_frames(instance, frame):
    X, y = instance.data()
    names = [f"feature {i}" for i in range(X.shape[1])]
    given = frame(dict(zip(names, X.T, strict=True)))
    fitted = fit(instance, given, y)
    assert list(fitted.feature_names_in_) == names
    assert fitted.n_features_in_ == len(names)
    assert_same_outputs(outputs(fitted, given), outputs(fit(instance), X))


@ANY_INSTANCE
def test_global_generators_and_input_are_left_alone(instance, global_generators):
    X, y = instance.data()
    given, labels = X.copy(), y.copy()
    given.flags.writeable = labels.flags.writeable = False
    fitted = fit(instance, given, labels)
    for values in outputs(fitted, given).values():
        assert not np.shares_memory(values, given)
    np.testing.assert_array_equal(given, X)
    np.testing.assert_array_equal(labels, y)


def with_value(value):
    def spoil(X):
        X = X.copy()
        X[1, 1] = value
        return X

    return spoil


BAD = {
    "NaN": (with_value(np.nan), "Input X contains NaN"),
    "inf": (with_value(-np.inf), "Input X contains infinity"),
    "sparse": (sparse.csr_array, "Sparse data was passed"),
    "empty": (lambda X: X[:0], r"Found array with 0 sample\(s\)"),
    "1-D": (lambda X: X[0], "Expected 2D array, got 1D array"),
    "strings": (
        lambda X: np.full(X.shape, "ham"),
        "could not convert string to float|not compatible with arrays of bytes/strings",
    ),
    "wide": (
        lambda X: np.hstack([X, X]),
        r"X has \d+ features, but \w+ is expecting \d+ features",
    ),
}


@ANY_INSTANCE
@pytest.mark.parametrize("kind", BAD)
def test_bad_input(instance, kind):
    X, y = instance.data()
    spoil, message = BAD[kind]
    bad = spoil(X)
    fitted = fit(instance)
    asked = {m: getattr(fitted, m) for m in METHODS if hasattr(fitted, m)}
    if kind != "wide" and instance.learns:
        asked["fit"] = lambda bad: clone(fitted).fit(bad, y[: bad.shape[0]])
    for method, ask in asked.items():
        with pytest.raises((ValueError, TypeError)) as caught:
            ask(bad)
        assert re.search(message, str(caught.value)), (method, caught.value)


@pytest.mark.parametrize(
    "instance", [pytest.param(i, id=str(i)) for i in INSTANCES if i.kind == "detector"]
)
@pytest.mark.filterwarnings(f"ignore:{FEW}:UserWarning")
def test_outlier_contract_with_labels(instance):
    """What check_outliers_train and check_outliers_fit_predict ask for, given y."""
    X, y = instance.data()
    fitted = fit(instance)
    verdict = fitted.predict(X)
    assert verdict.shape == (len(X),) and verdict.dtype.kind == "i"
    np.testing.assert_array_equal(np.unique(verdict), [-1, 1])
    np.testing.assert_array_equal(clone(fitted).fit_predict(X, y), verdict)
    scores, decision = fitted.score_samples(X), fitted.decision_function(X)
    assert scores.shape == decision.shape == (len(X),)
    assert scores.dtype == decision.dtype == np.float64
    np.testing.assert_allclose(decision, scores - fitted.offset_)
    np.testing.assert_array_equal(verdict, np.where(decision >= 0, 1, -1))
    if hasattr(fitted, "uncertainty"):
        np.testing.assert_allclose(fitted.uncertainty(X), -scores)
    for method in ("predict", "decision_function", "score_samples"):
        with pytest.raises(ValueError, match="features"):
            getattr(fitted, method)(X.T)
        np.testing.assert_array_equal(
            getattr(fitted, method)(X.tolist()), getattr(fitted, method)(X)
        )
    for bad in (0, 0.51, -0.1, True, "auto"):
        with pytest.raises(ValueError, match="'contamination' parameter of"):
            clone(fitted).set_params(contamination=bad).fit(X, y)


@pytest.mark.parametrize(
    "instance",
    [pytest.param(i, id=str(i)) for i in INSTANCES if "Frozen" in repr(i.estimator)],
)
def test_what_is_frozen_stays_the_same_object(instance):
    with instance.its_warning_ignored():
        fitted = fit(instance)
    twin = clone(fitted)
    frozen = {k: v for k, v in twin.get_params().items() if is_frozen(v)}
    assert frozen
    for name, value in frozen.items():
        assert value is instance.estimator.get_params()[name]
        at = {"estimator": "estimator_", "teacher": "teacher_"}.get(name, "detector_")
        assert getattr(fitted, at) is value
