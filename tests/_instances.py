"""One list of instances of every public estimator, for all that is asked of each."""

from __future__ import annotations

import inspect
import unittest
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import (
    BaseEstimator,
    clone,
    is_classifier,
    is_outlier_detector,
)
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier

import sk_advdef
from sk_advdef import (
    PGD,
    AdversariallyAugmentedClassifier,
    BitDepthSqueezer,
    BlurSqueezer,
    CertifiedClassifier,
    CombinedDetector,
    ConcealedClassifier,
    DensityDetector,
    DistilledClassifier,
    Downscaler,
    DropoutUncertaintyDetector,
    FeatureSqueezingDetector,
    GrayscaleSqueezer,
    GuardedClassifier,
    JpegSqueezer,
    MedianSqueezer,
    RejectingClassifier,
    SimilarQueryDetector,
    make_detection_scorer,
)
from sk_advdef._torch._net import NetClassifier
from sk_advdef.nets import DropoutMLP

#: Checks that scikit-learn itself skips for another reason than a missing package.
ALLOWED_SKIPS = ("SCIPY_ARRAY_API is not set",)

#: What a fitted estimator may be asked for, row by row.
METHODS = (
    "decision_function",
    "distances",
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


def make_coded_rows() -> tuple[np.ndarray, np.ndarray]:
    """Return the rows with ints for labels."""
    X, y = make_rows()
    return X, np.unique(y, return_inverse=True)[1]


def small_net(**params: Any) -> NeuralNetClassifier:
    """Make a net that learns the little data of scikit-learn's checks."""
    given = {
        "module__n_classes": 5,
        "module__hidden": (16,),
        "criterion": torch.nn.CrossEntropyLoss,
        "optimizer": torch.optim.Adam,
        "lr": 0.02,
        "max_epochs": 15,
        "batch_size": 32,
        "iterator_train__shuffle": True,
        "train_split": None,
        "verbose": 0,
    }
    return NeuralNetClassifier(DropoutMLP, **given | params)


@dataclass(frozen=True)
class Instance:
    """An estimator and what its tests must know.

    ``expected_failures`` maps a check of scikit-learn to the reason why it cannot pass;
    ``data`` makes rows and labels that suit the estimator; ``grid`` is what
    GridSearchCV tries, by parameters of the estimator itself. ``own_width`` tells that
    it takes rows of one width, which scikit-learn's checks do not draw. ``warns`` is a
    warning that comes with little data; it is ignored, any other is an error.
    ``learns=False`` marks one that is all frozen: ``fit`` does not look at rows.
    """

    estimator: Any
    grid: Mapping[str, list[Any]]
    expected_failures: Mapping[str, str] = field(default_factory=dict)
    data: Callable[[], tuple[np.ndarray, np.ndarray]] = make_rows
    own_width: bool = False
    warns: str = ""
    learns: bool = True
    scoring: Any = None

    @property
    def kind(self) -> str:
        """Either "transformer", "classifier", "detector" or "monitor"."""
        if is_classifier(self.estimator):
            return "classifier"
        if is_outlier_detector(self.estimator):
            return "detector"
        return "transformer" if hasattr(self.estimator, "transform") else "monitor"

    @property
    def marks(self) -> list[Any]:
        """Marks of the tests of this instance."""
        ignored = f"ignore:{self.warns}:UserWarning"
        return [pytest.mark.filterwarnings(ignored)] if self.warns else []

    @contextmanager
    def its_warning_ignored(self) -> Iterator[None]:
        """Ignore the warning that is expected, where no mark of a test reaches."""
        with warnings.catch_warnings():
            if self.warns:
                warnings.filterwarnings("ignore", self.warns, UserWarning)
            yield

    def __str__(self) -> str:
        changed = repr(self.estimator)
        if len(changed) < 80:
            return changed
        inside = "net" if "NeuralNet" in changed else "classifier"
        inside = f"frozen {inside}" if "Frozen" in changed else inside
        own = getattr(self.estimator, "adversarial_label", None)
        return f"{type(self.estimator).__name__}({inside}, {own})"


FEW = ".* held-out rows cannot tell"
FEW_OR_FAILED = "(.* held-out rows cannot tell|.*fooled the model on)"
NAMELESS = "X has feature names, but .* was fitted without feature names"
NO_Y = "it calls fit(X), and a detector that fits its model needs class labels"
OWN_CLASS = {
    "check_classifiers_classes": "it draws strings and ints, and the adversarial "
    "label must be of the kind of the others",
    "check_classifiers_train": "it wants a column of predict_proba for each class of y "
    "alone, and the adversarial class has one too",
}

linear = LogisticRegression(max_iter=1000)
attack = PGD(0.3, steps=3, bounds=None, random_state=0)
# a threshold that no row of the tests is below: all must be answered
never = DropoutUncertaintyDetector(n_passes=5, contamination=1e-3, random_state=0)
detector = DropoutUncertaintyDetector(
    small_net(), n_passes=8, contamination=0.1, random_state=0
)
squeezing = FeatureSqueezingDetector(
    linear,
    squeezers=[("bit_depth", BitDepthSqueezer(2)), ("median", MedianSqueezer(3))],
    contamination=0.1,
    random_state=0,
)
unbound = clone(squeezing).set_params(estimator=None)
of_a_detector = make_detection_scorer(PGD(3.0, steps=5, bounds=None, random_state=0))


def mean_score(monitor: Any, X: Any, y: Any = None) -> float:
    """Score a monitor in a search; on its empty history all rows are genuine."""
    return float(np.mean(monitor.score_samples(X)))


def frozen_parts() -> tuple[Any, Any, Any]:
    """Return, frozen, a linear model, a Pipeline with a net, and a detector of it."""
    X, y = make_rows()
    pipe = make_pipeline(StandardScaler(), NetClassifier(small_net(), random_state=0))
    net = FrozenEstimator(pipe.fit(X, y))
    found = clone(detector).set_params(estimator=net, contamination=0.2)
    return FrozenEstimator(clone(linear).fit(X, y)), net, FrozenEstimator(found.fit(X))


frozen_linear, frozen_net, frozen_detector = frozen_parts()

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
    Instance(GrayscaleSqueezer(), {"keep_channels": [True, False]}),
    Instance(
        GrayscaleSqueezer(image_shape=(2, 1, 3), keep_channels=False),
        {"weights": [(1, 1, 1), (0.5, 0, 0.5)], "keep_channels": [True, False]},
        own_width=True,
    ),
    Instance(MedianSqueezer(), {"window_size": [1, 5]}),
    Instance(
        MedianSqueezer(2, image_shape=(2, 3)),
        {"window_size": [3, (1, 2)]},
        own_width=True,
    ),
    Instance(JpegSqueezer(90, n_jobs=2), {"quality": [50, 90]}),
    Instance(
        JpegSqueezer(value_range=(-9, 9), image_shape=(1, 2, 3)),
        {"quality": [90], "value_range": [(-5, 5), (-9, 9)]},
        own_width=True,
    ),
    Instance(
        DistilledClassifier(small_net(), temperature=2, random_state=0),
        {"temperature": [1.0, 3.0], "estimator__lr": [0.02, 0.04]},
    ),
    Instance(
        DistilledClassifier(linear, teacher=[linear, linear], alpha=0.9),
        {"temperature": [1, 20], "alpha": [0.5, 1.0]},
    ),
    Instance(
        DistilledClassifier(
            small_net(), temperature=2, teacher=frozen_net, random_state=0
        ),
        {"temperature": [1.0, 3.0]},
        own_width=True,
        warns=NAMELESS,
    ),
    Instance(
        AdversariallyAugmentedClassifier(
            small_net(max_epochs=8, lr=0.05), attack=attack, random_state=0
        ),
        {"attack__eps": [0.1, 0.3], "estimator__lr": [0.04]},
    ),
    Instance(
        AdversariallyAugmentedClassifier(
            small_net(max_epochs=8),
            attack=attack,
            method="trades",
            steps=2,
            averaging="ema",
            random_state=0,
        ),
        {"method": ["fast", "free"], "eps_warmup": [0, 2]},
    ),
    Instance(
        AdversariallyAugmentedClassifier(linear, random_state=0),
        {"rounds": [1, 3], "ratio": [0.5, 1.0]},
        warns="No attack changes the columns",  # of the checks, of few whole numbers
    ),
    Instance(
        AdversariallyAugmentedClassifier(
            small_net(max_epochs=8, lr=0.05),
            attack=attack,
            adversarial_label=99,
            random_state=0,
        ),
        {"adversarial_label": [99, -1]},
        expected_failures=OWN_CLASS,
        data=make_coded_rows,
    ),
    Instance(
        AdversariallyAugmentedClassifier(
            linear,
            attack=clone(attack).set_params(eps=1.0),  # which moves whole numbers too
            adversarial_label=99,
            random_state=0,
        ),
        {"attack__steps": [1, 3]},
        expected_failures=OWN_CLASS,
        data=make_coded_rows,
    ),
    Instance(
        CertifiedClassifier(
            small_net(max_epochs=8, lr=0.05, module__dropout=0.0),
            eps=0.1,
            bounds=None,
            random_state=0,
        ),
        {"eps": [0.05, 0.2], "estimator__lr": [0.04]},
    ),
    Instance(
        detector,
        {"statistic": ["variance", "variation_ratio"], "contamination": [0.1, 0.2]},
        expected_failures=dict.fromkeys(
            ("check_outliers_train", "check_outliers_fit_predict"), NO_Y
        ),
        data=partial(make_rows, n_samples=100),
        warns=FEW,
        scoring=of_a_detector,
    ),
    Instance(
        clone(detector).set_params(estimator=frozen_net),
        {"statistic": ["mutual_information"], "n_passes": [4, 8]},
        own_width=True,
        data=partial(make_rows, n_samples=200),
        warns=NAMELESS,
        scoring=of_a_detector,
    ),
    Instance(
        squeezing,
        {"contamination": [0.1, 0.2], "median__window_size": [3, 5]},
        expected_failures=dict.fromkeys(
            ("check_outliers_train", "check_outliers_fit_predict"), NO_Y
        ),
        data=partial(make_rows, n_samples=100),
        warns=FEW,
        scoring=of_a_detector,
    ),
    Instance(
        FeatureSqueezingDetector(
            frozen_linear, contamination=0.2, image_shape=(2, 3), random_state=0
        ),
        {"squeezers": [None, [("blur", BlurSqueezer(0.5, image_shape=(2, 3)))]]},
        own_width=True,
        data=partial(make_rows, n_samples=200),
        warns=NAMELESS,
        scoring=of_a_detector,
    ),
    Instance(
        RejectingClassifier(
            linear, clone(squeezing).set_params(estimator=None, contamination=1e-3)
        ),
        {"detector__median__window_size": [3, 5]},
        warns=FEW,
    ),
    Instance(
        DensityDetector(contamination=0.1, random_state=0),
        {
            "method": ["kernel_density", "mahalanobis"],
            "bandwidth": ["auto", 0.5],
        },
        expected_failures=dict.fromkeys(
            ("check_outliers_train", "check_outliers_fit_predict"), NO_Y
        ),
        data=partial(make_rows, n_samples=100),
        warns=FEW,
        scoring=of_a_detector,
    ),
    Instance(
        DensityDetector(
            frozen_net,
            method="nearest_neighbors",
            layers=["layers.0", "layers.1"],
            contamination=0.2,
            random_state=0,
        ),
        {"layers": [None, "layers.0"], "method": ["relative_mahalanobis"]},
        own_width=True,
        data=partial(make_rows, n_samples=200),
        warns=NAMELESS,
        scoring=of_a_detector,
    ),
    Instance(
        CombinedDetector(
            [("density", DensityDetector()), ("squeezing", unbound)],
            estimator=linear,
            attack=clone(attack).set_params(eps=2.0),
            contamination=0.1,
            cv=0.5,
            random_state=0,
        ),
        {"density__bandwidth": ["auto", 1.0], "squeezing__median__window_size": [5]},
        expected_failures=dict.fromkeys(
            ("check_outliers_train", "check_outliers_fit_predict"), NO_Y
        ),
        data=partial(make_rows, n_samples=100),
        warns=FEW_OR_FAILED,
        scoring=of_a_detector,
    ),
    Instance(
        RejectingClassifier(
            frozen_net,
            CombinedDetector(
                [
                    ("variance", clone(detector).set_params(estimator=None)),
                    ("density", DensityDetector()),
                ],
                attack=clone(attack).set_params(eps=2.0),
                contamination=0.2,
                cv=0.5,
                prior=0.1,
                random_state=0,
            ),
        ),
        {"detector__variance__statistic": ["logit_margin"]},
        own_width=True,
        data=partial(make_rows, n_samples=200),
        warns=FEW_OR_FAILED.replace("(", f"({NAMELESS}|"),
    ),
    Instance(
        RejectingClassifier(small_net(), never),
        {"detector__statistic": ["variance", "predictive_entropy"]},
        warns=FEW,
    ),
    Instance(
        RejectingClassifier(
            linear, clone(never).set_params(estimator=small_net(max_epochs=5))
        ),
        {"detector__n_passes": [3, 5]},
        warns=FEW,
    ),
    Instance(
        RejectingClassifier(
            frozen_net, clone(detector).set_params(estimator=None, contamination=0.2)
        ),
        {"detector__contamination": [0.1, 0.3]},
        own_width=True,
        warns=NAMELESS,
    ),
    Instance(
        RejectingClassifier(frozen_linear, frozen_detector),
        {"reject_label": ["auto", "none"]},
        own_width=True,
        learns=False,
        warns=NAMELESS,
    ),
    Instance(ConcealedClassifier(linear), {"reveal": ["label", "top"]}),
    Instance(
        ConcealedClassifier(linear, reveal="rounded"),
        {"decimals": [0, 3], "estimator__C": [0.1, 1.0]},
    ),
    Instance(
        ConcealedClassifier(linear, reveal="noisy"),
        {"noise": [0.1, 1.0], "cell_size": [0.1, 2.0]},
    ),
    Instance(
        ConcealedClassifier(frozen_net, reveal="top"),
        {"reveal": ["noisy", "rounded"]},
        own_width=True,
        learns=False,
        warns=NAMELESS,
    ),
    Instance(GuardedClassifier(linear), {"estimator__C": [0.1, 1.0]}),
    Instance(
        GuardedClassifier(
            linear,
            monitor=SimilarQueryDetector(random_state=0),
            limit="1000000/second",
            action="flag",
        ),
        {"action": ["decoy", "flag"], "limit": [None, "500000/second"]},
        warns=FEW,
    ),
    Instance(
        SimilarQueryDetector(random_state=0),
        {"n_neighbors": [3, 5], "false_positive_rate": [0.01]},
        warns=FEW,
        scoring=mean_score,
    ),
    Instance(
        SimilarQueryDetector(method="fingerprint", random_state=0),
        {"window": [1, None], "sketch_size": [20, 50]},
        warns=FEW,
        scoring=mean_score,
    ),
    Instance(
        SimilarQueryDetector(method="provenance", random_state=0),
        {"scope": ["account", "shared"]},
        warns=FEW,
        scoring=mean_score,
    ),
]

ANY_INSTANCE = pytest.mark.parametrize(
    "instance", [pytest.param(i, id=str(i), marks=i.marks) for i in INSTANCES]
)


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
    # a float32 net moves by some 1e-7 with its batch, and scores may lie near zero
    tolerance = {"rtol": 1e-5, "atol": 1e-6, **tolerance}
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
