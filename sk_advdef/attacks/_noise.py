"""Random changes: the attacker who knows nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from sk_advdef._validation import check_number, seed_from
from sk_advdef.attacks._base import Attack, Problem
from sk_advdef.attacks._geometry import random_in_ball


class Noise(Attack):
    """Uniform noise in the ball, a few draws a row: what chance does."""

    _knows = "nothing"

    def __init__(
        self,
        eps: Any,
        *,
        draws: int = 5,
        norm: str = "linf",
        bounds: Any = (0.0, 1.0),
        random_state: Any = None,
        targeted: bool = False,
        space: Any = None,
    ) -> None:
        self.eps = eps
        self.draws = draws
        self.norm = norm
        self.bounds = bounds
        self.random_state = random_state
        self.targeted = targeted
        self.space = space

    def _search(
        self, problem: Problem, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        draws = check_number(self, "draws", self.draws, integer=True, low=1)
        seed = seed_from(self.random_state)
        values = problem.X[rows].copy()
        fooled = np.zeros(len(rows), dtype=bool)
        n_queries = np.ones(len(rows), dtype=np.int64)
        for draw in range(draws):
            rng = np.random.default_rng([seed, draw])
            noise = random_in_ball(rng, problem.X.shape, problem.norm)
            left = np.flatnonzero(~fooled)
            if not len(left):
                break
            part = rows[left]
            noisy = problem.X[part] + problem.eps * noise[part]
            tried = problem.settle(noisy, part)
            values[left] = tried
            fooled[left] = problem.is_fooled(tried, part)
            n_queries[left] += 1
        return values, fooled, n_queries
