"""Class probabilities that say less. The winner stays the winner, rows sum to one."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np


def one_hot(winners: np.ndarray, n_classes: int) -> np.ndarray:
    """Return probability one for the winner of each row."""
    return np.eye(n_classes)[winners]


def led_by(proba: np.ndarray, winners: np.ndarray) -> np.ndarray:
    """Make the winner's probability the largest of its row, with no tie.

    ``predict`` of a model need not follow its ``predict_proba``, as with SVC, and
    breaks ties in its own way. Where another class leads, the two change places; a tie
    is broken by a few units of rounding.
    """
    proba = np.array(proba)
    rows = np.arange(len(proba))
    best = proba.argmax(axis=1)
    proba[rows, best], proba[rows, winners] = (
        proba[rows, winners],
        proba[rows, best].copy(),
    )
    others = proba.copy()
    others[rows, winners] = -1
    tied = others.max(axis=1) >= proba[rows, winners]
    extra = np.where(tied, 4 * np.finfo(proba.dtype).eps, 0).astype(proba.dtype)
    proba *= (1 - extra)[:, None]
    proba[rows, winners] += extra
    return proba


def only_top(proba: np.ndarray, winners: np.ndarray) -> np.ndarray:
    """Keep the winner's probability, and spread what is left evenly."""
    n, k = proba.shape
    rows = np.arange(n)
    top = np.maximum(proba.max(axis=1), 1 / k)
    left = (1 - top) / max(k - 1, 1)
    spread = np.broadcast_to(left[:, None], (n, k)).astype(proba.dtype)
    spread[rows, winners] = top
    return led_by(spread, winners)


def rounded(proba: np.ndarray, winners: np.ndarray, decimals: int) -> np.ndarray:
    """Round to so many decimals by largest remainders, so that rows sum to one."""
    units = 10**decimals
    proba = led_by(proba, winners)
    rows = np.arange(len(proba))
    exact = np.asarray(proba, dtype=np.float64)
    exact = exact / exact.sum(axis=1, keepdims=True) * units
    counts = np.floor(exact)
    missing = np.rint(units - counts.sum(axis=1)).astype(int)
    # the winner first among equals
    order = exact - counts
    order[rows, winners] += 1e-9
    rank = np.argsort(np.argsort(-order, axis=1, kind="stable"), axis=1)
    counts += rank < missing[:, None]
    others = counts.copy()
    others[rows, winners] = -1
    rival = others.argmax(axis=1)
    tied = others[rows, rival] >= counts[rows, winners]
    counts[rows[tied], winners[tied]] += 1
    counts[rows[tied], rival[tied]] -= 1
    return (counts / units).astype(proba.dtype)


def noisy(
    proba: np.ndarray,
    winners: np.ndarray,
    X: np.ndarray,
    *,
    scale: float,
    cell_size: float,
    key: bytes,
) -> np.ndarray:
    """Add Gaussian noise to the log-probabilities, one draw a cell of the input space.

    All inputs of a cell get the same noise, so that asking again tells nothing new.
    """
    cells = np.floor(
        np.clip(np.nan_to_num(X.reshape(len(X), -1) / cell_size), -1e18, 1e18)
    ).astype(np.int64)
    drawn = np.empty(proba.shape)
    for row, cell in enumerate(cells):
        seed = blake2b(cell.tobytes(), key=key, digest_size=16).digest()
        philox = np.random.Philox(key=int.from_bytes(seed, "little"))
        drawn[row] = np.random.Generator(philox).normal(size=proba.shape[1])
    tiny = np.finfo(np.float64).tiny
    scores = np.log(np.maximum(np.asarray(proba, np.float64), tiny)) + scale * drawn
    spoiled = np.exp(scores - scores.max(axis=1, keepdims=True))
    spoiled /= spoiled.sum(axis=1, keepdims=True)
    return led_by(spoiled.astype(proba.dtype), winners)
