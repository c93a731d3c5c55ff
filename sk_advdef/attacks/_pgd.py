"""Attacks along the gradient, in many steps."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import gen_batches

from sk_advdef._torch._registry import as_module, as_score_module
from sk_advdef._validation import check_flag, check_number, check_option, seed_from
from sk_advdef.attacks._base import Attack, Problem
from sk_advdef.attacks._geometry import random_in_ball

LOSSES = ("ce", "margin")
MASKS = ("own", "fresh")


class Climb(NamedTuple):
    """How an attack goes up the gradient; ``step_size`` is a part of ``eps``."""

    steps: int
    step_size: float
    restarts: int = 1
    random_start: bool = False
    seed: int = 0
    early_stop: bool = True


class GradientAttack(Attack):
    """Projected gradient ascent through the estimator's differentiable view."""

    loss: str
    batch_size: int
    masks = "own"

    def _climb(self, problem: Problem) -> Climb:
        raise NotImplementedError

    def _search(
        self, problem: Problem, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        climb = self._climb(problem)
        early_stops = (True, False) if climb.early_stop else (False,)
        if problem.detector is not None:
            early_stops = (False,)  # on to the iterate that is least suspicious
        ascenders = self._ascenders(problem, climb)
        values = problem.X.copy()
        rank = np.full(len(values), -np.inf)
        fooled = np.zeros(len(values), dtype=bool)
        n_queries = np.ones(len(values), dtype=np.int64)
        for restart in range(climb.restarts):
            noise = self._noise(problem, climb, restart)
            for ascend, is_needed in ascenders:
                left = rows[~fooled[rows]]
                if not is_needed():
                    continue
                for early_stop in early_stops:
                    if not len(left):
                        break
                    found, found_rank, passes = ascend(left, noise, early_stop)
                    n_queries[left] += passes + 1
                    confirmed = problem.is_fooled(found, left)
                    better = confirmed | (found_rank > rank[left])
                    values[left[better]] = found[better]
                    rank[left[better]] = found_rank[better]
                    fooled[left] = confirmed
                    # rows that only the view took for fooled go on without stopping
                    left = left[(found_rank > 0) & ~confirmed]
        return values[rows], fooled[rows], n_queries[rows]

    def _train_on(self, problem: Problem) -> np.ndarray:
        climb = self._climb(problem)
        noise = self._noise(problem, climb, 0)
        rows = np.arange(len(problem.X))
        ascend, _ = self._ascenders(problem, climb)[0]
        return ascend(rows, noise, False)[0]

    def _noise(self, problem: Problem, climb: Climb, restart: int) -> Any:
        if not climb.random_start:
            return None
        rng = np.random.default_rng([climb.seed, restart])
        return random_in_ball(rng, problem.X.shape, problem.norm)

    def _goals_with_detector(
        self, problem: Problem, class_goal: Any, seed: int
    ) -> list[Any]:
        from sk_advdef.attacks._accepted import MODES, AcceptedGoal, RejectedGoal

        detector = problem.detector
        suspicion = as_score_module(detector)
        if check_option(self, "masks", self.masks, MASKS) == "fresh":
            for part in suspicion.modules():
                if hasattr(part, "draw_anew"):
                    part.draw_anew(seed)
        threshold = float(detector.offset_), float(detector.scale_)
        if problem.reject:
            return [RejectedGoal(suspicion, *threshold)]
        return [AcceptedGoal(m, class_goal, suspicion, *threshold) for m in MODES]

    def _ascenders(self, problem: Problem, climb: Climb) -> list[Any]:
        """Return functions that climb for some rows, and whether they are needed.

        One for each goal, for views with steps in them another with soft steps, and
        another straight through what nets clip and round, where they were seen to.
        """
        import torch

        from sk_advdef._torch._bpda import (
            Through,
            annealed,
            looked_through,
            rounding_modules,
        )
        from sk_advdef.attacks import _gradient

        loss = check_option(self, "loss", self.loss, LOSSES)
        batch_size = check_number(
            self, "batch_size", self.batch_size, integer=True, low=1
        )
        genuine = torch.tensor(problem.genuine)
        goals = [
            _gradient.class_goal(
                loss, genuine, targeted=problem.targeted, reject=problem.reject
            )
        ]
        view = as_module(problem.model)
        free = problem.rules is None
        if problem.table.width > problem.X[0].size:
            raise ValueError(
                f"{type(self).__name__} needs the gradient in X, and not all columns "
                "of X are numeric. Encode them first, or use RandomSearch."
            )
        if problem.detector is not None:
            goals = self._goals_with_detector(problem, goals[0], climb.seed)
            if not problem.reject:
                aimed = problem.rows_to_resemble()
        #: all that the attacker sees through, where steps may be
        seen = torch.nn.ModuleList([view])
        seen.extend([g.suspicion for g in goals[:1] if hasattr(g, "suspicion")])

        plain, straight = Through(), Through(straight=True)

        def ascend(
            rows: np.ndarray,
            noise: Any,
            early_stop: bool,
            *,
            goal: Any,
            soft: bool,
            mode: Through,
        ) -> list[np.ndarray]:
            parts = []
            for batch in gen_batches(len(rows), batch_size):
                part = rows[batch]
                ball = _gradient.Ball.of(problem, part)
                start = ball.center
                if noise is not None:
                    drawn = torch.tensor(noise[part], dtype=start.dtype)
                    start = ball.project(start + ball.eps * drawn)
                aims = None if not hasattr(goal, "bound") else problem.X[aimed[part]]
                with annealed(seen), looked_through(seen, mode):
                    found = _gradient.ascend(
                        view,
                        start,
                        ball,
                        torch.tensor(problem.columns[part]),
                        goal if aims is None else goal.bound(view, torch.tensor(aims)),
                        steps=climb.steps,
                        step_size=climb.step_size,
                        early_stop=early_stop,
                        snap=None if free else _gradient.Snap(problem, part),
                        soft=seen if soft else None,
                    )
                parts.append([t.numpy() for t in found])
            values, rank, passes = map(np.concatenate, zip(*parts, strict=True))
            return [problem.settle(values, rows), rank, passes]

        ways = [(False, plain)]
        if rounding_modules(seen):
            ways.append((True, plain))
        climbs = [
            (partial(ascend, goal=goal, soft=soft, mode=mode), lambda: True)
            for goal in goals
            for soft, mode in ways
        ]
        for goal in goals:
            way = partial(ascend, goal=goal, soft=False, mode=straight)
            climbs.append((way, lambda: plain.flat))
        return climbs


class PGD(GradientAttack):
    """Projected gradient descent from random starts.

    Each step goes up the loss as steeply as the norm allows and is put back into the
    ball and the box. Rows that are fooled leave the batch; of a row that is never
    fooled the iterate nearest to it is kept.

    Parameters
    ----------
    eps : float, array of floats that fits one sample, or None
        Radius of the ball, in [0, inf), in units of ``X``. An array gives each feature
        a radius of its own; for ``norm="l2"`` the ball is then an ellipsoid.
    steps : int, default=40
        Number of steps, at least 1.
    step_size : float or None, default=None
        Length of a step in units of ``X``, in (0, inf). None is ``2.5 * eps / steps``.
        Where ``eps`` is an array, the length along its largest entry.
    norm : {"linf", "l2"}, default="linf"
        Norm of the ball.
    loss : {"ce", "margin"}, default="ce"
        Cross-entropy, or the difference between the best wrong score and the score of
        the label, which sees through a saturated softmax.
    restarts : int, default=1
        Number of random starts, at least 1.
    bounds : tuple (low, high) or None, default=(0.0, 1.0)
        Box that results stay in: two numbers, or arrays with a value a feature; None
        for no box.
    random_state : int, RandomState instance or None, default=None
        Seeds the starts.
    targeted : bool, default=False
        Whether ``y`` names the classes to reach instead of those to leave.
    random_start : bool, default=True
        Whether to start at a random point of the ball instead of at the row itself.
    early_stop : bool, default=True
        Whether a row leaves as soon as it is fooled. False goes on to the end and keeps
        the most wrong iterate, which is what carries over to another model.
    goal : {"fool", "reject"}, default="fool"
        "fool" is a wrong answer that is accepted; "reject" is a genuine row that is
        taken for adversarial or rejected (an attack on availability).
    batch_size : int, default=512
        Number of rows that go through the model at a time.
    space : FeatureSpace or None, default=None
        What may be changed in tabular data. Either it or ``eps`` says how far features
        move: ``eps=None`` is for a space that does. Where it brings bounds, they take
        the place of ``bounds``.
    masks : {"own", "fresh"}, default="own"
        The sub-networks through which the suspicion of a detector by dropout is
        lowered: those that it holds, or fresh ones at every step, for an attacker who
        does not know them.

    See Also
    --------
    FGSM : A single step.
    RandomSearch : An attack that needs scores only.

    Notes
    -----
    Where a net clips or rounds within itself (clamp, hardtanh, hardsigmoid, round,
    floor, ceil, trunc, sign), its gradient ends. Rows that hold are then attacked once
    more, with gradients that go straight through these functions [2]_; not so rows to
    train on.

    References
    ----------
    .. [1] A. Madry, A. Makelov, L. Schmidt, D. Tsipras, A. Vladu, "Towards Deep
       Learning Models Resistant to Adversarial Attacks", ICLR 2018, arXiv:1706.06083.
    .. [2] A. Athalye, N. Carlini, D. Wagner, "Obfuscated Gradients Give a False Sense
       of Security", ICML 2018, arXiv:1802.00420.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sk_advdef import PGD
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X, y)
    >>> attack = PGD(eps=0.5, bounds=(X.min(axis=0), X.max(axis=0)), random_state=0)
    >>> X_adv = attack.perturb(model, X, y)
    >>> model.score(X, y) > model.score(X_adv, y)
    True
    """

    def __init__(
        self,
        eps: Any,
        *,
        steps: int = 40,
        step_size: float | None = None,
        norm: str = "linf",
        loss: str = "ce",
        restarts: int = 1,
        bounds: Any = (0.0, 1.0),
        random_state: Any = None,
        targeted: bool = False,
        random_start: bool = True,
        early_stop: bool = True,
        goal: str = "fool",
        batch_size: int = 512,
        space: Any = None,
        masks: str = "own",
    ) -> None:
        self.eps = eps
        self.steps = steps
        self.step_size = step_size
        self.norm = norm
        self.loss = loss
        self.restarts = restarts
        self.bounds = bounds
        self.random_state = random_state
        self.targeted = targeted
        self.random_start = random_start
        self.early_stop = early_stop
        self.goal = goal
        self.batch_size = batch_size
        self.space = space
        self.masks = masks

    def _climb(self, problem: Problem) -> Climb:
        steps = check_number(self, "steps", self.steps, integer=True, low=1)
        restarts = check_number(self, "restarts", self.restarts, integer=True, low=1)
        if self.step_size is None:
            size = 2.5 / steps
        else:
            check_number(
                self,
                "step_size",
                self.step_size,
                low=0,
                closed="neither",
                otherwise=" or None",
            )
            reach = problem.eps
            if problem.rules is not None and not problem.rules.is_hot.all():
                # a category has a reach of its own, which no step is told in
                reach = reach[..., ~problem.rules.is_hot]
            widest = float(reach.max())
            size = self.step_size / widest if widest > 0 else 0.0
        random_start = check_flag(self, "random_start", self.random_start)
        early_stop = check_flag(self, "early_stop", self.early_stop)
        seed = seed_from(self.random_state)
        return Climb(steps, size, restarts, random_start, seed, early_stop)
