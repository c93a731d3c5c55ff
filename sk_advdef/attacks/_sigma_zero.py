"""Sigma-zero: few features, by gradient descent."""

from __future__ import annotations

from typing import Any

from sk_advdef._validation import check_number
from sk_advdef.attacks._base import Problem
from sk_advdef.attacks._minimal import Batch, MinimalAttack


class SigmaZero(MinimalAttack):
    """Sigma-zero: the fewest features, by descending a smooth count of them.

    Adam descends how far the wrong class is behind plus a smooth count of changed
    features; after each step small changes are cut to zero, by a threshold that rises
    while the model is fooled and falls while it is not [1]_.

    Parameters
    ----------
    steps : int, default=1000
        Number of steps, at least 1.
    sigma : float, default=1e-3
        How sharp the smooth count is, in (0, inf): a change ``d`` counts as
        ``d**2 / (d**2 + sigma)``.
    threshold : float, default=0.3
        First threshold, in [0, 1].
    step_size : float, default=1.0
        First step size of Adam, in (0, inf); it falls to a tenth.
    bounds : tuple (low, high) or None, default=(0.0, 1.0)
        Box that results stay in: two numbers, or arrays with a value a feature; None
        for no box. Changes, thresholds and steps are in units of its widths, for
        features without a box in units of ``X``.
    targeted : bool, default=False
        Whether ``y`` names the classes to reach instead of those to leave.
    goal : {"fool", "reject"}, default="fool"
        "fool" is a wrong answer that is accepted; "reject" is a genuine row that is
        taken for adversarial or rejected (an attack on availability).
    batch_size : int, default=512
        Number of rows that go through the model at a time.
    space : FeatureSpace or None, default=None
        What may be changed in tabular data. Its eps, where it has one, is how far a
        feature may move at most; where it brings bounds, they take the place of
        ``bounds``.

    See Also
    --------
    JSMA : More features for far fewer passes.

    Notes
    -----
    A row that is not fooled is returned unchanged. Of an estimator that rejects,
    "rejected" is one more class that does not count; where that is not enough, the
    wrong class is asked to lead by more and more.
    Beside it wrong classes of growing confidence are tried, which ignore the detector;
    the change of fewest features that is accepted is kept.

    References
    ----------
    .. [1] A. E. Cinà, F. Villani, M. Pintor, L. Schönherr, B. Biggio, M. Pelillo,
       "σ-zero: Gradient-based Optimization of l0-norm Adversarial Examples", ICLR
       2025, arXiv:2402.01879.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sk_advdef import SigmaZero
    >>> X, y = load_digits(return_X_y=True)
    >>> X = X / 16
    >>> model = LogisticRegression(C=0.1, max_iter=1000).fit(X[:1000], y[:1000])
    >>> result = SigmaZero(steps=100).run(model, X[1000:1100], y[1000:1100])
    >>> result.fooled.all()
    np.True_
    >>> bool(np.median(result.distortion) <= 4)  # of 64 pixels
    True
    """

    norm = "l0"
    _norms = ("l0",)

    def __init__(
        self,
        *,
        steps: int = 1000,
        sigma: float = 1e-3,
        threshold: float = 0.3,
        step_size: float = 1.0,
        bounds: Any = (0.0, 1.0),
        targeted: bool = False,
        goal: str = "fool",
        batch_size: int = 512,
        space: Any = None,
    ) -> None:
        self.steps = steps
        self.sigma = sigma
        self.threshold = threshold
        self.step_size = step_size
        self.bounds = bounds
        self.targeted = targeted
        self.goal = goal
        self.batch_size = batch_size
        self.space = space

    def _check(self, problem: Problem) -> None:
        check_number(self, "steps", self.steps, integer=True, low=1)
        check_number(self, "threshold", self.threshold, low=0, high=1)
        for name in ("sigma", "step_size"):
            check_number(self, name, getattr(self, name), low=0, closed="neither")

    def _find(self, view: Any, batch: Batch, lead: float) -> tuple[Any, Any, Any]:
        from sk_advdef.attacks._minimal_l0 import sigma_zero

        return sigma_zero(
            view,
            batch,
            lead,
            steps=self.steps,
            sigma=self.sigma,
            threshold=self.threshold,
            step_size=self.step_size,
        )
