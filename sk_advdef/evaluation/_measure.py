"""What a diagnosis measures on a model: answers, gradients, the way of an attack."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import _safe_indexing

from sk_advdef._torch._models import (
    class_scores,
    has_scores,
    last_step,
    predict,
    rejection_of,
    sampling_detector,
    torch_generators_kept,
    unfrozen,
    with_detector,
)
from sk_advdef._torch._registry import as_module, as_score_module
from sk_advdef.attacks._base import Problem, margin_of
from sk_advdef.attacks._noise import Noise
from sk_advdef.attacks._table import Table

#: Lead in logits from which a softmax is 1 to float32 precision.
SURE = 16.0
#: Steps, and length of one in parts of eps, of the path that is watched.
STEPS, STEP_SIZE = 40, 2.5 / 40
#: Every so many steps of the path ``predict`` is asked.
ASK_EVERY = 5
#: Calls that must agree; a random step of few outcomes can repeat by chance.
CALLS = 5


class Subject:
    """The rows to diagnose on, what the estimator says of them, and its view."""

    def __init__(
        self, estimator: Any, X: Any, y: np.ndarray, eps: Any, bounds: Any, seed: int
    ) -> None:
        self.estimator, self.X, self.y = estimator, X, y
        self.eps, self.bounds, self.seed = eps, bounds, seed
        self.problem = Problem(Noise(eps, bounds=bounds), estimator, X, y)
        self.genuine = self.problem.genuine_classes
        self.rejects = self.problem.detector is not None or bool(
            (~self.problem.genuine).any()
        )
        with torch_generators_kept():
            self.answers = predict(estimator, X)
        self.right = np.flatnonzero(self.answers == y)
        #: why there is no gradient, "" where there is one
        self.missing = ""
        self.view: Any = None
        try:
            self.view = as_module(self.problem.model)
            if self.problem.detector is not None:
                as_score_module(self.problem.detector)
        except TypeError as error:
            self.view, self.missing = None, str(error)

    def rows(self, at: np.ndarray) -> tuple[Any, np.ndarray]:
        """Return some rows and their labels."""
        return _safe_indexing(self.X, at), self.y[at]

    def accepted(self, values: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Whether values in the place of some rows are answered with a class."""
        with torch_generators_kept():
            answers = self.problem.predict(values, at)
        return np.isin(answers, self.genuine)


def changed_between_calls(estimator: Any, X: Any) -> tuple[float, float]:
    """Shares of rows whose label, and whose scores, differ in one of a few calls."""
    rejects = rejection_of(estimator)
    model, last = (estimator, None) if rejects is None else rejects
    if last_step(estimator) is not unfrozen(estimator) and rejects is not None:
        model = last = None  # the steps before would have to be passed first
    with torch_generators_kept():
        labels = np.stack([predict(estimator, X) for _ in range(CALLS)])
        scores = []
        for _ in range(CALLS):
            parts = []
            if model is not None and has_scores(model):
                parts.append(class_scores(model, X))
            if last is not None:
                parts.append(np.reshape(last.decision_function(X), (-1, 1)))
            scores.append(np.hstack(parts) if parts else np.zeros((len(labels[0]), 1)))
    first = scores[0]
    close = [np.isclose(first, other, rtol=1e-3, atol=1e-5) for other in scores[1:]]
    moved = ~np.all(close, axis=(0, 2))
    return float((labels != labels[0]).any(axis=0).mean()), float(moved.mean())


def changed_by_company(estimator: Any, X: Any, answers: np.ndarray) -> float:
    """Share of rows whose label differs when every fourth row is asked alone."""
    found = answers.copy()
    with torch_generators_kept():
        for start in range(min(4, len(answers))):
            at = np.arange(start, len(answers), 4)
            found[at] = predict(estimator, _safe_indexing(X, at))
    return float((found != answers).mean())


def changed_by_masks(subject: Subject) -> float | None:
    """Share of answers that change with other masks; None where there are none."""
    detector = sampling_detector(subject.estimator)
    if detector is None:
        return None
    other = copy.copy(detector)
    other._seed = subject.seed
    redrawn = with_detector(subject.estimator, other)
    with torch_generators_kept():
        return float((predict(redrawn, subject.X) != subject.answers).mean())


class Gradients(NamedTuple):
    """Shares of rows: gradients lost, by loss, softmax saturated; kind of scores."""

    zero: float
    bad: float
    ce_dead: float
    saturated: float
    probabilities: bool


def measure_gradients(subject: Subject) -> Gradients:
    """Look at the gradients of both losses in each row as it is."""
    import torch

    from sk_advdef.attacks._gradient import class_goal

    problem = subject.problem
    genuine = torch.tensor(problem.genuine)
    columns = torch.tensor(problem.columns.clip(0))
    dead, bad = {}, {}
    for loss in ("ce", "margin"):
        x = torch.tensor(problem.X, requires_grad=True)
        scores = subject.view(x)
        value, _ = class_goal(loss, genuine, targeted=False)(x, scores, columns)
        grad = torch.zeros_like(x)
        if value.requires_grad:
            found = torch.autograd.grad(value.sum(), x, allow_unused=True)[0]
            grad = grad if found is None else found
        flat = grad.flatten(1)
        bad[loss] = ~flat.isfinite().all(dim=1)
        dead[loss] = (flat == 0).all(dim=1)
    scores = scores.detach().double()
    top = scores.max(dim=1)
    rest = scores.scatter(1, top.indices[:, None], -torch.inf).logsumexp(dim=1)

    def share(rows: torch.Tensor) -> float:
        return float(rows.double().mean())

    inside = bool(((scores >= 0) & (scores <= 1)).all())
    sums = bool(((scores.sum(dim=1) - 1).abs() < 1e-4).all())
    return Gradients(
        zero=share(dead["margin"]),
        bad=share(bad["margin"]),
        ce_dead=share(dead["ce"] | bad["ce"]),
        saturated=share(top.values - rest > SURE),
        probabilities=inside and sums,
    )


def view_margin(subject: Subject, X: Any, at: np.ndarray) -> np.ndarray:
    """Lead of the best wrong class by the view, for changed rows."""
    problem = subject.problem
    return margin_of(
        view_scores(subject, X), problem.columns[at], problem.genuine, targeted=False
    )


def view_scores(subject: Subject, X: Any) -> np.ndarray:
    """Scores by the view, float64."""
    import torch

    with torch.no_grad():
        return subject.view(torch.tensor(Table(X).values)).numpy().astype(np.float64)


def view_differs(subject: Subject, X: Any) -> float:
    """Share of rows that the view answers otherwise than the model's ``predict``."""
    named = subject.problem.classes[view_scores(subject, X).argmax(axis=1)]
    with torch_generators_kept():
        return float((named != predict(subject.problem.model, X)).mean())


class Path(NamedTuple):
    """Margins by step and row, and whether ``predict`` was ever fooled on the way."""

    margins: np.ndarray
    fooled: np.ndarray

    def rising(self, part: float) -> np.ndarray:
        """Tell whose best margin rose by ``part`` of all at the very end."""
        best = np.maximum.accumulate(self.margins, axis=0)
        whole = best[-1] - best[0]
        late = best[-1] - best[int(0.9 * (len(best) - 1))]
        return (whole > 1e-6) & (late > part * whole)


def walk(subject: Subject, at: np.ndarray) -> Path:
    """Climb the margin as PGD does, and look at every step."""
    import torch

    from sk_advdef.attacks._gradient import Ball, class_goal

    problem = subject.problem
    ball = Ball.of(problem, at)
    center, eps = ball.center, ball.eps
    goal = class_goal("margin", torch.tensor(problem.genuine), targeted=False)
    columns = torch.tensor(problem.columns[at])
    rng = np.random.default_rng(subject.seed)
    noise = torch.tensor(rng.uniform(-1, 1, center.shape), dtype=center.dtype)
    x = ball.project(center + eps * noise)
    margins, fooled = [], np.zeros(len(at), dtype=bool)
    for step in range(STEPS + 1):
        x = x.detach().requires_grad_(True)
        value, _ = goal(x, subject.view(x), columns)
        margins.append(value.detach().double().numpy())
        if step % ASK_EVERY == 0:
            values = problem.settle(x.detach().numpy(), at)
            with torch_generators_kept():
                fooled |= problem.is_fooled(values, at)
        if value.requires_grad:
            grad = torch.autograd.grad(value.sum(), x)[0]
            x = ball.step(x.detach(), grad, STEP_SIZE)
    return Path(np.stack(margins), fooled)


def rejected_beside(subject: Subject, part: float) -> float:
    """Share of right rows that noise of ``part`` of eps gets rejected."""
    problem, at = subject.problem, subject.right
    rng = np.random.default_rng(subject.seed)
    noise = rng.uniform(-1, 1, size=problem.X[at].shape)
    values = problem.settle(problem.X[at] + part * problem.eps * noise, at)
    return float(1 - subject.accepted(values, at).mean())


def accepted_from_nowhere(subject: Subject) -> float:
    """Share of rows drawn uniformly from the box that get a class for an answer."""
    problem = subject.problem
    low, high = box_of(problem.X, subject.bounds)
    rng = np.random.default_rng(subject.seed)
    values = rng.uniform(low, high, size=problem.X.shape).astype(problem.X.dtype)
    return float(subject.accepted(values, np.arange(len(values))).mean())


def box_of(X: np.ndarray, bounds: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the box, those of the data where there is none."""
    if bounds is None:
        return X.min(axis=0), X.max(axis=0)
    low, high = (np.asarray(b, dtype=np.float64) for b in bounds)
    data = X.min(axis=0), X.max(axis=0)
    return np.where(np.isfinite(low), low, data[0]), np.where(
        np.isfinite(high), high, data[1]
    )
