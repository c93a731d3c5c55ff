"""The latest scores of accounts, for a plot."""

from __future__ import annotations

from array import array
from collections import OrderedDict

import numpy as np


class Ring:
    """The latest times and scores, 16 bytes a pair: a tuple takes seven times that."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values = array("d")
        self._next = 0

    def add(self, time: float, score: float) -> None:
        """Add a pair, in the place of the oldest if there are too many."""
        if len(self._values) < 2 * self._most:
            self._values.extend((time, score))
            return
        at = 2 * self._next
        self._values[at], self._values[at + 1] = time, score
        self._next = (self._next + 1) % self._most

    def pairs(self) -> np.ndarray:
        """Return times and scores, oldest first, shape (n, 2)."""
        return np.roll(np.array(self._values).reshape(-1, 2), -self._next, axis=0)


class RecentScores:
    """Rings of the accounts that asked last."""

    def __init__(self, accounts: int, scores: int) -> None:
        self._accounts, self._scores = accounts, scores
        self._rings: OrderedDict[bytes, Ring] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rings)

    def add(self, account: bytes, time: float, score: float) -> None:
        """Add a score; who has asked nothing for longest may be forgotten."""
        if account not in self._rings:
            self._rings[account] = Ring(self._scores)
        self._rings.move_to_end(account)
        self._rings[account].add(time, score)
        if len(self._rings) > self._accounts:
            self._rings.popitem(last=False)

    def of(self, account: bytes) -> np.ndarray:
        """Return times and scores of an account, oldest first, shape (n, 2)."""
        ring = self._rings.get(account)
        return np.empty((0, 2)) if ring is None else ring.pairs()
