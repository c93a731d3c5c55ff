"""The certified score: closed forms, trees, nets; always below what attacks leave."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC, LinearSVC
from skorch import NeuralNetBinaryClassifier

from sk_advdef import (
    PGD,
    BlurSqueezer,
    CertifiedClassifier,
    ConcealedClassifier,
    DensityDetector,
    RandomSearch,
    RejectingClassifier,
    TreeExact,
    certified_accuracy_score,
    evaluate_robustness,
    robust_accuracy_score,
)
from sk_advdef.evaluation._certified import certified_rows
from sk_advdef.evaluation._closed_form import worst_shift
from tests._instances import make_rows, small_net
from tests._torch._cases import OneLogit

X, y = make_rows(n_samples=90)
codes = np.unique(y, return_inverse=True)[1]
BOX = (X.min(axis=0), X.max(axis=0))


def by_hand(weight, bias, X, codes, eps, low, high):
    """Which rows a linear model answers rightly anywhere in ball and box."""
    down, up = np.maximum(X - eps, low) - X, np.minimum(X + eps, high) - X
    certain = np.ones(len(X), dtype=bool)
    for row, code in enumerate(codes):
        for other in set(range(len(weight))) - {code}:
            slope = weight[code] - weight[other]
            lead = X[row] @ slope + bias[code] - bias[other]
            lead += np.minimum(slope * down[row], slope * up[row]).sum()
            certain[row] &= lead > 0
    return certain


@pytest.mark.parametrize("bounds", [None, BOX])
@pytest.mark.parametrize("eps", [0.0, 0.4, np.linspace(0, 1, 6)])
def test_linear_models_in_closed_form(bounds, eps):
    model = LogisticRegression().fit(X, y)
    low, high = (-np.inf, np.inf) if bounds is None else bounds
    expected = by_hand(model.coef_, model.intercept_, X, codes, eps, low, high)
    found = certified_rows(model, X, y, eps, bounds=bounds)
    np.testing.assert_array_equal(found, expected)
    assert certified_accuracy_score(model, X, y, eps, bounds=bounds) == expected.mean()
    attacked = PGD(eps, loss="margin", steps=50, bounds=bounds, random_state=0)
    # PGD is all but exact on a linear model
    held = robust_accuracy_score(model, X, y, attack=attacked)
    assert expected.mean() <= held <= expected.mean() + 0.03


@pytest.mark.parametrize("kind", [LinearSVC, RidgeClassifier, LogisticRegression])
def test_two_classes_behind_a_scaler(kind):
    labels = np.where(codes == 0, "a", "b")
    model = make_pipeline(StandardScaler(), kind()).fit(X, labels)
    scale = model[0].scale_
    weight, bias = np.atleast_2d(model[1].coef_) / scale, model[1].intercept_
    bias = bias - weight @ model[0].mean_
    signs = np.where(labels == "b", 1, -1)
    lead = signs * (X @ weight[0] + bias)
    for norm, dual in (("linf", 1), ("l2", 2)):
        expected = lead > 0.3 * np.linalg.norm(weight[0], dual)
        found = certified_rows(model, X, labels, 0.3, norm=norm, bounds=None)
        np.testing.assert_array_equal(found, expected)


def test_l2_in_a_box_is_the_true_minimum():
    rng = np.random.default_rng(0)
    slope, eps = rng.normal(size=4), np.array([0.5, 1.0, 0.0, 2.0])
    down, up = -rng.uniform(0, 1, (8, 4)) * eps, rng.uniform(0, 1, (8, 4)) * eps
    found = worst_shift(slope, down, up, eps, "l2")
    for row in range(8):
        inside = {
            "type": "ineq",
            "fun": lambda d: 1 - np.sum((d[[0, 1, 3]] / eps[[0, 1, 3]]) ** 2),
        }
        true = minimize(
            lambda d: d @ slope,
            np.zeros(4),
            bounds=list(zip(down[row], up[row], strict=True)),
            constraints=inside,
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 500},
        ).fun
        assert found[row] == pytest.approx(true, abs=1e-5)
    np.testing.assert_array_equal(worst_shift(0 * slope, down, up, eps, "l2"), 0)


def test_trees_are_decided_exactly():
    forest = RandomForestClassifier(5, random_state=0).fit(X, y)
    for norm in ("linf", "l2"):
        exact = TreeExact(0.2, norm=norm, bounds=BOX).run(forest, X[::6], y[::6])
        found = certified_rows(forest, X[::6], y[::6], 0.2, norm=norm, bounds=BOX)
        np.testing.assert_array_equal(found, exact.certified)
    assert 0 < found.mean() < 1


@pytest.mark.parametrize(
    "model",
    [
        MLPClassifier((8,), max_iter=300, random_state=0),
        make_pipeline(BlurSqueezer(0.4, image_shape=(6,)), LogisticRegression()),
        make_pipeline(StandardScaler(), MLPClassifier((5,), random_state=0)),
    ],
    ids=["mlp", "blur", "pipeline"],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_others_by_intervals_below_what_attacks_leave(model, dtype):
    rows = X.astype(dtype)
    model.fit(rows, y)
    attacks = [
        PGD(0.1, steps=20, loss="margin", bounds=None, random_state=0),
        RandomSearch(0.1, max_queries=50, bounds=None, random_state=0),
    ]
    held = robust_accuracy_score(model, rows, y, attack=attacks)
    found = certified_accuracy_score(model, rows, y, 0.1, bounds=None)
    assert 0.2 < found <= held
    assert certified_accuracy_score(model, rows, y, 0.0, bounds=None) == pytest.approx(
        model.score(rows, y), abs=0.02
    )


def test_a_search_over_certified_accuracy():
    scorer = partial(certified_accuracy_score, eps=0.3, bounds=None)
    search = GridSearchCV(
        CertifiedClassifier(
            small_net(module__dropout=0.0), eps=0.3, bounds=None, random_state=0
        ),
        {"eps_train": [0.0, 0.6]},
        scoring={"clean": "accuracy", "certified": scorer},
        refit="certified",
        cv=2,
    ).fit(X, y)
    certified = search.cv_results_["mean_test_certified"]
    assert search.best_params_ == {"eps_train": 0.6} and certified[1] > certified[0]
    assert (certified <= search.cv_results_["mean_test_clean"]).all()


def test_report_says_what_is_certified():
    net = small_net(module__dropout=0.0)
    model = CertifiedClassifier(net, eps=0.3, bounds=None, random_state=0).fit(X, y)
    few = X[:20], y[:20]
    report = evaluate_robustness(model, *few, eps=0.3, bounds=None, random_state=0)
    certified = certified_accuracy_score(model, *few, 0.3, bounds=None)
    assert 0 < report.certified == certified <= report.worst_case_accuracy
    assert f"Certified by interval bounds: {certified:.1%}" in str(report)


def test_report_goes_on_where_nothing_can_be_bounded():
    net = small_net(module__dropout=0.0, max_epochs=2)
    model = CertifiedClassifier(net, eps=0.3, bounds=None, random_state=0)
    pipe = make_pipeline(Normalizer(), model).fit(X, y)
    report = evaluate_robustness(
        pipe, X[:1], y[:1], eps=0.1, bounds=None, random_state=0
    )
    assert report.certified is None
    assert any("'0' (Normalize)" in text for text in report.not_tried)


@pytest.mark.parametrize(
    "model, params, error, message",
    [
        (SVC(), {}, TypeError, "Votes between pairs of classes cannot be bounded"),
        # its scores are those of three pairs, as many as there are classes
        *(
            (
                SVC(kernel=kernel, decision_function_shape="ovo"),
                {},
                TypeError,
                "Votes between pairs",
            )
            for kernel in ("linear", "sigmoid")
        ),
        (KNeighborsClassifier(), {}, TypeError, "no differentiable view"),
        (MLPClassifier((3,), max_iter=5), {"norm": "l2"}, ValueError, "L2 ball"),
        (LogisticRegression(), {"norm": "l1"}, ValueError, "'norm'"),
        (LogisticRegression(), {"eps": -1}, ValueError, "'eps'"),
        (LogisticRegression(), {"bounds": (0, 1)}, ValueError, "outside"),
        (
            RejectingClassifier(LogisticRegression(), DensityDetector()),
            {},
            ValueError,
            "rejects within",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_cannot_be_certified_is_said(model, params, error, message):
    model.fit(X, y)
    with pytest.raises(error, match=message):
        certified_accuracy_score(model, X, y, **{"eps": 0.1, "bounds": None} | params)


def test_a_net_that_answers_by_another_threshold_is_not_certified():
    net = NeuralNetBinaryClassifier(
        OneLogit, max_epochs=5, train_split=None, verbose=0, threshold=0.3
    )
    rows = X.astype(np.float32)
    net.fit(rows, (codes == 0).astype(np.float32))
    labels = net.predict(rows)
    with pytest.raises(TypeError, match=r"threshold=0\.3 cannot be bounded"):
        certified_accuracy_score(net, rows, labels, 0.01, bounds=None)
    net.set_params(threshold=0.5)
    certified = certified_accuracy_score(
        net, rows, net.predict(rows), 0.01, bounds=None
    )
    assert certified > 0.5


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize(
    "around",
    [
        None,
        lambda model: make_pipeline(model),
        lambda model: GridSearchCV(model, {"linear__C": [1.0]}, cv=2),
    ],
)
def test_columns_in_another_order_are_refused(around, behind):
    """A ColumnTransformer finds them by name, its view by position."""
    X, y = load_iris(return_X_y=True, as_frame=True)
    names = list(X.columns)
    scaled = make_column_transformer((StandardScaler(), names))
    steps = [("scaled", scaled), ("linear", LogisticRegression(max_iter=1000))]
    model = Pipeline([*(("same", "passthrough"),) * behind, *steps])
    if around is not None:
        model = around(model)
    model.fit(X, y)
    assert 0 < certified_accuracy_score(model, X, y, 0.3, bounds=None) < 1
    for other in (X[names[::-1]], X.assign(more=1.0)):
        model.predict(other)
        with pytest.raises(ValueError, match="in their order"):
            certified_accuracy_score(model, other, y, 0.3, bounds=None)
        with pytest.raises(ValueError, match="in their order"):
            PGD(0.3, bounds=None).run(model, other, y)
        asked = RandomSearch(0.3, bounds=None, max_queries=5, random_state=0)
        assert asked.run(model, other, y).X_adv.columns.equals(other.columns)


def by_name(X, columns):
    """Return a Pipeline fitted on ``X`` that picks columns by name."""
    scaled = make_column_transformer((StandardScaler(), columns))
    linear = LogisticRegression(max_iter=1000)
    steps = [("same", "passthrough"), ("scaled", scaled), ("linear", linear)]
    return Pipeline(steps).fit(X, load_iris().target)


@pytest.mark.parametrize(
    "around",
    [
        lambda model, other: CalibratedClassifierCV(model, ensemble=False, cv=2),
        lambda model, other: VotingClassifier([("one", model)], voting="soft"),
        lambda model, other: VotingClassifier(
            [("one", FrozenEstimator(other)), ("two", model)], voting="soft"
        ),
        lambda model, other: make_pipeline(
            FeatureUnion([("none", "drop"), ("scaled", model[:-1])]), model[-1]
        ),
        lambda model, other: make_pipeline(
            FeatureUnion([("one", model[:-1]), ("two", FrozenEstimator(other[:-1]))]),
            model[-1],
        ),
    ],
)
def test_columns_in_another_order_within_others_are_refused(around):
    X, y = load_iris(return_X_y=True, as_frame=True)
    names = list(X.columns)
    other = X[names[::-1]]
    model = around(by_name(X, names), by_name(other, names)).fit(X, y)
    with pytest.raises(ValueError, match="in their order"):
        PGD(0.3, bounds=None).run(model, other, y)
    if "Frozen" not in str(model):
        PGD(0.3, bounds=None).run(model, X, y)
    else:  # which sees columns in two orders
        with pytest.raises(ValueError, match="in their order"):
            PGD(0.3, bounds=None).run(model, X, y)


@pytest.mark.filterwarnings("ignore:X has feature names")
def test_columns_of_what_was_never_fitted_count_for_nothing():
    X, y = load_iris(return_X_y=True, as_frame=True)
    stale = LogisticRegression(max_iter=1000).fit(X.rename(columns=str.upper), y)
    model = CalibratedClassifierCV(stale, cv=2).fit(X.to_numpy(), y)
    assert PGD(0.3, bounds=None).run(model, X, y).fooled.any()
    renamed = make_pipeline(StandardScaler().set_output(transform="pandas"), stale)
    assert PGD(0.3, bounds=None).run(renamed.fit(X, y), X, y).fooled.any()


def test_a_frozen_model_in_one_that_was_fitted_on_another_order():
    X, y = load_iris(return_X_y=True, as_frame=True)
    names = list(X.columns)
    other = X[names[::-1]]
    model = ConcealedClassifier(FrozenEstimator(by_name(X, names))).fit(other, y)
    assert model.score(other, y) > 0.9
    with pytest.raises(ValueError, match="in their order"):
        certified_accuracy_score(model, other, y, 0.1, bounds=None)


def test_a_certificate_where_gradients_were_switched_off():
    X, y = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=1000).fit(X, y)
    expected = certified_accuracy_score(model, X, y, 0.1, bounds=None)
    with torch.inference_mode():
        assert certified_accuracy_score(model, X, y, 0.1, bounds=None) == expected
