"""How well a detector tells genuine from attacked rows, drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

from sk_advdef._torch._models import torch_generators_kept
from sk_advdef._validation import FLOATS, check_option, invalid
from sk_advdef.evaluation._plotting import axes_for, check_text

KINDS = ("both", "roc", "histogram")


class DetectionCurveDisplay:
    """ROC curve and histograms of a detector's scores.

    Make one with :meth:`from_estimator` or :meth:`from_scores`.

    Parameters
    ----------
    genuine : array-like of shape (n_genuine,)
        Scores of genuine rows, higher for more genuine.
    attacked : array-like of shape (n_attacked,)
        Scores of attacked rows.
    threshold : float or None, default=0.0
        Scores below are flagged; 0 is right for ``decision_function``. None marks none.
    name : str or None, default=None
        What the legend calls the detector.

    Attributes
    ----------
    false_positive_rate_ : ndarray
        Share of genuine rows flagged, for each threshold.
    true_positive_rate_ : ndarray
        Share of attacked rows flagged, for each threshold.
    roc_auc_ : float
        Area under the curve.
    line_ : matplotlib Line2D or None
        The ROC curve.
    ax_ : matplotlib Axes, or ndarray of two
        Where it was drawn.
    figure_ : matplotlib Figure
        Figure with the axes.

    See Also
    --------
    make_detection_scorer : The same as a figure, for searches.

    Notes
    -----
    The curve says how the detector does on the attacked rows given. If these were made
    without knowing of the detector, it says nothing of an attacker who does: put
    :func:`rejection_robust_error` beside it.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_advdef import DetectionCurveDisplay
    >>> rng = np.random.default_rng(0)
    >>> display = DetectionCurveDisplay.from_scores(
    ...     rng.normal(1, size=200), rng.normal(-1, size=100), name="some detector"
    ... )
    >>> bool(display.roc_auc_ > 0.8)
    True
    """

    def __init__(
        self,
        *,
        genuine: Any,
        attacked: Any,
        threshold: float | None = 0.0,
        name: str | None = None,
    ) -> None:
        self.genuine = _scores("genuine", genuine)
        self.attacked = _scores("attacked", attacked)
        # detectors that flag nothing have an infinite one
        if threshold is not None and not (
            isinstance(threshold, FLOATS) and threshold == threshold
        ):
            raise invalid(self, "threshold", "a float or None", threshold)
        check_text(self, name=name)
        self.threshold = threshold
        self.name = name
        truth = np.r_[np.zeros(len(self.genuine)), np.ones(len(self.attacked))]
        # ranks stand in for infinite scores, which detectors without a threshold give
        ranks = np.unique(
            -np.concatenate([self.genuine, self.attacked]), return_inverse=True
        )[1]
        self.false_positive_rate_, self.true_positive_rate_, _ = roc_curve(truth, ranks)
        self.roc_auc_ = float(roc_auc_score(truth, ranks))

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        X_adv: Any,
        *,
        name: str | None = None,
        kind: str = "both",
        ax: Any = None,
        **kwargs: Any,
    ) -> DetectionCurveDisplay:
        """Score rows by a detector and draw.

        Parameters
        ----------
        estimator : detector
            A fitted detector.
        X : array-like or DataFrame of shape (n_genuine, n_features), or stacked images
            Genuine rows that the detector has not seen.
        X_adv : array-like of shape (n_attacked, n_features), or stacked images
            Attacked rows; only those that fool the model are worth detecting.
        name : str or None, default=None
            What the legend calls the detector; None is its class.
        kind : {"both", "roc", "histogram"}, default="both"
            What to draw.
        ax : matplotlib Axes, array of two Axes, or None, default=None
            Where to draw; a single one is divided for two drawings. None makes a new
            figure.
        **kwargs : dict
            Passed to matplotlib's ``plot`` of the ROC curve.

        Returns
        -------
        display : DetectionCurveDisplay
            The curve, drawn.
        """
        with torch_generators_kept():
            genuine, attacked = (
                estimator.decision_function(part) for part in (X, X_adv)
            )
        display = cls(
            genuine=genuine,
            attacked=attacked,
            name=type(estimator).__name__ if name is None else name,
        )
        return display.plot(ax=ax, kind=kind, **kwargs)

    @classmethod
    def from_scores(
        cls,
        genuine: Any,
        attacked: Any,
        *,
        threshold: float | None = 0.0,
        name: str | None = None,
        kind: str = "both",
        ax: Any = None,
        **kwargs: Any,
    ) -> DetectionCurveDisplay:
        """Draw scores that were computed before.

        Parameters
        ----------
        genuine : array-like of shape (n_genuine,)
            Scores of genuine rows, higher for more genuine.
        attacked : array-like of shape (n_attacked,)
            Scores of attacked rows.
        threshold : float or None, default=0.0
            Scores below are flagged; None marks none.
        name : str or None, default=None
            What the legend calls the detector.
        kind : {"both", "roc", "histogram"}, default="both"
            What to draw.
        ax : matplotlib Axes, array of two Axes, or None, default=None
            Where to draw; a single one is divided for two drawings. None makes a new
            figure.
        **kwargs : dict
            Passed to matplotlib's ``plot`` of the ROC curve.

        Returns
        -------
        display : DetectionCurveDisplay
            The curve, drawn.
        """
        display = cls(
            genuine=genuine, attacked=attacked, threshold=threshold, name=name
        )
        return display.plot(ax=ax, kind=kind, **kwargs)

    def plot(
        self,
        ax: Any = None,
        *,
        kind: str = "both",
        name: str | None = None,
        **kwargs: Any,
    ) -> DetectionCurveDisplay:
        """Draw the ROC curve and the histograms.

        Parameters
        ----------
        ax : matplotlib Axes, array of two Axes, or None, default=None
            Where to draw; a single one is divided for two drawings. None makes a new
            figure.
        kind : {"both", "roc", "histogram"}, default="both"
            What to draw.
        name : str or None, default=None
            What the legend calls the detector; None is the display's own name.
        **kwargs : dict
            Passed to matplotlib's ``plot`` of the ROC curve.

        Returns
        -------
        display : DetectionCurveDisplay
            Itself, with the artists as attributes.
        """
        check_option(self, "kind", kind, KINDS)
        count = 2 if kind == "both" else 1
        axes = axes_for(self, ax, (1, count), (4.6 * count, 4.0))[0]
        self.line_: Any = None
        if kind != "histogram":
            self._plot_roc(axes[0], self.name if name is None else name, kwargs)
        if kind != "roc":
            self._plot_histogram(axes[-1])
        self.ax_ = axes if count == 2 else axes[0]
        self.figure_ = axes[0].figure
        return self

    def _plot_roc(self, ax: Any, name: str | None, style: dict[str, Any]) -> None:
        area = f"AUC = {self.roc_auc_:.3f}"
        label = area if name is None else f"{name} ({area})"
        (self.line_,) = ax.plot(
            self.false_positive_rate_,
            self.true_positive_rate_,
            **{"label": label, **style},
        )
        if self.threshold is not None:
            ax.plot(
                (self.genuine < self.threshold).mean(),
                (self.attacked < self.threshold).mean(),
                marker="o",
                color=self.line_.get_color(),
            )
        ax.plot([0, 1], [0, 1], color="gray", linestyle=":", linewidth=1)
        ax.set_xlabel("genuine rows flagged")
        ax.set_ylabel("attacked rows flagged")
        ax.set_xlim(-0.01, 1.01)
        ax.set_ylim(-0.01, 1.01)
        ax.set_aspect("equal")
        ax.legend(loc="lower right", fontsize="small")

    def _plot_histogram(self, ax: Any) -> None:
        parts = (part[np.isfinite(part)] for part in (self.genuine, self.attacked))
        # further out, the width of a bar would overflow
        both = [np.clip(part, -1e100, 1e100) for part in parts]
        finite = np.concatenate(both)
        # a few extreme scores must not squeeze all others into one bar
        ends = np.quantile(finite, [0.005, 0.995]) if len(finite) else (0.0, 1.0)
        if ends[0] == ends[1]:
            room = max(0.5, 1e-6 * abs(ends[0]))
            ends = ends[0] - room, ends[1] + room
        bins = np.linspace(ends[0], ends[1], 31)
        names, colors = ("genuine", "attacked"), ("tab:blue", "tab:red")
        for part, label, color in zip(both, names, colors, strict=True):
            kept = np.clip(part, bins[0], bins[-1])
            weights = np.full(len(kept), 1 / max(len(kept), 1))
            ax.hist(kept, bins, weights=weights, alpha=0.5, label=label, color=color)
        if self.threshold is not None:
            ax.axvline(self.threshold, color="black", linestyle="--", label="threshold")
        ax.set_xlabel("score (higher is more genuine)")
        ax.set_ylabel("share of rows")
        ax.legend(loc="best", fontsize="small")


def _scores(name: str, given: Any) -> np.ndarray:
    try:
        scores = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        scores = np.empty(0)
    if scores.ndim != 1 or not len(scores) or np.isnan(scores).any():
        raise invalid(
            "DetectionCurveDisplay",
            name,
            "a one-dimensional array of at least one score, without NaN",
            given,
        )
    return scores
