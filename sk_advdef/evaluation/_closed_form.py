"""The largest harm to a linear model within ball and box, in closed form."""

from __future__ import annotations

import numpy as np

#: Halvings of the interval that holds the multiplier of the L2 ball.
HALVINGS = 60


def worst_shift(
    weight: np.ndarray, down: np.ndarray, up: np.ndarray, eps: np.ndarray, norm: str
) -> np.ndarray:
    """Lower bound of ``weight @ delta`` over a ball and a box, a value a row.

    For Linf this is the dual norm of the weights within the box, and exact; for L2 it
    is the dual problem, whose every value is a lower bound and whose best is exact.

    Parameters
    ----------
    weight : ndarray of shape (n_features,)
        Difference of the weights of two classes.
    down, up : ndarray of shape (n_samples, n_features)
        How far each feature may fall (at most 0) and rise, within the Linf ball of
        ``eps`` too.
    eps : ndarray
        Radius, a scalar or one a feature.
    norm : {"linf", "l2"}
        Norm of the ball.
    """
    if norm == "linf":
        return np.where(weight > 0, down, up) @ weight
    # in units of eps, so that the ball is the unit ball
    scale = np.broadcast_to(eps, weight.shape)
    inside = np.where(scale > 0, scale, 1.0)
    slope, down, up = weight * scale, down / inside, up / inside
    length = float(np.linalg.norm(slope))
    if length == 0:
        return np.zeros(len(down))
    # without a box the multiplier is the length; a box only shortens the step
    low, high = np.full(len(down), 1e-9 * length), np.full(len(down), length)
    for _ in range(HALVINGS):
        middle = np.sqrt(low * high)
        steps = np.clip(-slope / middle[:, None], down, up)
        outside = (steps**2).sum(axis=1) > 1
        low, high = np.where(outside, middle, low), np.where(outside, high, middle)
    found = [_dual(slope, down, up, multiplier) for multiplier in (low, high)]
    return np.maximum(*found)


def _dual(
    slope: np.ndarray, down: np.ndarray, up: np.ndarray, multiplier: np.ndarray
) -> np.ndarray:
    steps = np.clip(-slope / multiplier[:, None], down, up)
    return steps @ slope + multiplier / 2 * ((steps**2).sum(axis=1) - 1)


def linear_margins(
    weight: np.ndarray,
    bias: np.ndarray,
    X: np.ndarray,
    ends: tuple[np.ndarray, np.ndarray],
    columns: np.ndarray,
    rounding: np.ndarray,
    *,
    eps: np.ndarray,
    norm: str,
) -> np.ndarray:
    """Lower bounds of the lead of a class over all others, anywhere in ball and box.

    ``rounding`` is the largest error of each score, shape (n_samples, n_classes).
    """
    down, up = np.minimum(ends[0] - X, 0), np.maximum(ends[1] - X, 0)
    scores = X @ weight.T + bias
    margins = np.full(len(X), np.inf)
    for column in np.unique(columns):
        rows = np.flatnonzero(columns == column)
        for other in range(len(weight)):
            if other == column:
                continue
            lead = scores[rows, column] - scores[rows, other]
            slope = weight[column] - weight[other]
            lead = lead + worst_shift(slope, down[rows], up[rows], eps, norm)
            error = rounding[rows, column] + rounding[rows, other]
            margins[rows] = np.minimum(margins[rows], lead - 2 * error)
    return margins
