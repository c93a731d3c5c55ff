"""The saliency-map attack on few features."""

from __future__ import annotations

from typing import Any

import numpy as np

from sk_advdef._validation import check_number, invalid
from sk_advdef.attacks._base import Problem
from sk_advdef.attacks._minimal import Batch, MinimalAttack


class JSMA(MinimalAttack):
    """The Jacobian-based saliency-map attack: change few features, by much.

    Each step moves, by ``theta``, the pair of features whose saliency for the class
    aimed at is largest [1]_, until the model answers it, no pair helps, or too many
    features are changed.

    Parameters
    ----------
    theta : float, default=1.0
        How far a feature is moved at a step, in units of ``X``; negative moves down.
        Not 0.
    gamma : float, default=0.1
        Largest part of the features that may be changed, in (0, 1]; never fewer than a
        pair.
    bounds : tuple (low, high) or None, default=(0.0, 1.0)
        Box that results stay in: two numbers, or arrays with a value a feature; None
        for no box. A feature is moved until it is at the end of the box, one without
        an end, or with one more than 10,000 steps away, once.
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
    SigmaZero : Fewer features for more passes.

    Notes
    -----
    Saliency is that of the softmax. Untargeted, a row aims at all wrong genuine
    classes together, each by its probability, rather than at one drawn beforehand. The
    gradient is taken of the log-odds, which points the same way and does not vanish
    where the model is sure. A row that is not fooled is returned unchanged. Of an
    estimator that rejects, "rejected" is one more class that does not count; beside it
    wrong classes of growing confidence are tried, which ignore the detector, and the
    change of fewest features that is accepted is kept.

    References
    ----------
    .. [1] N. Papernot, P. McDaniel, S. Jha, M. Fredrikson, Z. B. Celik, A. Swami, "The
       Limitations of Deep Learning in Adversarial Settings", EuroS&P 2016,
       arXiv:1511.07528.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sk_advdef import JSMA
    >>> X, y = load_digits(return_X_y=True)
    >>> X = X / 16
    >>> model = LogisticRegression(C=0.1, max_iter=1000).fit(X[:1000], y[:1000])
    >>> result = JSMA().run(model, X[1000:], y[1000:])
    >>> bool(result.fooled.mean() > 0.9)
    True
    >>> bool(np.median(result.distortion) <= 6)  # of 64 pixels
    True
    """

    norm = "l0"
    _norms = ("l0",)

    def __init__(
        self,
        *,
        theta: float = 1.0,
        gamma: float = 0.1,
        bounds: Any = (0.0, 1.0),
        targeted: bool = False,
        goal: str = "fool",
        batch_size: int = 512,
        space: Any = None,
    ) -> None:
        self.theta = theta
        self.gamma = gamma
        self.bounds = bounds
        self.targeted = targeted
        self.goal = goal
        self.batch_size = batch_size
        self.space = space

    def _check(self, problem: Problem) -> None:
        check_number(self, "theta", self.theta)
        if self.theta == 0:
            raise invalid(self, "theta", "a float other than 0", self.theta)
        check_number(self, "gamma", self.gamma, low=0, high=1, closed="right")

    def _find(self, view: Any, batch: Batch, lead: float) -> tuple[Any, Any, Any]:
        from sk_advdef.attacks._minimal_l0 import jsma

        width = int(np.prod(batch.x.shape[1:]))
        # 1e-9: a tenth of 30 features is 3, whatever the last bit of 0.1 says
        n_changes = max(2, int(self.gamma * width + 1e-9))
        return jsma(view, batch, lead, theta=float(self.theta), n_changes=n_changes)
