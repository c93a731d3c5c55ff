"""Columns that grow, and accounts that each keep their own share of the rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Bounds(NamedTuple):
    """What a history may hold: rows in all, rows of one account, seconds."""

    rows: int
    quota: int
    age: float


class Columns:
    """Arrays of one length that grow together."""

    def __init__(self, **kinds: type) -> None:
        self._arrays: dict[str, np.ndarray] = {
            name: np.empty(0, kind) for name, kind in kinds.items()
        }
        self.n = 0

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._arrays.values())

    def append(self, **values: object) -> int:
        """Append a row and return its position."""
        if self.n == len(next(iter(self._arrays.values()))):
            size = self.n + self.n // 4 + 1024
            for name, array in self._arrays.items():
                grown = np.empty((size, *array.shape[1:]), array.dtype)
                grown[: self.n] = array
                self._arrays[name] = grown
        for name, value in values.items():
            self._arrays[name][self.n] = value
        self.n += 1
        return self.n - 1

    def keep(self, kept: np.ndarray) -> None:
        """Keep the rows at these positions."""
        self._arrays = {name: array[kept] for name, array in self._arrays.items()}
        self.n = len(kept)


class Shares:
    """Which rows are whose, oldest first, and who has the most."""

    def __init__(self) -> None:
        self._codes: dict[bytes, int] = {}
        self._names: dict[int, bytes] = {}
        self._ends: dict[int, list[int]] = {}  # oldest row, youngest row, count
        self._of_size: dict[int, dict[int, None]] = {}
        self._largest = 0
        self._next_code = 0

    def __len__(self) -> int:
        return len(self._ends)

    def code(self, account: bytes) -> int:
        """Return the number of an account, or -1 if it has no rows."""
        return self._codes.get(account, -1)

    def count(self, account: bytes) -> int:
        """Return how many rows an account has."""
        ends = self._ends.get(self.code(account))
        return ends[2] if ends else 0

    def add(self, account: bytes) -> int:
        """Return the number of an account that is about to get a row."""
        if account not in self._codes:
            self._codes[account] = self._next_code
            self._names[self._next_code] = account
            self._next_code += 1
        return self._codes[account]

    def link(self, code: int, position: int, following: np.ndarray) -> None:
        """Put a row at the young end of its account."""
        following[position] = -1
        if code not in self._ends:
            self._ends[code] = [position, position, 1]
        else:
            ends = self._ends[code]
            following[ends[1]] = position
            self._unlist(code, ends[2])
            ends[1], ends[2] = position, ends[2] + 1
        self._list(code, self._ends[code][2])

    def drop_oldest(self, code: int, following: np.ndarray) -> int:
        """Take the oldest row from an account and return its position."""
        ends = self._ends[code]
        position = ends[0]
        self._unlist(code, ends[2])
        ends[0], ends[2] = int(following[position]), ends[2] - 1
        if ends[2]:
            self._list(code, ends[2])
        else:
            del self._ends[code]
            del self._codes[self._names.pop(code)]
        return position

    def largest(self) -> int:
        """Return an account that has the most rows."""
        while self._largest not in self._of_size:
            self._largest -= 1
        return next(iter(self._of_size[self._largest]))

    def renumber(self, new_of: np.ndarray) -> None:
        """Give positions new numbers."""
        for ends in self._ends.values():
            ends[0], ends[1] = int(new_of[ends[0]]), int(new_of[ends[1]])

    def _list(self, code: int, size: int) -> None:
        self._of_size.setdefault(size, {})[code] = None
        self._largest = max(self._largest, size)

    def _unlist(self, code: int, size: int) -> None:
        same = self._of_size[size]
        del same[code]
        if not same:
            del self._of_size[size]
