"""Scores of genuine rows among themselves, for thresholds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sk_advdef.concealment._columns import Bounds
from sk_advdef.concealment._history import History, Query
from sk_advdef.concealment._matching import Families
from sk_advdef.concealment._postings import Postings
from sk_advdef.concealment._sketch import Sketcher

#: Rows whose distances are held at once.
BLOCK = 512
#: Rows that decide on a window; more would only take longer.
FOR_WINDOW = 1000


def neighbor_scores(
    vectors: np.ndarray, digests: np.ndarray, past: np.ndarray, k: int
) -> tuple[np.ndarray, float]:
    """Return the mean distance of each row to its k nearest, and a far distance.

    A row is not its own neighbor, and identical rows are none of each other. The far
    distance is the median of that to the k-th neighbor; it stands for those that are
    missing.
    """
    nearest = np.full((len(vectors), k), np.inf)
    for start in range(0, len(vectors), BLOCK):
        block = slice(start, start + BLOCK)
        apart = _distances(vectors[block], vectors[past])
        apart[digests[block, None] == digests[None, past]] = np.inf
        some = min(k, apart.shape[1])
        nearest[block, :some] = np.sort(np.partition(apart, some - 1)[:, :some])
    found = nearest[np.isfinite(nearest).any(axis=1)]
    if not len(found):
        return np.ones(len(vectors)), 1.0
    last = np.where(np.isfinite(found), found, -np.inf).max(axis=1)
    far = float(np.median(last)) or 1.0
    return np.minimum(nearest, far).mean(axis=1), far


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0))


def family_scores(
    vectors: np.ndarray, digests: np.ndarray, order: np.ndarray, size: int, k: int
) -> tuple[np.ndarray, float]:
    """Return scores of rows as they come in after a history, and a far distance.

    The graph of predecessors depends on the order in which rows come, so the rows are
    remembered one by one, the first of them without a score.
    """
    far = neighbor_scores(vectors, digests, order, 1)[1]
    bounds = Bounds(rows=len(vectors), quota=len(vectors), age=np.inf)
    history = History(Families(vectors.shape[1], k, far, "shared"), bounds)
    scores = [
        history.observe(Query(b"", 0.0, int(digests[row]), vectors[row])).score
        for row in order
    ]
    return np.array(scores[size:]), far


def sketch_scores(
    sketches: list[np.ndarray], digests: np.ndarray, past: np.ndarray, size: int
) -> np.ndarray:
    """Return one minus the share of tokens in common with the likest other row."""
    index, alive = Postings(), np.ones(len(past), dtype=bool)
    for position, row in enumerate(past):
        index.add(position, sketches[row], alive)
    scores = np.ones(len(sketches))
    for row, tokens in enumerate(sketches):
        at, counts = index.matches(tokens)
        counts = counts[digests[past[at]] != digests[row]]
        if counts.size:
            scores[row] = 1 - counts.max() / max(len(tokens), size // 2)
    return scores


def windows_to_try(n_values: int) -> list[int]:
    """Return lengths of windows, the shortest first."""
    longest = max(1, n_values // 3)
    return [w for w in (8, 20, 50) if w <= longest] or [longest]


def chosen_window(
    make: Callable[[int], Sketcher],
    rows: np.ndarray,
    digests: np.ndarray,
    size: int,
    rate: float,
) -> int:
    """Return the length of a window.

    The shortest one notices the most. It is long enough where genuine rows, at the rate
    of false alarms, have no more than half of their tokens in common.
    """
    rows, digests = rows[:FOR_WINDOW], digests[:FOR_WINDOW]
    past = np.arange(len(rows))
    for window in windows_to_try(rows.shape[1]):
        sketcher = make(window)
        scores = sketch_scores([sketcher(row) for row in rows], digests, past, size)
        if np.quantile(scores, rate, method="lower") >= 0.5:
            break
    return window
