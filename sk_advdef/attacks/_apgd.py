"""Auto-PGD: a step size that finds itself."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import gen_batches

from sk_advdef._validation import check_number, check_option, seed_from
from sk_advdef.attacks._base import Attack, Problem
from sk_advdef.attacks._geometry import random_in_ball

LOSSES = ("ce", "dlr", "dlr-t", "margin")


class Plan(NamedTuple):
    """How an attack goes: its checked parameters, the view, the columns that count."""

    view: Any
    genuine: np.ndarray
    loss: str
    steps: int
    restarts: int
    targets: int
    rho: float
    seed: int
    batch_size: int
    plain: Any
    straight: Any


class APGD(Attack):
    """Auto-PGD: projected gradient ascent with momentum and a step size of its own.

    The step starts at twice the radius. At checkpoints, closer and closer together, a
    row whose loss rose too seldom goes back to its best point and halves its step
    [1]_. With nothing to tune it is the attack to report beside :class:`PGD`.

    Parameters
    ----------
    eps : float, array of floats that fits one sample, or None
        Radius of the ball, in [0, inf), in units of ``X``. An array gives each feature
        a radius of its own; for ``norm="l2"`` the ball is then an ellipsoid.
    steps : int, default=100
        Number of steps, at least 1.
    norm : {"linf", "l2"}, default="linf"
        Norm of the ball.
    loss : {"ce", "dlr", "dlr-t", "margin"}, default="ce"
        Cross-entropy; the difference of logits ratio, which does not depend on the
        scale of the logits; the same aimed at one wrong class after the other; or the
        difference between the best wrong score and the score of the label.
    restarts : int, default=1
        Number of random starts, at least 1; for "dlr-t" of each class aimed at.
    bounds : tuple (low, high) or None, default=(0.0, 1.0)
        Box that results stay in: two numbers, or arrays with a value a feature; None
        for no box.
    random_state : int, RandomState instance or None, default=None
        Seeds the starts.
    targeted : bool, default=False
        Whether ``y`` names the classes to reach instead of those to leave.
    rho : float, default=0.75
        Share of steps that must raise the loss for the step size to stay, in (0, 1].
    n_target_classes : int, default=9
        Number of wrong classes, those with the highest scores, that "dlr-t" aims at;
        at least 1.
    goal : {"fool", "reject"}, default="fool"
        "fool" is a wrong answer that is accepted; "reject" is a genuine row that is
        taken for adversarial or rejected (an attack on availability).
    batch_size : int, default=512
        Number of rows that go through the model at a time.
    space : FeatureSpace or None, default=None
        What may be changed in tabular data. Either it or ``eps`` says how far features
        move: ``eps=None`` is for a space that does. Where it brings bounds, they take
        the place of ``bounds``.

    See Also
    --------
    PGD : A step size of fixed length.

    Notes
    -----
    Cross-entropy is climbed as log-odds, which rise with it and do not vanish where the
    softmax is saturated. "dlr" divides by the gap between the first score and the
    third; of two classes it is the margin. "dlr-t" (and "dlr" with ``targeted=True``)
    divides by the gap to the mean of the third and the fourth; of three classes by the
    gap to the third, of two it is the margin. Of an estimator that rejects, "rejected"
    is one more class, which does not count, and no row leaves early. Where a net clips
    or rounds within itself, rows that hold are attacked again straight through that, as
    by :class:`PGD`.

    References
    ----------
    .. [1] F. Croce, M. Hein, "Reliable evaluation of adversarial robustness with an
       ensemble of diverse parameter-free attacks", ICML 2020, arXiv:2003.01690.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sk_advdef import APGD
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X, y)
    >>> attack = APGD(eps=0.5, loss="dlr-t", bounds=None, random_state=0)
    >>> X_adv = attack.perturb(model, X, y)
    >>> model.score(X, y) > model.score(X_adv, y)
    True
    """

    def __init__(
        self,
        eps: Any,
        *,
        steps: int = 100,
        norm: str = "linf",
        loss: str = "ce",
        restarts: int = 1,
        bounds: Any = (0.0, 1.0),
        random_state: Any = None,
        targeted: bool = False,
        rho: float = 0.75,
        n_target_classes: int = 9,
        goal: str = "fool",
        batch_size: int = 512,
        space: Any = None,
    ) -> None:
        self.eps = eps
        self.steps = steps
        self.norm = norm
        self.loss = loss
        self.restarts = restarts
        self.bounds = bounds
        self.random_state = random_state
        self.targeted = targeted
        self.rho = rho
        self.n_target_classes = n_target_classes
        self.goal = goal
        self.batch_size = batch_size
        self.space = space

    def _plan(self, problem: Problem) -> Plan:
        from sk_advdef._torch._bpda import Through
        from sk_advdef.attacks._ahead import view_of

        loss = check_option(self, "loss", self.loss, LOSSES)
        if loss == "dlr" and problem.targeted:
            loss = "dlr-t"
        counts = [
            check_number(self, name, getattr(self, name), integer=True, low=1)
            for name in ("steps", "restarts", "n_target_classes", "batch_size")
        ]
        steps, restarts, targets, batch_size = counts
        check_number(self, "rho", self.rho, low=0, high=1, closed="right")
        view, genuine = view_of(problem)
        if loss != "dlr-t" or problem.targeted:
            targets = 1
        return Plan(
            view,
            genuine,
            loss,
            steps,
            restarts,
            min(targets, len(genuine) - 1),
            self.rho,
            seed_from(self.random_state),
            batch_size,
            Through(),
            Through(straight=True),
        )

    def _search(
        self, problem: Problem, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        plan = self._plan(problem)
        values = problem.X.copy()
        ahead = np.full(len(values), -np.inf)
        fooled = np.zeros(len(values), dtype=bool)
        n_queries = np.ones(len(values), dtype=np.int64)
        # with a detector on to the iterate that is wrong and least suspicious
        early_stops = (True, False) if problem.detector is None else (False,)
        starts = range(plan.restarts * plan.targets)
        for start, straight in ((s, way) for way in (False, True) for s in starts):
            if straight and not plan.plain.flat:
                break
            left = rows[~fooled[rows]]
            for early_stop in early_stops:
                if not len(left):
                    break
                found, lead, passes = self._climb(
                    problem,
                    plan,
                    left,
                    start,
                    early_stop=early_stop,
                    straight=straight,
                )
                n_queries[left] += passes + 1
                confirmed = problem.is_fooled(found, left)
                better = confirmed | (lead > ahead[left])
                values[left[better]] = found[better]
                ahead[left[better]] = lead[better]
                fooled[left] = confirmed
                # a second time only for rows that the view alone took for fooled
                left = left[~confirmed & (lead > 0)]
        return values[rows], fooled[rows], n_queries[rows]

    def _train_on(self, problem: Problem) -> np.ndarray:
        rows = np.arange(len(problem.X))
        return self._climb(problem, self._plan(problem), rows, 0, early_stop=False)[0]

    def _climb(
        self,
        problem: Problem,
        plan: Plan,
        rows: np.ndarray,
        start: int,
        *,
        early_stop: bool,
        straight: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Climb once from a random start, batch by batch."""
        rng = np.random.default_rng([plan.seed, start])
        noise = random_in_ball(rng, problem.X.shape, problem.norm)[rows]
        from sk_advdef._torch._bpda import looked_through

        mode = plan.straight if straight else plan.plain
        with looked_through(plan.view, mode):
            parts = [
                self._climb_batch(
                    problem,
                    plan,
                    rows[batch],
                    noise[batch],
                    start,
                    early_stop=early_stop,
                )
                for batch in gen_batches(len(rows), plan.batch_size)
            ]
        values, lead, passes = map(np.concatenate, zip(*parts, strict=True))
        return problem.settle(values, rows), lead, passes

    def _climb_batch(
        self,
        problem: Problem,
        plan: Plan,
        rows: np.ndarray,
        noise: np.ndarray,
        start: int,
        *,
        early_stop: bool,
    ) -> list[np.ndarray]:
        import torch

        from sk_advdef.attacks._ahead import wanted_columns
        from sk_advdef.attacks._apgd_steps import aim_at, apgd
        from sk_advdef.attacks._gradient import Ball, Snap

        ball = Ball.of(problem, rows)
        center = ball.center
        wanted = wanted_columns(problem, rows, plan.genuine)
        x = ball.project(center + ball.eps * torch.tensor(noise, dtype=center.dtype))
        aim, looked = wanted, 0
        if plan.loss == "dlr-t":
            with torch.no_grad():
                aim = aim_at(plan.view(center), wanted, start % plan.targets)
            looked = 1
        found, lead, passes = apgd(
            plan.view,
            x,
            ball,
            wanted,
            aim,
            plan.loss,
            steps=plan.steps,
            rho=plan.rho,
            early_stop=early_stop,
            snap=None if problem.rules is None else Snap(problem, rows),
        )
        return [t.numpy() for t in (found, lead, passes + looked)]
