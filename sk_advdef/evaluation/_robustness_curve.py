"""Accuracy under attack against the size of the change."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import _safe_indexing, check_consistent_length, column_or_1d

from sk_advdef._torch._models import predict, torch_generators_kept
from sk_advdef._validation import as_floats, check_number, invalid
from sk_advdef.attacks._base import Attack
from sk_advdef.evaluation._intervals import wilson
from sk_advdef.evaluation._plotting import axes_for, check_text
from sk_advdef.evaluation._scores import as_attacks, default_attacks, held_rows


class RobustnessCurveDisplay:
    """Accuracy under attack against eps.

    Make one with :meth:`from_estimator` or :meth:`from_accuracies`. Draw several into
    the same axes to compare models.

    Parameters
    ----------
    epsilons : ndarray of shape (n_epsilons,)
        Radii, rising.
    accuracies : ndarray of shape (n_epsilons,)
        Share of rows that no attack took, for each radius.
    n_samples : int or None, default=None
        Number of rows, for the band of Wilson's 95 % interval. None draws none.
    name : str or None, default=None
        What the legend calls the curve.
    norm : str or None, default=None
        Norm of the radii, for the label of the axis.

    Attributes
    ----------
    interval_ : tuple of two ndarrays of shape (n_epsilons,), or None
        Ends of the interval.
    line_ : matplotlib Line2D
        The curve.
    band_ : matplotlib artist or None
        The interval.
    ax_ : matplotlib Axes
        Axes with the curve.
    figure_ : matplotlib Figure
        Figure with the axes.

    See Also
    --------
    robust_accuracy_score : A single point of the curve.

    Notes
    -----
    Every point is an upper bound: a stronger attack can only lower it. A curve that
    does not fall to what guessing reaches as eps grows tells of an attack that fails.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sk_advdef import RobustnessCurveDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X, y)
    >>> display = RobustnessCurveDisplay.from_estimator(
    ...     model, X[::3], y[::3], epsilons=[0, 0.5, 2], bounds=None, random_state=0
    ... )
    >>> bool(display.accuracies[-1] < display.accuracies[0])
    True
    """

    def __init__(
        self,
        *,
        epsilons: Any,
        accuracies: Any,
        n_samples: int | None = None,
        name: str | None = None,
        norm: str | None = None,
    ) -> None:
        self.epsilons = _radii(epsilons)
        try:
            shares = np.asarray(accuracies, dtype=np.float64)
            fits = shares.shape == self.epsilons.shape
            fits = fits and bool(((shares >= 0) & (shares <= 1)).all())
        except (TypeError, ValueError):
            fits = False
        if not fits:
            allowed = "shares in [0, 1], one for each of epsilons"
            raise invalid(self, "accuracies", allowed, accuracies)
        self.accuracies = shares
        check_text(self, name=name, norm=norm)
        self.n_samples = n_samples
        self.name = name
        self.norm = norm
        self.interval_: Any = None
        if n_samples is not None:
            check_number(self, "n_samples", n_samples, integer=True, low=1)
            ends = [wilson(share, n_samples) for share in self.accuracies]
            self.interval_ = tuple(np.transpose(ends))

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        epsilons: Any,
        attack: Any = None,
        bounds: Any = (0.0, 1.0),
        random_state: Any = None,
        name: str | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> RobustnessCurveDisplay:
        """Attack an estimator at each radius and draw the curve.

        Parameters
        ----------
        estimator : estimator
            A fitted classifier.
        X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
            Rows inside ``bounds``.
        y : array-like of shape (n_samples,)
            True labels.
        epsilons : array-like of shape (n_epsilons,)
            Radii, each in [0, inf), in units of ``X``. A row that is taken at one is
            taken at all larger ones. 0 is the accuracy without attack.
        attack : attack, list of attacks, callable or None, default=None
            What to run: attacks whose ``eps`` is set to each radius in turn, or a
            function from a radius to one of these. None runs the default attacks of
            :func:`robust_accuracy_score`.
        bounds : tuple (low, high) or None, default=(0.0, 1.0)
            Box for the default attacks.
        random_state : int, RandomState instance or None, default=None
            Seeds the default attacks.
        name : str or None, default=None
            What the legend calls the curve; None is the estimator's class.
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.
        **kwargs : dict
            Passed to matplotlib's ``plot``.

        Returns
        -------
        display : RobustnessCurveDisplay
            The curve, drawn.
        """
        radii = _radii(epsilons)
        make = _maker(estimator, attack, bounds, random_state)
        y = column_or_1d(y)
        check_consistent_length(X, y)
        with torch_generators_kept():
            held = predict(estimator, X) == y
        accuracies: list[float] = []
        norms: set[str] = set()
        for i, eps in enumerate(radii):
            rows = np.flatnonzero(held)
            if eps > 0 and len(rows):
                with warnings.catch_warnings():
                    if i and radii[i - 1] > 0:
                        # what there is to say of the attacks was said at the first
                        warnings.simplefilter("ignore", UserWarning)
                    attacks = make(float(eps))
                norms.update(str(one.norm) for one in attacks)
                part = _safe_indexing(X, rows)
                held[rows] = held_rows(estimator, part, y[rows], attacks)
            accuracies.append(float(held.mean()))
        display = cls(
            epsilons=radii,
            accuracies=accuracies,
            n_samples=len(y),
            name=type(estimator).__name__ if name is None else name,
            norm=norms.pop() if len(norms) == 1 else None,
        )
        return display.plot(ax=ax, **kwargs)

    @classmethod
    def from_accuracies(
        cls,
        epsilons: Any,
        accuracies: Any,
        *,
        n_samples: int | None = None,
        name: str | None = None,
        norm: str | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> RobustnessCurveDisplay:
        """Draw a curve that was computed before.

        Parameters
        ----------
        epsilons : array-like of shape (n_epsilons,)
            Radii, rising.
        accuracies : array-like of shape (n_epsilons,)
            Share of rows that no attack took, for each radius.
        n_samples : int or None, default=None
            Number of rows, for the band of Wilson's 95 % interval. None draws none.
        name : str or None, default=None
            What the legend calls the curve.
        norm : str or None, default=None
            Norm of the radii, for the label of the axis.
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.
        **kwargs : dict
            Passed to matplotlib's ``plot``.

        Returns
        -------
        display : RobustnessCurveDisplay
            The curve, drawn.
        """
        display = cls(
            epsilons=epsilons,
            accuracies=accuracies,
            n_samples=n_samples,
            name=name,
            norm=norm,
        )
        return display.plot(ax=ax, **kwargs)

    def plot(
        self, ax: Any = None, *, name: str | None = None, **kwargs: Any
    ) -> RobustnessCurveDisplay:
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.
        name : str or None, default=None
            What the legend calls the curve; None is the display's own name.
        **kwargs : dict
            Passed to matplotlib's ``plot``.

        Returns
        -------
        display : RobustnessCurveDisplay
            Itself, with the artists as attributes.
        """
        axes = axes_for(self, ax, (1, 1), (6.0, 4.0))[0, 0]
        style = {"marker": "o", "markersize": 4, **kwargs}
        label = self.name if name is None else name
        if label is not None:
            style.setdefault("label", label)
        (self.line_,) = axes.plot(self.epsilons, self.accuracies, **style)
        self.band_ = None
        if self.interval_ is not None:
            self.band_ = axes.fill_between(
                self.epsilons,
                *self.interval_,
                color=self.line_.get_color(),
                alpha=0.15,
                linewidth=0,
            )
        written = {"linf": r" ($L_\infty$)", "l2": r" ($L_2$)", None: ""}
        axes.set_xlabel(f"eps{written.get(self.norm, f' ({self.norm})')}")
        axes.set_ylabel("accuracy under attack (upper bound)")
        axes.set_ylim(-0.02, 1.02)
        axes.grid(alpha=0.3)
        if "label" in style:
            axes.legend(loc="best")
        self.ax_, self.figure_ = axes, axes.figure
        return self


def _radii(epsilons: Any) -> np.ndarray:
    owner = "RobustnessCurveDisplay"
    allowed = "a rising sequence of floats in [0, inf)"
    try:
        radii = as_floats(epsilons)
    except (TypeError, ValueError):
        raise invalid(owner, "epsilons", allowed, epsilons) from None
    if (
        radii.ndim != 1
        or not len(radii)
        or not (np.isfinite(radii).all() and (radii >= 0).all())
        or (np.diff(radii) <= 0).any()
    ):
        raise invalid(owner, "epsilons", allowed, epsilons)
    return radii


def _maker(
    estimator: Any, attack: Any, bounds: Any, random_state: Any
) -> Callable[[float], list[Attack]]:
    """Return a function from a radius to attacks."""
    if attack is None:
        return lambda eps: default_attacks(estimator, eps, bounds, random_state)
    if callable(attack):
        return lambda eps: as_attacks(attack(eps))
    given = as_attacks(attack)
    return lambda eps: [_with_eps(one, eps) for one in given]


def _with_eps(attack: Attack, eps: float) -> Attack:
    known = attack.get_params()
    names = [name for name in ("eps", "attack__eps") if name in known]
    if not names:
        raise ValueError(
            f"{attack!r} has no eps to set. Pass a function from a radius to an attack."
        )
    return clone(attack).set_params(**{names[0]: eps})
