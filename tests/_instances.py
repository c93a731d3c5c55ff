"""One list of instances of every public estimator, for all that is asked of each."""

from __future__ import annotations

import inspect
import unittest
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, is_classifier, is_outlier_detector

import sk_advdef
from sk_advdef import BitDepthSqueezer, BlurSqueezer, Downscaler

#: Checks that scikit-learn itself skips for another reason than a missing package.
ALLOWED_SKIPS = ("SCIPY_ARRAY_API is not set",)

#: What a fitted estimator may be asked for, row by row.
METHODS = (
    "decision_function",
    "mean_proba",
    "predict",
    "predict_proba",
    "score_samples",
    "transform",
    "uncertainty",
)


def make_rows(
    n_features: int = 6, n_samples: int = 60
) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 rows and string labels of three blobs."""
    rng = np.random.default_rng(0)
    codes = np.arange(n_samples) % 3
    centers = 2 * rng.normal(size=(3, n_features))
    X = centers[codes] + rng.normal(size=(n_samples, n_features))
    return X, np.array(["ham", "eggs", "spam"])[codes]


@dataclass(frozen=True)
class Instance:
    """An estimator and what its tests must know.

    ``expected_failures`` maps a check of scikit-learn to the reason why it cannot pass;
    ``data`` makes rows and labels that suit the estimator; ``grid`` is what
    GridSearchCV tries, by parameters of the estimator itself. ``own_width`` tells that
    it takes rows of one width, which scikit-learn's checks do not draw.
    """

    estimator: Any
    grid: Mapping[str, list[Any]]
    expected_failures: Mapping[str, str] = field(default_factory=dict)
    data: Callable[[], tuple[np.ndarray, np.ndarray]] = make_rows
    own_width: bool = False

    @property
    def kind(self) -> str:
        """Either "transformer", "classifier" or "detector"."""
        if is_classifier(self.estimator):
            return "classifier"
        return "detector" if is_outlier_detector(self.estimator) else "transformer"

    def __str__(self) -> str:
        changed = repr(self.estimator)
        return changed if len(changed) < 80 else f"{changed[:77]}..."


INSTANCES = [
    Instance(BitDepthSqueezer(), {"bits": [1, 5]}),
    Instance(
        BitDepthSqueezer(2, value_range=(-3, 3)), {"value_range": [None, (-1, 1)]}
    ),
    Instance(BlurSqueezer(), {"sigma": [0, 0.5]}),
    Instance(
        BlurSqueezer(0.7, image_shape=(2, 3)),
        {"image_shape": [(3, 2), (6,), (1, 2, 3)]},
        own_width=True,
    ),
    Instance(BlurSqueezer(0), {"sigma": [0]}),
    Instance(Downscaler(), {"factor": [0.5, 1.0]}),
    Instance(Downscaler(restore=False), {"factor": [0.3, 0.6]}),
    Instance(Downscaler(size=1), {"size": [1, None], "restore": [True, False]}),
]

ANY_INSTANCE = pytest.mark.parametrize("instance", INSTANCES, ids=str)


def public_estimators() -> list[type]:
    """Return the public classes that have a ``fit``."""
    public = (getattr(sk_advdef, name) for name in sk_advdef.__all__)
    return [
        cls
        for cls in public
        if inspect.isclass(cls)
        and issubclass(cls, BaseEstimator)
        and hasattr(cls, "fit")
    ]


def outputs(estimator: Any, X: Any) -> dict[str, np.ndarray]:
    """Return what each method of a fitted estimator answers on ``X``."""
    return {
        method: np.asarray(getattr(estimator, method)(X))
        for method in METHODS
        if hasattr(estimator, method)
    }


def assert_same_outputs(
    found: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    **tolerance: Any,
) -> None:
    """Compare labels exactly, and numbers to the tolerance that the design names."""
    tolerance = {"rtol": 1e-5, "atol": 1e-7, **tolerance}
    assert found.keys() == expected.keys() != set()
    for method, values in found.items():
        if method == "predict":
            np.testing.assert_array_equal(values, expected[method])
        else:
            np.testing.assert_allclose(
                values, expected[method], err_msg=method, **tolerance
            )


def check_id(value: Any) -> str:
    """Name a parameter of a test: a check by its name, an estimator by its class."""
    if isinstance(value, partial):
        words = "-".join(map(str, value.keywords.values()))
        return f"{value.func.__name__}{words and '-' + words}"
    return getattr(value, "__name__", type(value).__name__)


def run_check(estimator: Any, check: Callable[..., Any], *args: Any) -> None:
    """Run a check of scikit-learn; one that is skipped fails, unless named above."""
    try:
        check(*args, estimator)
    except unittest.SkipTest as skipped:
        if not str(skipped).startswith(ALLOWED_SKIPS):
            pytest.fail(f"skipped: {skipped}")
