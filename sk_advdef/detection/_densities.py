"""Densities of hidden features: how near a row is to genuine rows of a class.

Features are float64 rows, classes are positions. Every score is higher for rows that
are nearer to what the density was fitted on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp
from sklearn.covariance import ledoit_wolf_shrinkage

#: Distances that are held at a time.
DISTANCES_AT_A_TIME = 2**22

#: Rows of a class that the bandwidth is chosen from.
ROWS_FOR_BANDWIDTH = 1000

#: Variances below this part of the largest are rounding of float32 features.
SMALLEST_VARIANCE = 1e-10


class Neighborhood(NamedTuple):
    """Rows by class, less ``center``: those of class ``k`` stand at its two bounds.

    A class without rows is that of all rows.
    """

    center: np.ndarray
    rows: np.ndarray
    bounds: np.ndarray

    def of(self, k: int) -> np.ndarray:
        """Return the rows of a class."""
        start, stop = self.bounds[k]
        return self.rows[start:stop]


class Gaussian(NamedTuple):
    """Means of shape (n_means, n_features), and a map to features of unit variance."""

    means: np.ndarray
    whiten: np.ndarray


def neighborhood(features: np.ndarray, codes: np.ndarray, n_classes: int) -> Any:
    """Sort rows by class."""
    center = features.mean(axis=0)
    order = np.argsort(codes, kind="stable")
    stops = np.searchsorted(codes[order], np.arange(n_classes), side="right")
    starts = np.r_[0, stops[:-1]]
    empty = starts == stops
    bounds = np.stack([starts, stops], axis=1)
    bounds[empty] = 0, len(codes)
    return Neighborhood(center, features[order] - center, bounds)


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances, shape (len(a), len(b))."""
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * (a @ b.T)
    return np.maximum(squares, 0)


def _by_class(
    near: Neighborhood,
    features: np.ndarray,
    predicted: np.ndarray,
    score: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Score each row by its squared distances to the rows of its predicted class."""
    found = np.empty(len(features))
    features = features - near.center
    for k in np.unique(predicted):
        rows = near.of(k)
        mine = np.flatnonzero(predicted == k)
        size = max(1, DISTANCES_AT_A_TIME // len(rows))
        for first in range(0, len(mine), size):
            part = mine[first : first + size]
            found[part] = score(squared_distances(features[part], rows))
    return found


def _left_out(near: Neighborhood, limit: int | None = None) -> Iterator[np.ndarray]:
    """Squared distances within each class of two rows or more, inf to itself."""
    spans = np.unique(near.bounds, axis=0)
    of_some = spans[:, 1] - spans[:, 0] < len(near.rows)
    if of_some.any():  # else there is one class
        spans = spans[of_some]
    for start, stop in spans:
        rows = near.rows[start:stop]
        if limit is not None and len(rows) > limit:
            rows = rows[np.linspace(0, len(rows) - 1, limit).astype(int)]
        if len(rows) < 2:
            continue
        size = max(1, DISTANCES_AT_A_TIME // len(rows))
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            squares = squared_distances(part, rows)
            at = np.arange(len(part))
            squares[at, first + at] = np.inf
            yield squares


# --- kernel density


def default_bandwidth(near: Neighborhood) -> float:
    """Half the median distance of a row to the nearest other row of its class.

    Where rows repeat, of those that do not.
    """
    nearest = [s.min(axis=1) for s in _left_out(near, ROWS_FOR_BANDWIDTH)]
    squares = np.concatenate([*nearest, [0.0]])
    scale = float((near.rows**2).sum(axis=1).max(initial=0.0))
    apart = squares[squares > 1e-12 * scale]
    if len(apart):
        return float(np.sqrt(np.median(apart))) / 2
    # a row a class, or all the same: as far as the rows are from their mean
    spread = float(np.sqrt((near.rows**2).sum(axis=1).mean()))
    return spread if spread > 0 else 1.0


def _log_mean_kernel(squares: np.ndarray, bandwidth: float, count: int) -> np.ndarray:
    with np.errstate(over="ignore"):  # beyond all numbers is as far as can be
        exponents = squares / bandwidth / bandwidth / -2
    return logsumexp(exponents, axis=1) - np.log(count)


def log_normalizer(bandwidth: float, n_features: int) -> float:
    """Log of the integral of the Gaussian kernel."""
    return n_features * (np.log(bandwidth) + np.log(2 * np.pi) / 2)


def log_kernel_density(
    near: Neighborhood, bandwidth: float, features: np.ndarray, predicted: np.ndarray
) -> np.ndarray:
    """Log-density of each row under the rows of its predicted class."""
    rest = log_normalizer(bandwidth, features.shape[1])
    return _by_class(
        near,
        features,
        predicted,
        lambda squares: _log_mean_kernel(squares, bandwidth, squares.shape[1]) - rest,
    )


def left_out_log_density(near: Neighborhood, bandwidth: float) -> np.ndarray:
    """Log-density of rows fitted on, each left out of its own class."""
    rest = log_normalizer(bandwidth, near.rows.shape[1])
    found = [
        _log_mean_kernel(squares, bandwidth, squares.shape[1] - 1) - rest
        for squares in _left_out(near, ROWS_FOR_BANDWIDTH)
    ]
    return np.concatenate([*found, []])


# --- nearest neighbors


def kth_distance(squares: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Distance to the nearest row of that rank, or to the farthest if there are few."""
    k = min(n_neighbors, squares.shape[1]) - 1
    return np.sqrt(np.partition(squares, k, axis=1)[:, k])


def neighbor_score(
    near: Neighborhood, n_neighbors: int, features: np.ndarray, predicted: np.ndarray
) -> np.ndarray:
    """Minus the distance to the k-th nearest row of the predicted class."""
    return _by_class(
        near, features, predicted, lambda squares: -kth_distance(squares, n_neighbors)
    )


def left_out_neighbor_score(near: Neighborhood, n_neighbors: int) -> np.ndarray:
    """Score of rows fitted on, each left out of its own class."""
    found = [
        -kth_distance(squares, min(n_neighbors, squares.shape[1] - 1))
        for squares in _left_out(near, ROWS_FOR_BANDWIDTH)
    ]
    return np.concatenate([*found, []])


# --- Gaussians


def shared_gaussian(
    features: np.ndarray, codes: np.ndarray, shrinkage: Any = "auto"
) -> Gaussian:
    """Fit a mean for each class that has rows, and one covariance for all."""
    present = np.unique(codes)
    means = np.stack([features[codes == k].mean(axis=0) for k in present])
    away = features - means[np.searchsorted(present, codes)]
    return Gaussian(means, _whitening(away, shrinkage))


def _whitening(away: np.ndarray, shrinkage: Any) -> np.ndarray:
    """Inverse root of the covariance of rows of mean zero, shrunk to a sphere."""
    n_samples, n_features = away.shape
    scale = np.abs(away).max(initial=0.0)
    if scale == 0:
        return np.eye(n_features)
    unit = away / scale
    if shrinkage == "auto":
        shrinkage = 1.0
        if n_samples > 1:
            shrinkage = ledoit_wolf_shrinkage(unit, assume_centered=True)
    values, vectors = np.linalg.eigh(unit.T @ unit / n_samples)
    values = np.maximum(values, 0)
    values = (1 - shrinkage) * values + shrinkage * values.mean()
    # no direction is so thin that what rounding leaves in it counts
    values = np.maximum(values, SMALLEST_VARIANCE * values.max())
    return vectors / np.sqrt(values) / scale


def mahalanobis(gaussian: Gaussian, features: np.ndarray) -> np.ndarray:
    """Squared distances to each mean, shape (n_samples, n_means)."""
    center = gaussian.means[0]
    means = (gaussian.means - center) @ gaussian.whiten
    found = np.empty((len(features), len(means)))
    size = max(1, DISTANCES_AT_A_TIME // means.size)
    for first in range(0, len(features), size):
        part = (features[first : first + size] - center) @ gaussian.whiten
        found[first : first + size] = ((part[:, None] - means) ** 2).sum(axis=2)
    return found


def mahalanobis_score(
    gaussian: Gaussian, background: Gaussian | None, features: np.ndarray
) -> np.ndarray:
    """Minus the distance to the nearest class, less that to all rows together."""
    nearest = mahalanobis(gaussian, features).min(axis=1)
    if background is None:
        return -nearest
    return mahalanobis(background, features)[:, 0] - nearest
