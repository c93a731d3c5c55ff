"""Decoupled direction and norm."""

from __future__ import annotations

from typing import Any

from sk_advdef._validation import check_number
from sk_advdef.attacks._base import Problem
from sk_advdef.attacks._minimal import Batch, MinimalAttack


class DDN(MinimalAttack):
    """Decoupled direction and norm: a small L2 change in few steps.

    Each step turns the change along the gradient and puts it on a sphere around the
    row that shrinks while the model is fooled and grows while it is not [1]_. What is
    found is moved back toward the row as far as ``predict`` stays fooled.

    Parameters
    ----------
    steps : int, default=100
        Number of steps, at least 1.
    init_eps : float, default=1.0
        Radius of the first sphere and length of the first step, in (0, inf), in units
        of ``X``.
    gamma : float, default=0.05
        Part by which the radius changes at a step, in (0, 1).
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
    CarliniWagnerL2 : Slower, for comparison with what is published.
    DeepFool : Fewer passes, longer changes.

    Notes
    -----
    A row that is not fooled is returned unchanged. Of an estimator that rejects,
    "rejected" is one more class that does not count; where that is not enough, the
    wrong class is asked to lead by more and more.
    Beside it wrong classes of growing confidence are tried, which ignore the detector;
    the shortest change that is accepted is kept.

    References
    ----------
    .. [1] J. Rony, L. G. Hafemann, L. S. Oliveira, I. Ben Ayed, R. Sabourin,
       E. Granger, "Decoupling Direction and Norm for Efficient Gradient-Based L2
       Adversarial Attacks and Defenses", CVPR 2019, arXiv:1811.09600.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sk_advdef import DDN
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X, y)
    >>> result = DDN(bounds=None).run(model, X, y)
    >>> result.fooled.all()
    np.True_
    >>> bool(np.median(result.distortion) < 1.5)
    True
    """

    norm = "l2"

    def __init__(
        self,
        *,
        steps: int = 100,
        init_eps: float = 1.0,
        gamma: float = 0.05,
        bounds: Any = (0.0, 1.0),
        targeted: bool = False,
        goal: str = "fool",
        batch_size: int = 512,
        space: Any = None,
    ) -> None:
        self.steps = steps
        self.init_eps = init_eps
        self.gamma = gamma
        self.bounds = bounds
        self.targeted = targeted
        self.goal = goal
        self.batch_size = batch_size
        self.space = space

    def _check(self, problem: Problem) -> None:
        check_number(self, "steps", self.steps, integer=True, low=1)
        check_number(self, "init_eps", self.init_eps, low=0, closed="neither")
        check_number(self, "gamma", self.gamma, low=0, high=1, closed="neither")

    def _find(self, view: Any, batch: Batch, lead: float) -> tuple[Any, Any, Any]:
        from sk_advdef.attacks._minimal_l2 import ddn

        return ddn(
            view,
            batch,
            lead,
            steps=self.steps,
            init_eps=self.init_eps,
            gamma=self.gamma,
        )
