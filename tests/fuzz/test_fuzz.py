"""Each case ends in a right answer, or in an error that names what is wrong."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from sklearn.base import clone

from sk_advdef import AdversariallyAugmentedClassifier
from tests._instances import METHODS, assert_same_outputs, outputs
from tests.fuzz._bytes import BYTES, bytes_case
from tests.fuzz._functions import FUNCTIONS
from tests.fuzz._inputs import Rows, rows
from tests.fuzz._judge import assert_finite, attempt, ended, modules_in
from tests.fuzz._labels import LABELS, VALUES, any_label, any_value
from tests.fuzz._targets import (
    ATTACKS,
    ESTIMATORS,
    attacked_rows,
    few_rows,
    fitted,
    lite,
    model,
)

#: Cases of the long form, all targets together.
CASES = int(os.environ.get("SK_ADVDEF_FUZZ", "20000"))
#: Parameters that say how much is to be done: a huge one is no mistake.
WORK = ("steps", "rounds", "replays", "queries", "passes", "restarts", "n_", "size")
WIDTHS = ("max_pending", "hidden", "channels", "image_shape")
HUGE = ("2**63", "10**30")


def values_for(name: str) -> st.SearchStrategy[str]:
    if name in WIDTHS or any(word in name for word in WORK):
        return any_value.filter(lambda value: value not in HUGE)
    return any_value


def predict_case(name: str, draw: Callable[..., Any]) -> str:
    """Ask a fitted estimator about rows of any form."""
    estimator, base = fitted(name)
    case = draw(rows(base))
    methods = [m for m in METHODS if hasattr(estimator, m)]
    method = draw(st.sampled_from(methods))
    modules = modules_in(estimator)
    answer, error = attempt(
        lambda: {method: getattr(estimator, method)(case.X)},
        given=[case.X],
        modules=modules,
    )
    if case.plain is None:
        return "refused" if error else "answered"
    expected, plainly = attempt(
        lambda: {method: getattr(estimator, method)(case.plain)}, modules=modules
    )
    if plainly is None and not finite(expected[method]) and passes_on(estimator):
        with np.errstate(all="ignore"):
            own = getattr(estimator.estimator_, method)(case.plain)
        np.testing.assert_array_equal(expected[method], own)
        return "of the model"
    compare(case, answer, error, expected, plainly)
    return "refused" if error else "right"


def finite(values: Any) -> bool:
    return np.asarray(values).dtype.kind != "f" or bool(np.isfinite(values).all())


def passes_on(estimator: Any) -> bool:
    """Whether an estimator answers what its model answers, be that NaN."""
    return isinstance(estimator, AdversariallyAugmentedClassifier)


def compare(case: Rows, answer: Any, error: Any, expected: Any, plainly: Any) -> None:
    """Hold an answer against the one on plain rows."""
    if plainly is not None:
        if "longdouble" in case.made:
            return  # scikit-learn computes in it, where less overflows
        assert error is not None, f"answered, though plain rows give {plainly!r}"
        return
    if error is not None:
        # values that are objects, or rows of another dtype: refusing is as good
        assert not case.form_alone or case.how in ("nullable",), repr(error)
        return
    assert_finite(answer, len(case.plain))
    arrays = {name: np.asarray(values) for name, values in answer.items()}
    plain = {name: np.asarray(values) for name, values in expected.items()}
    if "transform" in plain:
        np.testing.assert_array_equal(arrays["transform"], plain["transform"])
        assert arrays["transform"].dtype.isnative
    else:
        # scikit-learn's scalers stay in float16
        rough = {"rtol": 0.02, "atol": 0.02} if "float16" in case.made else {}
        assert_same_outputs(arrays, plain, **rough)


def fit_case(name: str, draw: Callable[..., Any]) -> str:
    """Fit an estimator on rows and labels of any form, and ask it."""
    instance = ESTIMATORS[name]
    X, y = few_rows(instance)
    case = draw(rows(X, counts=(60, 40)))
    labels = "own"
    if draw(st.booleans()):
        labels = draw(any_label)
    n = case.made[0]
    target = np.resize(y, n) if labels == "own" else LABELS[labels](n)
    estimator = lite(instance.estimator)

    def fit() -> Any:
        estimator.fit(case.X, target)
        return outputs(estimator, case.X)

    answer, error = attempt(
        fit,
        given=[case.X, target],
        modules=modules_in(instance.estimator),
        names=instance.estimator.get_params(deep=False),
    )
    if error is not None:
        if labels == "own" and case.form_alone:
            assert case.how == "nullable", repr(error)
        return "refused"
    if case.plain is not None:
        assert_finite(settled(estimator, answer), len(case.plain))
    return "right"


def settled(estimator: Any, answers: dict[str, Any]) -> dict[str, Any]:
    """Leave out the infinite distance to a threshold that too few rows have set."""
    if getattr(estimator, "offset_", 0) == -np.inf:
        return {k: v for k, v in answers.items() if k != "decision_function"}
    return answers


def param_case(name: str, draw: Callable[..., Any]) -> str:
    """Give a parameter of an estimator another value, and fit."""
    instance = ESTIMATORS[name]
    param = draw(st.sampled_from(sorted(instance.estimator.get_params(deep=False))))
    value = VALUES[draw(values_for(param))]()
    X, y = few_rows(instance)
    estimator = lite(instance.estimator)

    def fit() -> Any:
        estimator.set_params(**{param: value}).fit(X, y)
        return outputs(estimator, X[:5])

    # an estimator that does not suit is named itself
    names = [param, repr(value)] if hasattr(value, "get_params") else [param]
    # huge parameters of the training are known by what they do to the weights
    names.append("Training left")
    answer, error = attempt(fit, given=[X, y], names=names, about_input=False)
    if error is not None:
        return "refused"
    assert_finite(settled(estimator, answer), 5)
    return "right"


def attack_case(name: str, draw: Callable[..., Any]) -> str:
    """Attack rows of any form."""
    attacked = ATTACKS[name]
    X, y = attacked_rows()
    case = draw(rows(X))
    labels = draw(st.sampled_from(["own", "own", "None"]) | any_label)
    n = case.made[0]
    target = {"own": lambda: np.resize(y, n), "None": lambda: None}.get(
        labels, lambda: LABELS[labels](n)
    )()
    attack = clone(attacked.attack)
    boxed = "bounds" in attack.get_params() and draw(st.booleans())
    if boxed:
        attack.set_params(bounds=None)
    estimator = model(attacked.kind)
    modules = modules_in(estimator)
    result, error = attempt(
        lambda: attack.run(estimator, case.X, target),
        given=[case.X, target],
        modules=modules,
    )
    if case.plain is None:
        return "refused" if error else "answered"
    if error is None:
        assert_finite({"X_adv": result.X_adv, "fooled": result.fooled}, len(case.plain))
        assert np.shape(result.X_adv) == case.plain.shape
    if case.form_alone and labels in ("own", "None"):
        expected, plainly = attempt(
            lambda: attack.run(estimator, case.plain, target), modules=modules
        )
        assert (error is None) == (plainly is None), (error, plainly)
        # what a narrower dtype cannot hold is rounded, and nullable rows, which are
        # computed in float64, keep theirs
        kinds = ["float64", ">f8", "object"]
        if case.how != "nullable":
            kinds.append("float32")
        if error is None and case.made[-2] in kinds:
            np.testing.assert_array_equal(result.fooled, expected.fooled)
    return "refused" if error else "right"


def attack_param_case(name: str, draw: Callable[..., Any]) -> str:
    """Give a parameter of an attack another value, and run it."""
    attacked = ATTACKS[name]
    attack = clone(attacked.attack)
    param = draw(st.sampled_from(sorted(attack.get_params(deep=False))))
    value = VALUES[draw(values_for(param))]()
    X, y = attacked_rows()
    result, error = attempt(
        lambda: attack.set_params(**{param: value}).run(
            model(attacked.kind), X[:5], y[:5]
        ),
        given=[X, y],
        modules=modules_in(model(attacked.kind)),
        names=[param],
        about_input=False,
    )
    if error is not None:
        return "refused"
    assert_finite({"X_adv": result.X_adv, "distortion": result.distortion}, 5)
    return "right"


def function_case(name: str, draw: Callable[..., Any]) -> str:
    """Give an argument of a function another value."""
    function = FUNCTIONS[name]
    arguments = function.arguments()
    argument = draw(st.sampled_from(sorted(set(arguments) - {"kind"})))
    if argument in function.rows and draw(st.booleans()):
        value = draw(rows(np.asarray(arguments[argument]), counts=(9, 5))).X
    elif argument == "y" and draw(st.booleans()):
        value = LABELS[draw(any_label)](len(arguments["X"]))
    else:
        value = VALUES[draw(values_for(argument))]()
    names = [argument, *(["images of shape"] if argument == "image_shape" else [])]
    if argument in ("estimator", "detector", "attack"):
        names += [repr(value), type(value).__name__]
    answer, error = attempt(
        lambda: function.call(**arguments | {argument: value}),
        given=list((arguments | {argument: value}).values()),
        modules=modules_in(arguments),
        names=names,
        about_input=argument in (*function.rows, "y"),
    )
    # a detection scorer says NaN, and warns, where no attack succeeds
    if isinstance(answer, float) and name != "make_detection_scorer":
        assert np.isfinite(answer)
    return "refused" if error else "right"


#: What is asked, of what, and what share of the cases it gets.
KINDS: dict[str, tuple[Callable[..., str], Any, float]] = {
    "predict": (predict_case, ESTIMATORS, 0.35),
    "fit": (fit_case, ESTIMATORS, 0.12),
    "parameters": (param_case, ESTIMATORS, 0.13),
    "attack": (attack_case, ATTACKS, 0.12),
    "attack parameters": (attack_param_case, ATTACKS, 0.08),
    "function": (function_case, FUNCTIONS, 0.10),
    "bytes": (bytes_case, BYTES, 0.10),
}


def cells(n_cases: int) -> list[Any]:
    """Deal cases to kinds and targets."""
    return [
        pytest.param(kind, name, math.ceil(n_cases * share / len(names)))
        for kind, (_, names, share) in KINDS.items()
        for name in names
    ]


def run(kind: str, name: str, count: int, **how: Any) -> None:
    """Run a number of cases of one target."""
    case_of = KINDS[kind][0]

    @settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        **how,
    )
    @given(data=st.data())
    def cell(data: Any) -> None:
        ended(f"{kind}: {name}", case_of(name, data.draw))

    if "derandomize" in how:
        # a seed of its own, else every target would get the same draws
        cell = seed(zlib.crc32(f"{kind}: {name}".encode()))(cell)
    cell()


@pytest.mark.parametrize("kind, name, count", cells(900))
def test_few(kind, name, count):
    run(kind, name, count, derandomize=True, database=None)


@pytest.mark.fuzz
@pytest.mark.parametrize("kind, name, count", cells(CASES))
def test_many(kind, name, count):
    run(kind, name, count)
