"""Is an attack strong enough? Plant adversarial examples, and see if it finds them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples

from sk_advdef._progress import progress
from sk_advdef._torch._models import (
    class_scores,
    has_scores,
    rejection_of,
    torch_generators_kept,
)
from sk_advdef._torch._registry import as_module, build, has_view, missing_view
from sk_advdef._validation import check_model, check_number, seed_from
from sk_advdef.attacks._base import Attack, Problem, space_of
from sk_advdef.attacks._geometry import NORMS, lengths, random_in_ball
from sk_advdef.attacks._noise import Noise
from sk_advdef.attacks._table import Table, as_rows
from sk_advdef.evaluation._strength_report import StrengthReport

#: Radius, in parts of eps, of the ball that harmless points are drawn from.
INNER = 0.95
#: Weight of the identity in the covariance of the harmless points' scores.
RIDGE = 1e-4


class Readout(NamedTuple):
    """A linear function of scores: above 0 where the planted example is."""

    weight: np.ndarray
    bias: float


class PlantedClassifier(ClassifierMixin, BaseEstimator):
    """The scores of a model, read out by a line that makes two classes of them."""

    def __init__(self, model: Any, scores: Any, readout: Readout) -> None:
        self.model, self.scores, self.readout = model, scores, readout
        self.classes_ = np.array([0, 1])

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the readout."""
        scores = self.scores(X)
        return scores @ self.readout.weight + self.readout.bias

    def predict(self, X: Any) -> np.ndarray:
        """Return 1 where the readout is above 0."""
        return (self.decision_function(X) > 0).astype(int)

    def _missing_view(self) -> Any:
        return missing_view(self.model)

    def _as_module(self) -> Any:
        from torch import nn

        from sk_advdef._torch._blocks import Affine, TwoColumns

        readout = Affine(self.readout.weight[:, None], [self.readout.bias])
        return nn.Sequential(build(self.model), readout, TwoColumns())


def attack_strength_test(
    estimator: Any,
    attack: Any,
    X: Any,
    *,
    eps: Any = None,
    n_rows: int = 50,
    n_inner: int = 200,
    n_boundary: int = 50,
    n_random: int = 200,
    random_state: Any = None,
    verbose: int = 0,
) -> StrengthReport:
    """Plant an adversarial example in the ball around each row, and let attacks look.

    An attack that fails says nothing unless it is known that there was something to
    find. Here there is, by construction: the binarization test [1]_ keeps the model and
    replaces its last decision, row by row, by a linear readout of its scores that takes
    the row and nearly all of the ball for one class and a planted point for another. An
    attack that cannot find it is too weak for this model, and what it leaves on the
    model itself is no figure to quote.

    Parameters
    ----------
    estimator : estimator
        A fitted classifier. Of one that rejects, the classifier inside is tested.
    attack : attack
        An attack of this package, untargeted or targeted, with ``norm`` "linf" or "l2".
    X : array-like or DataFrame of shape (n_samples, n_features), or stacked images
        Rows inside the attack's bounds. Labels are not needed.
    eps : float, array of floats or None, default=None
        Radius of the ball; None takes that of the attack. An attack without one, such
        as one that looks for the smallest change, succeeds if its change is within eps.
    n_rows : int, default=50
        Number of rows to use at most, drawn at random, at least 1.
    n_inner : int, default=200
        Harmless points drawn from 0.95 of the ball for each row, at least 2.
    n_boundary : int, default=50
        Points drawn from the surface of the ball, corners of the cube for "linf", at
        least 1. The one that the scores tell best from harmless ones is planted.
    n_random : int, default=200
        Points, drawn from all of the ball, of the random search to compare with.
    random_state : int, RandomState instance or None, default=None
        Seeds the choice of rows and all points.
    verbose : int, default=0
        1 shows a progress bar.

    Returns
    -------
    report : StrengthReport
        The share of planted rows that the attack took, ``success_rate``, beside that of
        random sampling; ``passed`` from 95 % on.

    Raises
    ------
    TypeError
        If ``attack`` is no attack, or the estimator gives neither a view nor scores.
    ValueError
        If no eps is known, or the attack has a space or another norm.

    See Also
    --------
    diagnose_defense : Signs that attacks fail, on the model as it is.

    Notes
    -----
    Scores are those of the differentiable view, so that the planted model has the
    gradient of the defence with its faults; where there is no view, the estimator's own
    class scores (then for attacks that only ask). The readout is Fisher's linear
    discriminant between the planted point and the harmless ones, with the threshold
    midway between the planted point and the highest of them. It is scaled so that the
    row is as sure of its class as it is in the model itself: where the model saturates
    the cross-entropy, the planted one does.

    In [1]_ the readout is of the features of the last hidden layer and trained by
    logistic regression; scores are what every classifier has. They are fewer, so that
    in some rows no point of the surface stands apart: these are left out and counted.
    A model with flat scores, as rounding makes them, has nothing to plant in.

    The test is necessary, not sufficient: a planted example is easier to find than most
    of the model's own.

    References
    ----------
    .. [1] R. S. Zimmermann, W. Brendel, F. Tramer, N. Carlini, "Increasing Confidence
       in Adversarial Robustness Evaluations", NeurIPS 2022, arXiv:2206.13991.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sk_advdef import PGD, attack_strength_test
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X, y)
    >>> attack = PGD(eps=0.5, bounds=None, random_state=0)
    >>> attack_strength_test(model, attack, X[::10], random_state=0).success_rate
    1.0
    >>> attack = PGD(eps=0.5, steps=1, step_size=0.01, bounds=None, random_state=0)
    >>> attack_strength_test(model, attack, X[::10], random_state=0).passed
    False
    """
    for name, value, low in (
        ("n_rows", n_rows, 1),
        ("n_inner", n_inner, 2),
        ("n_boundary", n_boundary, 1),
        ("n_random", n_random, 1),
    ):
        check_number("attack_strength_test", name, value, integer=True, low=low)
    check_model("attack_strength_test", estimator)
    X = as_rows(X)
    ball = _ball_of(attack, eps)
    rejects = rejection_of(estimator)
    model = estimator if rejects is None else rejects[0]
    with torch_generators_kept():
        scores = _scores_of(model)
    seed = seed_from(random_state)
    at = np.arange(_num_samples(X))
    if len(at) > n_rows:
        at = np.sort(np.random.default_rng(seed).permutation(len(at))[:n_rows])
    X = _safe_indexing(X, at)
    sizes = n_inner, n_boundary, n_random
    found, random = [], []
    with torch_generators_kept():
        bar = progress("attack_strength_test", verbose, range(len(at)), desc="rows")
        for number in bar:
            row = _safe_indexing(X, [number])
            rng = np.random.default_rng([seed, number])
            planted = _plant(model, scores, ball, row, rng, sizes)
            if planted is None:
                continue
            classifier, drawn = planted
            random.append(bool((classifier.predict(drawn) == 1).any()))
            result = attack.run(classifier, row, [1 if attack.targeted else 0])
            near = _is_within(result.X_adv, row, ball)
            found.append(bool(result.fooled[0]) and near)
    return StrengthReport(
        float(np.mean(found)) if found else np.nan,
        float(np.mean(random)) if random else np.nan,
        len(found),
        len(at) - len(found),
        repr(attack),
    )


def _ball_of(attack: Any, eps: Any) -> Noise:
    """Return the ball to plant in, as the settings of an attack."""
    if not isinstance(attack, Attack):
        raise TypeError(f"attack must be an attack of this package. Got {attack!r}.")
    if space_of(attack) is not None:
        raise ValueError("attack_strength_test knows balls only. Set space=None.")
    if attack.norm not in NORMS:
        raise ValueError(
            "attack_strength_test plants in balls of norm 'linf' or 'l2'. Got an "
            f"attack of norm {attack.norm!r}."
        )
    eps = getattr(attack, "eps", None) if eps is None else eps
    if eps is None:
        raise ValueError(
            f"{type(attack).__name__} has no eps: pass eps, the radius within which "
            "its change is to be."
        )
    return Noise(eps, norm=attack.norm, bounds=attack.bounds)


def _scores_of(model: Any) -> Any:
    """Return the function from rows to scores that is read out."""
    if has_view(model):
        import torch

        view = as_module(model)

        def by_view(X: Any) -> np.ndarray:
            with torch.no_grad():
                return view(torch.tensor(Table(X).values)).numpy().astype(np.float64)

        return by_view
    if not has_scores(model):
        raise TypeError(
            f"{model!r} has neither a differentiable view nor class scores."
        )

    def by_asking(X: Any) -> np.ndarray:
        return class_scores(model, X)

    return by_asking


def _plant(
    model: Any,
    scores: Any,
    ball: Noise,
    row: Any,
    rng: np.random.Generator,
    sizes: tuple[int, int, int],
) -> tuple[PlantedClassifier, Any] | None:
    """Make the model for one row, and random points to try; None if none fits."""
    n_inner, n_boundary, n_random = sizes
    many = _safe_indexing(row, np.zeros(1 + sum(sizes), dtype=int))
    problem = Problem(clone(ball), model, many, None)
    shape = problem.X.shape[1:]
    inner = INNER * random_in_ball(rng, (n_inner, *shape), ball.norm)
    surface = rng.standard_normal((n_boundary, *shape))
    if ball.norm == "linf":
        surface = np.sign(surface)
    else:
        surface /= lengths(surface, "l2").reshape(-1, *(1,) * len(shape))
    chance = random_in_ball(rng, (n_random, *shape), ball.norm)
    units = np.concatenate([np.zeros((1, *shape)), inner, surface, chance])
    points = problem.settle(problem.X + problem.eps * units)
    rows = np.arange(len(points))
    split = 1 + n_inner + n_boundary
    seen = scores(problem.table.restore(points[:split], rows[:split]))
    readout = fit_readout(seen, n_boundary)
    if readout is None:
        return None
    drawn = problem.table.restore(points[split:], rows[split:])
    return PlantedClassifier(model, scores, readout), drawn


def fit_readout(scores: np.ndarray, n_boundary: int) -> Readout | None:
    """Separate the best of the last ``n_boundary`` rows of scores from those before.

    The first row is the row itself: the readout of it is made as far below 0 as its
    first score is above its second. None where no such line tells a point apart.
    """
    centered = scores - scores.mean(axis=1, keepdims=True)
    inner, surface = centered[:-n_boundary], centered[-n_boundary:]
    mean = inner.mean(axis=0)
    spread = np.cov(inner, rowvar=False)
    scale = float(np.trace(spread)) / len(spread)
    if not np.isfinite(scale) or scale <= 0:
        return None
    inverse = np.linalg.inv(spread / scale + RIDGE * np.eye(len(spread)))
    away = surface - mean
    chosen = int(np.einsum("ij,jk,ik->i", away, inverse, away).argmax())
    weight = inverse @ away[chosen]
    read = centered @ weight
    planted = len(inner) + chosen
    highest = read[: len(inner)].max()
    threshold = (highest + read[planted]) / 2
    below = threshold - read[0]
    # a gap lost in rounding is none
    if read[planted] - highest <= 1e-6 * np.abs(read - mean @ weight).max():
        return None
    first, second = np.sort(scores[0])[::-1][:2]
    sure = max(float(first - second), 1e-3) / below
    weight = weight - weight.mean()  # so that scores need not be centered
    return Readout(sure * weight, -sure * threshold)


def _is_within(X_adv: Any, row: Any, ball: Noise) -> bool:
    """Whether a result lies in the ball, to rounding."""
    delta = Table(X_adv).values.astype(np.float64) - Table(row).values
    eps = np.asarray(ball.eps, dtype=np.float64)
    unit = np.divide(delta, eps, out=np.zeros(delta.shape), where=eps > 0)
    outside = (delta != 0) & (eps == 0)
    return bool(lengths(unit, ball.norm)[0] <= 1 + 1e-6 and not outside.any())
