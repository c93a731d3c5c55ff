"""One step along the gradient."""

from __future__ import annotations

from typing import Any

from sk_advdef.attacks._base import Problem
from sk_advdef.attacks._pgd import Climb, GradientAttack


class FGSM(GradientAttack):
    """The fast gradient (sign) method: one step to the border of the ball.

    Parameters
    ----------
    eps : float, array of floats that fits one sample, or None
        Length of the step, in [0, inf), in units of ``X``; an array gives each feature
        a length of its own.
    norm : {"linf", "l2"}, default="linf"
        Norm of the ball: the sign of the gradient, or its direction.
    loss : {"ce", "margin"}, default="ce"
        Cross-entropy, or the difference between the best wrong score and the score of
        the label.
    bounds : tuple (low, high) or None, default=(0.0, 1.0)
        Box that results stay in: two numbers, or arrays with a value a feature; None
        for no box.
    targeted : bool, default=False
        Whether ``y`` names the classes to reach instead of those to leave.
    batch_size : int, default=512
        Number of rows that go through the model at a time.
    space : FeatureSpace or None, default=None
        What may be changed in tabular data. Either it or ``eps`` says how far features
        move: ``eps=None`` is for a space that does. Where it brings bounds, they take
        the place of ``bounds``.

    See Also
    --------
    PGD : Many steps from random starts; stronger.

    References
    ----------
    .. [1] I. Goodfellow, J. Shlens, C. Szegedy, "Explaining and Harnessing Adversarial
       Examples", ICLR 2015, arXiv:1412.6572.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sk_advdef import FGSM
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X, y)
    >>> X_adv = FGSM(eps=0.5, bounds=None).perturb(model, X, y)
    >>> model.score(X, y) > model.score(X_adv, y)
    True
    """

    def __init__(
        self,
        eps: Any,
        *,
        norm: str = "linf",
        loss: str = "ce",
        bounds: Any = (0.0, 1.0),
        targeted: bool = False,
        batch_size: int = 512,
        space: Any = None,
    ) -> None:
        self.eps = eps
        self.norm = norm
        self.loss = loss
        self.bounds = bounds
        self.targeted = targeted
        self.batch_size = batch_size
        self.space = space

    def _climb(self, problem: Problem) -> Climb:
        return Climb(steps=1, step_size=1.0)
