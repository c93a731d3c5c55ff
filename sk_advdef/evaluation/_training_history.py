"""What a model reached while it was trained, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sk_advdef._torch._models import last_step
from sk_advdef._validation import check_option, invalid
from sk_advdef.evaluation._plotting import axes_for

ACCURACY, LOSS = "_accuracy", "_loss"


class TrainingHistoryDisplay:
    """Accuracies, clean and attacked, and losses over epochs or rounds of training.

    Make one with :meth:`from_estimator`.

    Parameters
    ----------
    history : list of dict
        An entry an epoch or round. Drawn are the keys that end in ``_accuracy`` and, in
        axes of their own, those that end in ``_loss``. Entries with a "model" are
        curves of that model, which begin at 1.
    unit : {"epoch", "round"}, default="epoch"
        What an entry is.

    Attributes
    ----------
    accuracies : dict of str to ndarray
        What is drawn above, by name, behind that of the model where there are several;
        NaN where an entry has none.
    losses : dict of str to ndarray
        What is drawn below.
    lines_ : dict of str to matplotlib Line2D
        Curves, by key.
    axes_ : ndarray of matplotlib Axes
        One for accuracies, and one for losses where there are any.
    figure_ : matplotlib Figure
        Figure with the axes.

    See Also
    --------
    AdversariallyAugmentedClassifier : Adversarial training.
    RobustnessCurveDisplay : Accuracy under attack against eps, after training.

    Notes
    -----
    The accuracies were watched on few rows under a short attack: they tell whether
    training goes well, not how much the model is worth.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sk_advdef import AdversariallyAugmentedClassifier, TrainingHistoryDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> model = AdversariallyAugmentedClassifier(
    ...     LogisticRegression(max_iter=1000), random_state=0
    ... ).fit(X, y)
    >>> display = TrainingHistoryDisplay.from_estimator(model)
    >>> sorted(display.accuracies)
    ['attacked', 'clean']
    """

    def __init__(self, history: list[dict[str, Any]], *, unit: str = "epoch") -> None:
        entries = isinstance(history, (list, tuple)) and all(
            isinstance(row, Mapping) and all(isinstance(name, str) for name in row)
            for row in history
        )
        if not entries:
            raise invalid(self, "history", "a list of dicts, one an epoch", history)
        check_option(self, "unit", unit, ("epoch", "round"))
        self.history = history
        self.unit = unit
        self.accuracies = _series(history, ACCURACY)
        self.losses = _series(history, LOSS)
        if not self.accuracies and not self.losses:
            raise invalid(self, "history", "entries with accuracies or losses", history)

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, ax: Any = None, **kwargs: Any
    ) -> TrainingHistoryDisplay:
        """Draw the training of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            A fitted estimator with ``history_``, alone, frozen or at the end of a
            Pipeline.
        ax : matplotlib Axes, array of Axes or None, default=None
            Where to draw; None makes a new figure.
        **kwargs : dict
            Passed to matplotlib's ``plot``.

        Returns
        -------
        display : TrainingHistoryDisplay
            The curves, drawn.
        """
        last = last_step(estimator)
        check_is_fitted(last)
        if not hasattr(last, "history_"):
            raise TypeError(
                f"{type(last).__name__} keeps no history_ of its training. Pass an "
                "AdversariallyAugmentedClassifier or another that does."
            )
        unit = "epoch" if any("epoch" in row for row in last.history_) else "round"
        return cls(last.history_, unit=unit).plot(ax=ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> TrainingHistoryDisplay:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, array of Axes or None, default=None
            Where to draw; None makes a new figure.
        **kwargs : dict
            Passed to matplotlib's ``plot``.

        Returns
        -------
        display : TrainingHistoryDisplay
            Itself, with the artists as attributes.
        """
        parts = [
            (suffix, series, label)
            for suffix, series, label in (
                (ACCURACY, self.accuracies, "accuracy on watched rows"),
                (LOSS, self.losses, "loss"),
            )
            if series
        ]
        axes = axes_for(self, ax, (len(parts), 1), (6.0, 3.0 * len(parts)))
        self.lines_: dict[str, Any] = {}
        for axis, (suffix, series, label) in zip(axes.ravel(), parts, strict=True):
            for name, values in series.items():
                style = {"marker": "o", "markersize": 3, "label": name, **kwargs}
                at = np.arange(1, len(values) + 1)
                (self.lines_[name + suffix],) = axis.plot(at, values, **style)
            axis.set_ylabel(label)
            axis.grid(alpha=0.3)
            axis.legend(loc="best")
            if suffix == ACCURACY:
                axis.set_ylim(-0.02, 1.02)
        axes.ravel()[-1].set_xlabel(self.unit)
        self.axes_, self.figure_ = axes, axes.ravel()[0].figure
        return self


def _series(history: list[dict[str, Any]], suffix: str) -> dict[str, np.ndarray]:
    models = dict.fromkeys(row.get("model") for row in history)
    found = {}
    for model in models:
        rows = [row for row in history if row.get("model") == model]
        names = {name for row in rows for name in row if name.endswith(suffix)}
        for name in sorted(names):
            called = name.removesuffix(suffix)
            values = [row.get(name, np.nan) for row in rows]
            found[called if len(models) == 1 else f"{model} {called}"] = np.array(
                values, dtype=np.float64
            )
    return found
