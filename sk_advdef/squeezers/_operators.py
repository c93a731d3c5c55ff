"""Linear operators along one axis: Gaussian smoothing and area averaging."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import sparse

from sk_advdef._images import permute

#: Up to this length a dense product is faster than a sparse one.
LONGEST_DENSE_AXIS = 128


def reflected(positions: Any, length: int) -> Any:
    """Bring positions back into an axis, reflected: d c b a | a b c d | d c b a."""
    positions = positions % (2 * length)
    return np.where(positions < length, positions, 2 * length - 1 - positions)


def gaussian_matrix(length: int, sigma: float) -> Any:
    """Smooth an axis with a Gaussian, borders reflected (d c b a | a b c d | d c b a).

    The weights and the border are those of :func:`scipy.ndimage.gaussian_filter`.
    """
    if sigma == 0 or length == 1:
        return _compact(sparse.identity(length, format="csr"))
    # from here on the mean of the axis, within one part in a million
    sigma = min(sigma, 1000.0 * length)
    radius = int(4.0 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    # Offsets a period apart meet the same pixel: a wide kernel folds into one period.
    folded = np.bincount(offsets % (2 * length), weights)
    offsets = np.flatnonzero(folded)
    weights = folded[offsets]
    rows = np.repeat(np.arange(length), len(offsets))
    columns = reflected((np.arange(length)[:, None] + offsets).ravel(), length)
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


#: Outputs that are computed together: of a band they need few inputs more.
ROWS_OF_BAND = 16
COLUMNS_OF_BAND = 48

#: Values that lie between neighbors along an axis, such as channels: up to so many the
#: matrix is spread to take them all at once, while it stays as small as this.
MOST_BETWEEN = 4
LARGEST_SPREAD = 1 << 20

#: Signals go through a product so many at a time, never more or less: the order of its
#: sums may hang on the number of rows. It is the first of these for which it does not
#: hang on the place among them, which another BLAS and another CPU have otherwise.
SIGNALS = (16, 8, 4, 2, 1)


@functools.cache
def _same_anywhere(n: int, length: int, new: int, dtype: str) -> bool:
    """Whether one of ``n`` signals comes out alike at each place among them."""
    rng = np.random.default_rng(0)
    matrix = rng.random((length, new)).astype(dtype)
    signal = rng.random(length).astype(dtype)
    products = []
    for place in range(n):
        rows = rng.random((n, length)).astype(dtype)
        rows[place] = signal
        products.append(np.matmul(rows, matrix)[place])
    return bool((np.array(products) == products[0]).all())


class AxisBands:
    """A matrix along one axis of samples, cut into parts that read few inputs each.

    Parameters
    ----------
    matrix : array or sparse matrix of shape (new_length, length)
        The operator.
    shape : sequence of int
        Shape of one sample.
    axis : int
        The axis of the sample that the operator takes.
    """

    def __init__(self, matrix: Any, shape: Sequence[int], axis: int) -> None:
        matrix = sparse.csr_matrix(matrix)
        self.before = math.prod(shape[:axis])
        self.after = math.prod(shape[axis + 1 :])
        size = matrix.nnz * self.after**2
        self.from_right = self.after <= MOST_BETWEEN and size <= LARGEST_SPREAD
        if self.from_right:
            matrix = sparse.kron(matrix, sparse.identity(self.after), format="csr")
        self.shape = matrix.shape
        bands = _cut(matrix, COLUMNS_OF_BAND if self.from_right else ROWS_OF_BAND)
        if self.from_right:
            bands = [(rows, read, np.ascontiguousarray(m.T)) for rows, read, m in bands]
        self.bands = {
            dtype: [(rows, read, m.astype(dtype)) for rows, read, m in bands]
            for dtype in ("float32", "float64")
        }

    def apply(self, X: Any, out: Any = None) -> Any:
        """Apply to C-contiguous samples, to ``out`` if it is given."""
        n, (new, length) = len(X), self.shape
        if out is None:
            after = 1 if self.from_right else self.after
            out = np.empty((n, self.before * new * after), X.dtype)
        if not self.from_right:
            before = n * self.before
            self._left(
                X.reshape(before, length, self.after),
                out.reshape(before, new, self.after),
            )
        elif self.before > 1:
            self._right(
                X.reshape(n, self.before, length), out.reshape(n, self.before, new)
            )
        else:
            self._signals(X.reshape(n, length), out.reshape(n, new))
        return out

    def _left(self, X: Any, out: Any) -> None:
        for rows, read, matrix in self.bands[X.dtype.name]:
            np.matmul(matrix, X[:, read], out=out[:, rows])

    def _right(self, X: Any, out: Any) -> None:
        for rows, read, matrix in self.bands[X.dtype.name]:
            np.matmul(X[..., read], matrix, out=out[..., rows])

    def _signals(self, X: Any, out: Any) -> None:
        name = X.dtype.name
        shapes = {matrix.shape for _, _, matrix in self.bands[name]}
        signals = next(
            n
            for n in SIGNALS
            if all(_same_anywhere(n, *shape, name) for shape in shapes)
        )
        whole = len(X) - len(X) % signals
        groups = (whole // signals, signals, -1)
        if whole:
            self._right(X[:whole].reshape(groups), out[:whole].reshape(groups))
        if whole < len(X):
            few = np.zeros((signals, X.shape[1]), X.dtype)
            few[: len(X) - whole] = X[whole:]
            squeezed = np.empty((signals, out.shape[1]), X.dtype)
            self._right(few, squeezed)
            out[whole:] = squeezed[: len(X) - whole]


def _cut(matrix: Any, size: int) -> list[tuple[slice, slice, Any]]:
    """Cut into (rows, the columns that they read, dense part)."""
    bands = []
    for start in range(0, matrix.shape[0], size):
        part = matrix[start : start + size]
        read = slice(int(part.indices.min()), int(part.indices.max()) + 1)
        bands.append(
            (slice(start, start + part.shape[0]), read, part[:, read].toarray())
        )
    return bands


def nearest_bytes(X: Any) -> Any:
    """Round float64 to the nearest bytes, still as floats.

    Errors of rounding differ between batches and must not decide about a byte: ties
    are cleaned of them first.
    """
    X = np.rint(np.round(X, 6))
    return np.clip(X, 0, 255, out=X)


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
