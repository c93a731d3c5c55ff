"""Curves and pictures."""

import builtins
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from sk_advdef import (
    DDN,
    FGSM,
    PGD,
    DetectionCurveDisplay,
    DropoutUncertaintyDetector,
    PerturbationDisplay,
    RandomSearch,
    RobustnessCurveDisplay,
    Transfer,
    robust_accuracy_score,
)

RNG = np.random.default_rng(0)
GENUINE, ATTACKED = RNG.normal(1, size=200), RNG.normal(-1, size=80)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def flowers():
    X, y = load_iris(return_X_y=True, as_frame=True)
    return X, y, LogisticRegression(max_iter=1000).fit(X, y)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:60] / 16, y[:60], LogisticRegression(max_iter=500).fit(X / 16, y)


class TestRobustnessCurve:
    @pytest.mark.parametrize(
        "attack",
        [
            FGSM(9.0, bounds=None),
            [FGSM(9.0, bounds=None), PGD(9.0, steps=5, bounds=None, random_state=0)],
            lambda eps: RandomSearch(eps, max_queries=30, bounds=None, random_state=0),
        ],
    )
    def test_from_estimator(self, attack, flowers):
        X, y, model = flowers
        display = RobustnessCurveDisplay.from_estimator(
            model, X, y, epsilons=[0, 0.2, 0.6, 1.5], attack=attack
        )
        assert isinstance(display, RobustnessCurveDisplay)
        assert display.accuracies[0] == model.score(X, y)
        assert (np.diff(display.accuracies) <= 0).all()
        assert display.accuracies[-1] < 0.5 < display.accuracies[1]
        np.testing.assert_array_equal(display.line_.get_xdata(), display.epsilons)
        np.testing.assert_array_equal(display.line_.get_ydata(), display.accuracies)
        low, high = display.interval_
        assert (low <= display.accuracies).all() and (high >= display.accuracies).all()
        assert display.n_samples == 150 and display.band_ is not None
        assert "L_\\infty" in display.ax_.get_xlabel()
        assert display.ax_.get_legend().get_texts()[0].get_text() == (
            "LogisticRegression"
        )

    def test_a_point_is_the_score(self, flowers):
        X, y, model = flowers
        display = RobustnessCurveDisplay.from_estimator(
            model, X, y, epsilons=[0.5], bounds=None, random_state=0
        )
        score = robust_accuracy_score(model, X, y, eps=0.5, bounds=None, random_state=0)
        assert display.accuracies[0] == score

    def test_what_is_said_is_said_once(self, flowers):
        X, y, _ = flowers
        model = KNeighborsClassifier().fit(X, y)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            display = RobustnessCurveDisplay.from_estimator(
                model, X[::5], y[::5], epsilons=[0, 0.2, 0.5], bounds=None
            )
        assert len(caught) == 1 and "no differentiable view" in str(caught[0].message)
        assert display.name == "KNeighborsClassifier"

    def test_other_attacks(self, flowers):
        X, y, model = flowers
        attack = Transfer(FGSM(1.0, bounds=None), surrogate=model)
        display = RobustnessCurveDisplay.from_estimator(
            model, X, y, epsilons=[0.1, 1], attack=attack, name="mine"
        )
        assert display.accuracies[1] < display.accuracies[0] and display.name == "mine"
        with pytest.raises(ValueError, match="no eps to set"):
            RobustnessCurveDisplay.from_estimator(
                model, X, y, epsilons=[0.1], attack=DDN(bounds=None)
            )

    def test_from_accuracies(self):
        display = RobustnessCurveDisplay.from_accuracies(
            [0, 1], [0.9, 0.1], name="a", norm="l2", color="red"
        )
        assert display.band_ is None and display.interval_ is None
        assert display.line_.get_color() == "red"
        assert "L_2" in display.ax_.get_xlabel()
        other = RobustnessCurveDisplay(
            epsilons=[0, 1], accuracies=[1, 0], n_samples=10, norm="linf"
        )
        assert other.plot(display.ax_, name="b") is other
        assert other.figure_ is display.figure_ and len(display.ax_.lines) == 2
        low, high = other.interval_
        assert 0.6 < low[0] < high[0] == 1 and low[1] == 0 < high[1] < 0.4

    @pytest.mark.parametrize(
        "params",
        [
            {"epsilons": [1, 0]}, {"epsilons": [-1, 0]}, {"epsilons": "ab"},
            {"epsilons": 0.1}, {"accuracies": [0.1, 2]}, {"accuracies": [0.1]},
            {"n_samples": 0}, {"accuracies": 0.5}, {"accuracies": ["a", "b"]},
            {"name": 3}, {"norm": np.ones(2)},
        ],
    )  # fmt: skip
    def test_bad_parameter(self, params):
        given = {"epsilons": [0, 1], "accuracies": [1, 0]} | params
        with pytest.raises(ValueError):
            RobustnessCurveDisplay(**given)


class TestPerturbation:
    def test_features(self, flowers):
        X, y, model = flowers
        display = PerturbationDisplay.from_estimator(
            model, X, y, attack=PGD(0.5, bounds=None, random_state=0), n_features=3
        )
        assert len(display.ax_.get_yticks()) == 3
        names = [t.get_text() for t in display.ax_.get_yticklabels()]
        assert set(names) <= set(X.columns)
        assert 0 < np.abs(display.delta).max() <= 0.5 + 1e-9
        # a bar of what rose and one of what fell, together as long as the change
        sizes = sorted(np.abs(display.delta).mean(axis=0))[::-1][:3]
        bars = [p.get_width() for p in display.ax_.patches]
        np.testing.assert_allclose(np.add(bars[:3], bars[3:]), sizes)

    def test_nothing_fell(self, flowers):
        X, y, model = flowers
        attack = PGD(0.0, bounds=None, random_state=0)
        display = PerturbationDisplay.from_estimator(model, X, y, attack=attack)
        assert (display.delta == 0).all() and len(display.delta) == len(X)

    def test_images_in_rows(self, digits):
        X, y, model = digits
        attack = FGSM(0.2)
        display = PerturbationDisplay.from_estimator(
            model, X, y, attack=attack, image_shape=(8, 8), n_rows=2
        )
        assert display.ax_.shape == (2, 3)
        shown = display.ax_[0, 0].images[0].get_array()
        assert shown.shape == (8, 8)
        assert display.ax_[0, 0].get_title().startswith("clean: ")
        assert display.ax_[0, 2].get_title() == "change, up to 0.2"
        part = PerturbationDisplay.from_arrays(X, X, image_shape="square", n_rows=1)
        assert part.ax_[0, 2].get_title() == "no change"

    def test_stacked_images_with_channels(self):
        X = RNG.integers(0, 256, (3, 5, 4, 3)).astype(np.uint8)
        X_adv = np.clip(X.astype(int) + 9, 0, 255).astype(np.uint8)
        display = PerturbationDisplay.from_arrays(X, X_adv)
        assert display.ax_.shape == (3, 3) and display.delta.min() >= 0
        assert display.ax_[0, 0].images[0].get_array().shape == (5, 4, 3)
        _, ax = plt.subplots()
        assert display.plot(ax, n_rows=2).ax_.shape == (2, 3)
        assert display.figure_ is ax.figure
        _, given = plt.subplots(1, 3)
        assert (display.plot(given, n_rows=1).ax_[0] == given).all()
        with pytest.raises(ValueError, match=r"draws in 3 axes\. Got 2"):
            display.plot(given[:2], n_rows=1)

    def test_bad_input(self):
        with pytest.raises(ValueError, match="the same rows before and after"):
            PerturbationDisplay(X=np.zeros((2, 3)), X_adv=np.zeros((2, 4)))
        for name in ("X", "X_adv"):
            given = {"X": np.zeros((2, 3)), "X_adv": np.zeros((2, 3)), name: "ham"}
            with pytest.raises(ValueError, match=f"'{name}' parameter of Pert"):
                PerturbationDisplay(**given)
        for name in ("labels", "labels_adv"):
            for labels in (3, ["ham"]):
                given = {"X": np.zeros((2, 3)), "X_adv": np.zeros((2, 3))}
                with pytest.raises(ValueError, match=f"'{name}' parameter of Pert"):
                    PerturbationDisplay(**given, **{name: labels})
        with pytest.raises(ValueError, match="at least one row"):
            PerturbationDisplay(X=np.zeros(3), X_adv=np.zeros(3))
        with pytest.raises(ValueError, match="n_rows"):
            PerturbationDisplay(X=np.zeros((2, 3)), X_adv=np.zeros((2, 3))).plot(
                n_rows=0
            )

    def test_names_given(self):
        X = pd.DataFrame({"a": [1.0, 2], "b": [3, 4]})
        display = PerturbationDisplay.from_arrays(
            X, X.add([1, -2]), feature_names=["first", "second"]
        )
        names = [t.get_text() for t in display.ax_.get_yticklabels()]
        assert names == ["second", "first"]


class TestDetectionCurve:
    def test_from_scores(self):
        display = DetectionCurveDisplay.from_scores(
            GENUINE, ATTACKED, name="d", color="green"
        )
        assert display.roc_auc_ == pytest.approx(
            (GENUINE[:, None] > ATTACKED).mean(), abs=1e-9
        )
        assert len(display.ax_) == 2 and display.line_.get_color() == "green"
        assert (
            display.ax_[0].get_legend().get_texts()[0].get_text().startswith("d (AUC")
        )
        marked = display.ax_[0].lines[1]
        assert marked.get_xdata()[0] == (GENUINE < 0).mean()
        assert marked.get_ydata()[0] == (ATTACKED < 0).mean()
        heights = [p.get_height() for p in display.ax_[1].patches]
        assert sum(heights) == pytest.approx(2)

    def test_from_estimator(self):
        X, y = load_digits(return_X_y=True)
        detector = DropoutUncertaintyDetector(random_state=0, n_passes=5)
        detector.fit(X[:500], y[:500])
        X_adv = X[500:560] + RNG.normal(0, 4, (60, 64))
        display = DetectionCurveDisplay.from_estimator(detector, X[500:700], X_adv)
        assert display.name == "DropoutUncertaintyDetector" and display.threshold == 0
        np.testing.assert_array_equal(
            display.attacked, detector.decision_function(X_adv)
        )

    @pytest.mark.parametrize("kind", ["roc", "histogram"])
    def test_one_of_both(self, kind):
        display = DetectionCurveDisplay.from_scores(
            GENUINE, ATTACKED, kind=kind, threshold=None
        )
        assert isinstance(display.ax_, plt.Axes)
        assert (display.line_ is None) == (kind == "histogram")
        assert display.plot(display.ax_, kind=kind, name="again") is display

    @pytest.mark.parametrize("score", [np.inf, 2.0])
    def test_scores_without_spread(self, score):
        display = DetectionCurveDisplay.from_scores(
            np.full(9, score), np.full(5, score)
        )
        assert display.roc_auc_ == 0.5

    @pytest.mark.parametrize("scale", [1e200, 1e308])
    def test_scores_as_far_as_floats_go(self, scale):
        display = DetectionCurveDisplay.from_scores([scale, scale / 2], [-scale])
        assert display.roc_auc_ == 1
        DetectionCurveDisplay.from_scores([scale, scale], [scale])

    def test_bad_input(self):
        for bad in ({"threshold": "0"}, {"threshold": np.nan}, {"name": 3}):
            with pytest.raises(ValueError, match=f"'{next(iter(bad))}' parameter"):
                DetectionCurveDisplay(genuine=GENUINE, attacked=ATTACKED, **bad)
        for scores in ([], [np.nan], [[1.0]], "ham", None):
            with pytest.raises(ValueError, match="genuine"):
                DetectionCurveDisplay(genuine=scores, attacked=ATTACKED)
        with pytest.raises(ValueError, match="kind"):
            DetectionCurveDisplay.from_scores(GENUINE, ATTACKED, kind="pie")


@pytest.mark.parametrize(
    "display",
    [
        RobustnessCurveDisplay(epsilons=[0, 1], accuracies=[1, 0]),
        PerturbationDisplay(X=np.zeros((2, 3)), X_adv=np.ones((2, 3))),
        DetectionCurveDisplay(genuine=GENUINE, attacked=ATTACKED),
    ],
    ids=lambda d: type(d).__name__,
)
def test_without_matplotlib(display, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **params):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **params)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"sk_advdef\[plot\]"):
        display.plot()


def test_names_that_would_be_formulas():
    """A dollar in a name of a column or a label is no mathematics."""
    delta = np.eye(3)
    shown = PerturbationDisplay(
        X=np.zeros((3, 3)), X_adv=delta, feature_names=["a$\\foo$", "$", "b"]
    ).plot()
    shown.figure_.canvas.draw()
    told = {label.get_text() for label in shown.ax_.get_yticklabels()}
    assert told == {r"a\$\foo\$", r"\$", "b"}
