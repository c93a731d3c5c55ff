"""The L2 attack of Carlini and Wagner."""

from __future__ import annotations

from typing import Any

from sk_advdef._validation import check_number
from sk_advdef.attacks._base import Problem
from sk_advdef.attacks._minimal import Batch, MinimalAttack


class CarliniWagnerL2(MinimalAttack):
    """The L2 attack of Carlini and Wagner.

    Adam minimizes the squared length of the change plus a constant times how far the
    wrong class is behind; the constant is found by binary search, a row each [1]_. It
    is here because papers report it: :class:`DDN` finds changes as small in a
    fraction of the time.

    Parameters
    ----------
    confidence : float, default=0.0
        By how much the wrong class must lead, in units of the logits; in [0, inf).
    binary_search_steps : int, default=9
        Number of constants tried, at least 1.
    steps : int, default=1000
        Largest number of steps for each constant, at least 1. A row that has come to
        rest leaves earlier.
    learning_rate : float, default=0.01
        Step size of Adam, in (0, inf), in the variables whose tanh is the position in
        the box; for features without a box in units of its widest feature.
    initial_const : float, default=1e-3
        First constant, in (0, inf).
    bounds : tuple (low, high) or None, default=(0.0, 1.0)
        Box that results stay in: two numbers, or arrays with a value a feature; None
        for no box.
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
    DDN : As small in far fewer steps.

    Notes
    -----
    Lengths are measured by the width of the box at its widest, so that the constant
    means the same for pixels in [0, 1] and in [0, 255]. With ``confidence=0`` what is
    found is moved back toward the row as far as ``predict`` stays fooled. A row that
    is not fooled is returned unchanged. Of an estimator that rejects, "rejected" is
    one more class that does not count; where that is not enough, the wrong class is
    asked to lead by more and more.
    Beside it wrong classes of growing confidence are tried, which ignore the detector;
    the shortest change that is accepted is kept.

    References
    ----------
    .. [1] N. Carlini, D. Wagner, "Towards Evaluating the Robustness of Neural
       Networks", IEEE S&P 2017, arXiv:1608.04644.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sk_advdef import CarliniWagnerL2
    >>> X, y = load_iris(return_X_y=True)
    >>> X, y = X[::5], y[::5]
    >>> model = LogisticRegression(max_iter=1000).fit(X, y)
    >>> attack = CarliniWagnerL2(steps=100, learning_rate=0.1, bounds=None)
    >>> result = attack.run(model, X, y)
    >>> result.fooled.all()
    np.True_
    >>> bool(np.median(result.distortion) < 1.5)
    True
    """

    norm = "l2"

    def __init__(
        self,
        *,
        confidence: float = 0.0,
        binary_search_steps: int = 9,
        steps: int = 1000,
        learning_rate: float = 0.01,
        initial_const: float = 1e-3,
        bounds: Any = (0.0, 1.0),
        targeted: bool = False,
        goal: str = "fool",
        batch_size: int = 512,
        space: Any = None,
    ) -> None:
        self.confidence = confidence
        self.binary_search_steps = binary_search_steps
        self.steps = steps
        self.learning_rate = learning_rate
        self.initial_const = initial_const
        self.bounds = bounds
        self.targeted = targeted
        self.goal = goal
        self.batch_size = batch_size
        self.space = space

    def _check(self, problem: Problem) -> None:
        check_number(self, "confidence", self.confidence, low=0)
        check_number(
            self, "binary_search_steps", self.binary_search_steps, integer=True, low=1
        )
        check_number(self, "steps", self.steps, integer=True, low=1)
        for name in ("learning_rate", "initial_const"):
            check_number(self, name, getattr(self, name), low=0, closed="neither")

    def _pulls_back(self) -> bool:
        return self.confidence == 0

    def _find(self, view: Any, batch: Batch, lead: float) -> tuple[Any, Any, Any]:
        from sk_advdef.attacks._minimal_l2 import carlini_wagner

        return carlini_wagner(
            view,
            batch,
            self.confidence + lead,
            searches=self.binary_search_steps,
            steps=self.steps,
            learning_rate=self.learning_rate,
            initial_const=self.initial_const,
        )
