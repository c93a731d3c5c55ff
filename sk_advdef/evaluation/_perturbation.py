"""What an attack changed, drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import _safe_indexing

from sk_advdef._images import resolve_layout
from sk_advdef._torch._models import predict, torch_generators_kept
from sk_advdef._validation import check_number, invalid
from sk_advdef.evaluation._plotting import axes_for


class PerturbationDisplay:
    """What was changed: images side by side, or the most changed features.

    Make one with :meth:`from_estimator` or :meth:`from_arrays`.

    Parameters
    ----------
    X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
        Rows as they were.
    X_adv : array-like or DataFrame of the shape of ``X``
        Rows as an attack made them.
    image_shape : "square", tuple of int or None, default=None
        Shape of the image in a row; None takes rows as features. Stacked images are
        drawn as they are.
    channel_axis : int, default=-1
        Axis of the channels within one image of three axes.
    labels : array-like of shape (n_samples,) or None, default=None
        What the model says of the rows as they were, for titles.
    labels_adv : array-like of shape (n_samples,) or None, default=None
        What it says of the changed rows.
    feature_names : sequence of str or None, default=None
        Names of the features; None takes those of a DataFrame, else numbers.

    Attributes
    ----------
    delta : ndarray of the shape of ``X``
        The change, float64.
    ax_ : matplotlib Axes, or ndarray of shape (n_shown, 3)
        Where it was drawn.
    figure_ : matplotlib Figure
        Figure with the axes.

    See Also
    --------
    AttackResult : What an attack returns.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sk_advdef import PGD, PerturbationDisplay
    >>> X, y = load_iris(return_X_y=True, as_frame=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X, y)
    >>> display = PerturbationDisplay.from_estimator(
    ...     model, X, y, attack=PGD(eps=0.5, bounds=None, random_state=0)
    ... )
    >>> display.ax_.get_xlabel()
    'mean absolute change'
    """

    def __init__(
        self,
        *,
        X: Any,
        X_adv: Any,
        image_shape: Any = None,
        channel_axis: int = -1,
        labels: Any = None,
        labels_adv: Any = None,
        feature_names: Any = None,
    ) -> None:
        if feature_names is None and hasattr(X, "columns"):
            feature_names = [str(name) for name in X.columns]
        self.X, self.X_adv = _numbers("X", X), _numbers("X_adv", X_adv)
        if self.X.shape != self.X_adv.shape:
            raise ValueError(
                f"X has shape {self.X.shape} and X_adv has {self.X_adv.shape}: pass "
                "the same rows before and after."
            )
        if self.X.ndim < 2 or not len(self.X):
            raise ValueError(
                f"X must be at least one row of features or one stacked image. Got "
                f"shape {self.X.shape}."
            )
        self.delta = self.X_adv - self.X
        self.image_shape = image_shape
        self.channel_axis = channel_axis
        self.labels = self._one_a_row("labels", labels)
        self.labels_adv = self._one_a_row("labels_adv", labels_adv)
        self.feature_names = feature_names
        self._layout = None
        if self.X.ndim > 2 or image_shape is not None:
            layout = resolve_layout(self, self.X.shape, image_shape, channel_axis)
            self._layout = layout if len(layout.shape) > 1 else None

    def _one_a_row(self, name: str, given: Any) -> np.ndarray | None:
        if given is None:
            return None
        values = np.asarray(given)
        if values.shape[:1] != (len(self.X),):
            raise invalid(
                self, name, f"{len(self.X)} of them, one a row, or None", given
            )
        return values

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        attack: Any,
        n_rows: int = 5,
        n_features: int = 10,
        image_shape: Any = None,
        channel_axis: int = -1,
        feature_names: Any = None,
        ax: Any = None,
    ) -> PerturbationDisplay:
        """Attack rows and draw those that the attack took.

        Parameters
        ----------
        estimator : estimator
            A fitted classifier.
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows inside the attack's ``bounds``.
        y : array-like of shape (n_samples,)
            True labels.
        attack : attack
            What to run.
        n_rows : int, default=5
            Most images to draw, at least 1.
        n_features : int, default=10
            Most features to draw, at least 1.
        image_shape : "square", tuple of int or None, default=None
            Shape of the image in a row; None takes rows as features.
        channel_axis : int, default=-1
            Axis of the channels within one image of three axes.
        feature_names : sequence of str or None, default=None
            Names of the features; None takes those of a DataFrame, else numbers.
        ax : matplotlib Axes, array of Axes, or None, default=None
            Where to draw; None makes a new figure.

        Returns
        -------
        display : PerturbationDisplay
            The changes, drawn; of all rows where the attack took none.
        """
        result = attack.run(estimator, X, y)
        taken = np.flatnonzero(result.fooled & (result.distortion > 0))
        if not len(taken):
            taken = np.arange(len(result.fooled))
        before, after = (_safe_indexing(part, taken) for part in (X, result.X_adv))
        with torch_generators_kept():
            answers = [predict(estimator, part) for part in (before, after)]
        display = cls(
            X=before,
            X_adv=after,
            image_shape=image_shape,
            channel_axis=channel_axis,
            labels=answers[0],
            labels_adv=answers[1],
            feature_names=feature_names,
        )
        return display.plot(ax=ax, n_rows=n_rows, n_features=n_features)

    @classmethod
    def from_arrays(
        cls,
        X: Any,
        X_adv: Any,
        *,
        labels: Any = None,
        labels_adv: Any = None,
        n_rows: int = 5,
        n_features: int = 10,
        image_shape: Any = None,
        channel_axis: int = -1,
        feature_names: Any = None,
        ax: Any = None,
    ) -> PerturbationDisplay:
        """Draw changes that were made before.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows as they were.
        X_adv : array-like or DataFrame of the shape of ``X``
            Rows as an attack made them.
        labels : array-like of shape (n_samples,) or None, default=None
            What the model says of the rows as they were, for titles.
        labels_adv : array-like of shape (n_samples,) or None, default=None
            What it says of the changed rows.
        n_rows : int, default=5
            Most images to draw, at least 1.
        n_features : int, default=10
            Most features to draw, at least 1.
        image_shape : "square", tuple of int or None, default=None
            Shape of the image in a row; None takes rows as features.
        channel_axis : int, default=-1
            Axis of the channels within one image of three axes.
        feature_names : sequence of str or None, default=None
            Names of the features; None takes those of a DataFrame, else numbers.
        ax : matplotlib Axes, array of Axes, or None, default=None
            Where to draw; None makes a new figure.

        Returns
        -------
        display : PerturbationDisplay
            The changes, drawn.
        """
        display = cls(
            X=X,
            X_adv=X_adv,
            image_shape=image_shape,
            channel_axis=channel_axis,
            labels=labels,
            labels_adv=labels_adv,
            feature_names=feature_names,
        )
        return display.plot(ax=ax, n_rows=n_rows, n_features=n_features)

    def plot(
        self, ax: Any = None, *, n_rows: int = 5, n_features: int = 10
    ) -> PerturbationDisplay:
        """Draw the changes.

        Parameters
        ----------
        ax : matplotlib Axes, array of Axes, or None, default=None
            Where to draw; for images, a single one is divided, or an array of three
            axes an image. None makes a new figure.
        n_rows : int, default=5
            Most images to draw, at least 1.
        n_features : int, default=10
            Most features to draw, at least 1.

        Returns
        -------
        display : PerturbationDisplay
            Itself, with the axes as attributes.
        """
        check_number(self, "n_rows", n_rows, integer=True, low=1)
        check_number(self, "n_features", n_features, integer=True, low=1)
        if self._layout is None:
            self._plot_features(ax, n_features)
        else:
            self._plot_images(ax, min(n_rows, len(self.X)))
        return self

    def _plot_images(self, ax: Any, count: int) -> None:
        assert self._layout is not None
        axes = axes_for(self, ax, (count, 3), (5.4, 1.8 * count + 0.3))
        before, after, delta = (
            self._layout.unfold(part[:count])
            for part in (self.X, self.X_adv, self.delta)
        )
        low, high = (
            function([before.min(), before.max(), after.min(), after.max()])
            for function in (min, max)
        )
        span = max(high - low, np.finfo(np.float64).tiny)
        for i, row in enumerate(axes):
            reach = max(np.abs(delta[i]).max(), np.finfo(np.float64).tiny)
            _show(row[0], (before[i] - low) / span, 0, 1, "gray")
            _show(row[1], (after[i] - low) / span, 0, 1, "gray")
            if delta[i].shape[-1] == 1:
                _show(row[2], delta[i], -reach, reach, "RdBu_r")
            else:
                _show(row[2], (delta[i] / reach + 1) / 2, 0, 1, None)
            titles = (
                _titled("clean", self.labels, i),
                _titled("changed", self.labels_adv, i),
                f"change, up to {reach:.3g}" if delta[i].any() else "no change",
            )
            for place, title in zip(row, titles, strict=True):
                place.set_title(title, fontsize="small")
        self.ax_, self.figure_ = axes, axes[0, 0].figure

    def _plot_features(self, ax: Any, count: int) -> None:
        delta = self.delta.reshape(len(self.delta), -1)
        size, share = np.abs(delta).mean(axis=0), (delta != 0).mean(axis=0)
        top = np.argsort(-size, kind="stable")[:count]
        place = axes_for(self, ax, (1, 1), (6.0, 0.35 * len(top) + 1.2))[0, 0]
        rise = np.divide(np.maximum(delta, 0).mean(axis=0), 1, out=np.zeros(len(size)))
        at = np.arange(len(top))[::-1]
        place.barh(at, rise[top], color="tab:red", label="raised")
        fall = size - rise
        place.barh(at, fall[top], left=rise[top], color="tab:blue", label="lowered")
        for y, i in zip(at, top, strict=True):
            place.annotate(
                f"{share[i]:.0%} of rows",
                (size[i], y),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize="x-small",
            )
        names = self.feature_names
        told = [str(i) if names is None else _untouched(names[i]) for i in top]
        place.set_yticks(at, told)
        place.set_xlabel("mean absolute change")
        place.margins(x=0.22)
        place.legend(loc="lower right", fontsize="small")
        self.ax_, self.figure_ = place, place.figure


def _show(ax: Any, image: np.ndarray, low: float, high: float, colors: Any) -> None:
    if image.shape[-1] == 3:
        ax.imshow(np.clip(image, 0, 1))
    else:
        ax.imshow(image.mean(axis=-1), cmap=colors or "gray", vmin=low, vmax=high)
    ax.set_xticks([])
    ax.set_yticks([])


def _titled(word: str, labels: Any, at: int) -> str:
    return word if labels is None else f"{word}: {_untouched(labels[at])}"


def _untouched(name: Any) -> str:
    """Return a name that matplotlib takes for no formula."""
    return str(name).replace("$", r"\$")


def _numbers(name: str, given: Any) -> np.ndarray:
    values = given.to_numpy() if hasattr(given, "to_numpy") else given
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        allowed = "rows of numbers or stacked images"
        raise invalid("PerturbationDisplay", name, allowed, given) from error
