"""Clients who attack nobody, as functions from rows left to what they ask."""

from collections.abc import Callable

import numpy as np

Asked = tuple[np.ndarray, np.ndarray]


def shuffled(rows: np.ndarray, n: int, rng: np.random.Generator) -> Asked:
    """Ask about one row after the other."""
    return rows[:n], rows[n:]


def near_duplicates(rows: np.ndarray, n: int, rng: np.random.Generator) -> Asked:
    """Ask about each row in 16 variants: another brightness, one level of noise."""
    some = np.repeat(rows[: n // 16], 16, axis=0)
    gain = rng.uniform(0.97, 1.03, (len(some), *[1] * (some.ndim - 1)))
    level = rng.integers(-1, 2, some.shape) / 255
    return np.clip(some * gain + level, 0, 1).astype(np.float32), rows[n // 16 :]


def retries(rows: np.ndarray, n: int, rng: np.random.Generator) -> Asked:
    """Ask about each row four times."""
    return np.repeat(rows[: n // 4], 4, axis=0), rows[n // 4 :]


def _masked(row: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Set cells of a grid of 4 x 4 to the mean of the row, one variant a mask."""
    height, width = row.shape[:2]
    cells = np.arange(height)[:, None] * 4 // height * 4 + np.arange(width) * 4 // width
    shown = kept[:, cells]
    if row.ndim == 3:
        shown = shown[..., None]
    return np.where(shown, row, row.mean()).astype(np.float32)


def lime(rows: np.ndarray, n: int, rng: np.random.Generator) -> Asked:
    """Explain one row by masks at random."""
    return _masked(rows[0], rng.random((n, 16)) < 0.5), rows[1:]


def kernelshap(rows: np.ndarray, n: int, rng: np.random.Generator) -> Asked:
    """Explain one row by coalitions, of sizes by the weight of Shapley's kernel."""
    sizes = np.arange(1, 16)
    weight = 1 / (sizes * (16 - sizes))
    drawn = rng.choice(sizes, n, p=weight / weight.sum())
    ranks = rng.permuted(np.tile(np.arange(16), (n, 1)), axis=1)
    return _masked(rows[0], ranks < drawn[:, None]), rows[1:]


CLIENTS: dict[str, Callable[[np.ndarray, int, np.random.Generator], Asked]] = {
    "shuffled": shuffled,
    "near-duplicates": near_duplicates,
    "lime": lime,
    "kernelshap": kernelshap,
    "retries": retries,
}
