"""Rows a block at a time, so that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.utils import _safe_indexing, gen_batches
from sklearn.utils.validation import _num_samples

#: Values of the input that are looked at, or squeezed and answered, at a time.
VALUES_AT_A_TIME = 1 << 22


def blocks_of(X: Any) -> Iterator[Any]:
    """Yield the rows of ``X`` by blocks, each of the type that ``X`` is."""
    width = max(1, int(np.prod(np.shape(X)[1:])))
    for rows in gen_batches(_num_samples(X), max(1, VALUES_AT_A_TIME // width)):
        yield _safe_indexing(X, rows)
