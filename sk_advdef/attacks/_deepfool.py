"""DeepFool: to the nearest linearized border."""

from __future__ import annotations

from typing import Any

from sk_advdef._validation import check_number
from sk_advdef.attacks._base import Problem
from sk_advdef.attacks._minimal import Batch, MinimalAttack


class DeepFool(MinimalAttack):
    """DeepFool: step to the nearest border of the linearized model, again and again.

    Few passes, and for linear models without a box the exact answer [1]_; on nets the
    changes are longer than those of :class:`DDN`. What is found is moved back toward
    the row as far as ``predict`` stays fooled.

    Parameters
    ----------
    steps : int, default=50
        Largest number of steps, at least 1.
    overshoot : float, default=0.02
        Part by which a step goes past the border, in [0, inf).
    norm : {"l2", "linf"}, default="l2"
        Norm in which the border is near.
    n_candidates : int, default=10
        Number of wrong classes, those with the highest scores, whose borders are
        looked at in each step; at least 1.
    bounds : tuple (low, high) or None, default=(0.0, 1.0)
        Box that results stay in: two numbers, or arrays with a value a feature; None
        for no box. Features at its border do not count toward a step out of it.
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
    DDN : Shorter changes for more passes.

    Notes
    -----
    A row that is not fooled is returned unchanged. Of an estimator that rejects,
    "rejected" is one more class that does not count; where that is not enough, the
    wrong class is asked to lead by more and more.
    Beside it wrong classes of growing confidence are tried, which ignore the detector;
    the shortest change that is accepted is kept.

    References
    ----------
    .. [1] S.-M. Moosavi-Dezfooli, A. Fawzi, P. Frossard, "DeepFool: a simple and
       accurate method to fool deep neural networks", CVPR 2016, arXiv:1511.04599.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sk_advdef import DeepFool
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> X = StandardScaler().fit_transform(X)
    >>> model = LogisticRegression(C=0.1).fit(X, y)
    >>> result = DeepFool(bounds=None).run(model, X, y)
    >>> genuine = model.predict(X) == y
    >>> closed_form = abs(model.decision_function(X)) / np.linalg.norm(model.coef_)
    >>> np.allclose(result.distortion[genuine], closed_form[genuine], rtol=2e-3)
    True
    """

    _norms = ("l2", "linf")

    def __init__(
        self,
        *,
        steps: int = 50,
        overshoot: float = 0.02,
        norm: str = "l2",
        n_candidates: int = 10,
        bounds: Any = (0.0, 1.0),
        targeted: bool = False,
        goal: str = "fool",
        batch_size: int = 512,
        space: Any = None,
    ) -> None:
        self.steps = steps
        self.overshoot = overshoot
        self.norm = norm
        self.n_candidates = n_candidates
        self.bounds = bounds
        self.targeted = targeted
        self.goal = goal
        self.batch_size = batch_size
        self.space = space

    def _check(self, problem: Problem) -> None:
        check_number(self, "steps", self.steps, integer=True, low=1)
        check_number(self, "overshoot", self.overshoot, low=0)
        check_number(self, "n_candidates", self.n_candidates, integer=True, low=1)

    def _find(self, view: Any, batch: Batch, lead: float) -> tuple[Any, Any, Any]:
        from sk_advdef.attacks._minimal_l2 import deepfool

        return deepfool(
            view,
            batch,
            lead,
            steps=self.steps,
            overshoot=self.overshoot,
            norm=self.norm,
            n_candidates=self.n_candidates,
        )
