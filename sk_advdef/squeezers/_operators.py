"""Linear operators along one axis: Gaussian smoothing and area averaging."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from scipy import sparse

from sk_advdef._images import permute

#: Up to this length a dense product is faster than a sparse one.
LONGEST_DENSE_AXIS = 128


def gaussian_matrix(length: int, sigma: float, truncate: float = 4.0) -> Any:
    """Smooth an axis with a Gaussian, borders reflected (d c b a | a b c d | d c b a).

    The weights and the border are those of :func:`scipy.ndimage.gaussian_filter`.
    """
    if sigma == 0 or length == 1:
        return _compact(sparse.identity(length, format="csr"))
    radius = int(truncate * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    # Offsets a period apart meet the same pixel: a wide kernel folds into one period.
    folded = np.bincount(offsets % (2 * length), weights)
    offsets = np.flatnonzero(folded)
    weights = folded[offsets]
    rows = np.repeat(np.arange(length), len(offsets))
    columns = (np.arange(length)[:, None] + offsets).ravel() % (2 * length)
    columns = np.where(columns < length, columns, 2 * length - 1 - columns)
    matrix = sparse.coo_matrix(
        (np.tile(weights, length), (rows, columns)), shape=(length, length)
    )
    return _compact(matrix.tocsr())


def area_matrix(length: int, new_length: int) -> Any:
    """Resize an axis by area: each new cell is the mean of what it covers."""
    edges = np.arange(new_length + 1) * (length / new_length)
    edges[-1] = length
    rows, columns, weights = [], [], []
    for cell, (start, stop) in enumerate(pairwise(edges)):
        pixels = np.arange(int(start), min(length, int(np.ceil(stop))))
        overlap = np.minimum(pixels + 1, stop) - np.maximum(pixels, start)
        rows.append(np.full(len(pixels), cell))
        columns.append(pixels)
        weights.append(overlap / overlap.sum())
    matrix = sparse.coo_matrix(
        (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))),
        shape=(new_length, length),
    )
    return _compact(matrix.tocsr())


def _compact(matrix: Any) -> Any:
    return matrix.toarray() if max(matrix.shape) <= LONGEST_DENSE_AXIS else matrix


def apply_along(matrix: Any, images: Any, axis: int) -> Any:
    """Apply ``matrix`` along axis 1 or 2 of (n, height, width, channels).

    Works on NumPy arrays (dense or scipy.sparse ``matrix``) and torch tensors alike.
    """
    n, height, width, channels = images.shape
    new = matrix.shape[0]
    if _is_sparse(matrix):
        front = (axis, *(a for a in range(4) if a != axis))
        moved = permute(images, front)
        rest = tuple(moved.shape[1:])
        result = (matrix @ moved.reshape((moved.shape[0], -1))).reshape((new, *rest))
        back = tuple(int(i) for i in np.argsort(front))
        return permute(result, back)
    if axis == 1:
        flat = images.reshape((n, height, width * channels))
        return (matrix @ flat).reshape((n, new, width, channels))
    if channels == 1:
        flat = images.reshape((n * height, width))
        return (flat @ matrix.T).reshape((n, height, new, 1))
    flat = images.reshape((n * height, width, channels))
    return (matrix @ flat).reshape((n, height, new, channels))


def _is_sparse(matrix: Any) -> bool:
    return sparse.issparse(matrix) or bool(getattr(matrix, "is_sparse", False))
