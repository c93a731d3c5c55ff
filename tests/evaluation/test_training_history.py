"""The picture of a training."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_advdef import (
    PGD,
    AdversariallyAugmentedClassifier,
    DistilledClassifier,
    TrainingHistoryDisplay,
)
from tests._instances import make_rows, small_net

X, y = make_rows()


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def make(estimator):
    attack = PGD(0.1, steps=2, bounds=None)
    return AdversariallyAugmentedClassifier(estimator, attack=attack, random_state=0)


def test_a_net():
    model = make(small_net(max_epochs=3)).fit(X, y)
    display = TrainingHistoryDisplay.from_estimator(
        make_pipeline(FrozenEstimator(model)), linestyle="--"
    )
    assert set(display.accuracies) == {"attacked", "clean"}
    assert "train" in display.losses and display.axes_.shape == (2, 1)
    line = display.lines_["attacked_accuracy"]
    np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
    wanted = [row["attacked_accuracy"] for row in model.history_]
    np.testing.assert_array_equal(line.get_ydata(), wanted)
    assert line.get_linestyle() == "--"
    assert display.axes_[1, 0].get_xlabel() == "epoch"


def test_rounds_into_given_axes():
    model = make(make_pipeline(StandardScaler(), LogisticRegression())).fit(X, y)
    figure, axis = plt.subplots()
    display = TrainingHistoryDisplay.from_estimator(model, ax=axis)
    assert display.figure_ is figure and not display.losses
    assert display.axes_[0, 0].get_xlabel() == "round"


def test_entries_without_a_value_and_errors():
    display = TrainingHistoryDisplay([{"a_loss": 1.0}, {"b_accuracy": 0.5}]).plot()
    np.testing.assert_array_equal(display.losses["a"], [1, np.nan])
    np.testing.assert_array_equal(display.accuracies["b"], [np.nan, 0.5])
    for bad in (3, [3], [{1: 2.0}], "ham", {"a_loss": 1.0}):
        with pytest.raises(ValueError, match=r"'history' .* a list of dicts"):
            TrainingHistoryDisplay(bad)
    with pytest.raises(ValueError, match="'unit' parameter of Training"):
        TrainingHistoryDisplay([{"a_loss": 1.0}], unit=3)
    with pytest.raises(ValueError, match="entries with accuracies or losses"):
        TrainingHistoryDisplay([{"dur": 1.0}])
    with pytest.raises(TypeError, match="LogisticRegression keeps no history_"):
        TrainingHistoryDisplay.from_estimator(LogisticRegression().fit(X, y))


def test_a_model_has_a_curve_of_its_own():
    model = DistilledClassifier(small_net(max_epochs=3), random_state=0).fit(X, y)
    display = TrainingHistoryDisplay.from_estimator(model)
    assert list(display.losses) == ["teacher train", "student train"]
    for name in display.losses:
        line = display.lines_[f"{name}_loss"]
        np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
    # of a teacher that has no epochs, and a student that has
    mixed = DistilledClassifier(
        small_net(max_epochs=2), teacher=LogisticRegression(), random_state=0
    ).fit(X, y)
    display = TrainingHistoryDisplay.from_estimator(mixed)
    assert len(display.accuracies["teacher train"]) == 1
    assert np.isfinite(display.losses["student train"]).all()
    assert display.axes_[-1, 0].get_xlabel() == "epoch"
