"""Networks of minima and maxima that find the value of a given rank in a window.

Such a network compares the same pairs whatever the values are, so each of its steps
runs over all windows at once. The values of a column are sorted once for all windows
that the column lies in; sorting across the columns then leaves few values that can have
the rank, and of all comparisons only those are kept that the one value hangs on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np


class Program(NamedTuple):
    """Steps ``(is_max, a, b, target)`` on places: the inputs, then the registers."""

    steps: tuple[tuple[bool, int, int, int], ...]
    outputs: tuple[int, ...]
    n_inputs: int
    n_registers: int

    def run(self, inputs: list[Any], registers: Any) -> list[Any]:
        """Take all steps and return the outputs, views of inputs or registers."""
        places = [
            *inputs,
            *(r[: len(inputs[0])] for r in registers[: self.n_registers]),
        ]
        for is_max, a, b, target in self.steps:
            step = np.maximum if is_max else np.minimum
            step(places[a], places[b], out=places[target])
        return [places[k] for k in self.outputs]


class Selection(NamedTuple):
    """The way to one rank: sort each column, then select among sorted columns.

    ``columns`` takes the rows of a window's column; ``window`` takes, for each
    ``(rank, column)`` in ``reads``, the value of this rank in this column.
    """

    columns: Program
    window: Program
    reads: tuple[tuple[int, int], ...]

    @property
    def n_steps(self) -> int:
        """How many passes over the values it takes."""
        return len(self.columns.steps) + len(self.window.steps)


@lru_cache(maxsize=64)
def selection(height: int, width: int, rank: int) -> Selection:
    """Make the network for the value of ``rank`` (0 is the smallest) in a window."""
    comparisons = _Comparisons(height * width)
    candidates, below = [], 0
    for i in range(height):
        row = comparisons.sort(range(i * width, (i + 1) * width))
        for j, value in enumerate(row):
            # Of values sorted down and across, all up and left are not larger.
            if (height - i) * (width - j) > height * width - rank:
                below += 1
            elif (i + 1) * (j + 1) <= rank + 1:
                candidates.append(value)
    found = comparisons.sort(candidates)[rank - below]
    window, used = comparisons.program([found])
    reads = tuple(divmod(value, width) for value in used)

    ranks = sorted({r for r, _ in reads})
    comparisons = _Comparisons(height)
    column = comparisons.sort(range(height))
    columns, _ = comparisons.program([column[r] for r in ranks], keep_inputs=True)
    reads = tuple((ranks.index(r), j) for r, j in reads)
    return Selection(columns, window, reads)


def comparators(n: int) -> Iterator[tuple[int, int]]:
    """Yield the pairs that sort ``n`` values: Batcher's merge exchange.

    D. Knuth, The Art of Computer Programming 3, section 5.2.2, algorithm M.
    """
    top = 1 << max(0, (n - 1).bit_length() - 1)
    p = top if n > 1 else 0
    while p:
        q, r, d = top, 0, p
        while True:
            yield from ((i, i + d) for i in range(n - d) if i & p == r)
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2


class _Comparisons:
    """Comparisons as they are written down: each makes two new values."""

    def __init__(self, n_inputs: int) -> None:
        self.n_inputs = n_inputs
        self.pairs: list[tuple[int, int]] = []

    def sort(self, values: Iterable[int]) -> list[int]:
        values = list(values)
        for i, j in comparators(len(values)):
            new = self.n_inputs + 2 * len(self.pairs)
            self.pairs.append((values[i], values[j]))
            values[i], values[j] = new, new + 1
        return values

    def program(
        self, outputs: list[int], *, keep_inputs: bool = False
    ) -> tuple[Program, list[int]]:
        """Keep what the outputs hang on; return the program and the inputs it uses."""
        steps, last_use = self._needed(outputs)
        used = [k for k in range(self.n_inputs) if keep_inputs or k in last_use]
        place = {value: k for k, value in enumerate(used)}
        free: list[int] = []
        n_places, placed = len(used), []
        for when, (value, a, b) in enumerate(steps):
            places = place[a], place[b]
            free += [
                place[v] for v in (a, b) if last_use[v] == when and v >= self.n_inputs
            ]
            if not free:
                free.append(n_places)
                n_places += 1
            place[value] = free.pop()
            is_max = bool((value - self.n_inputs) % 2)
            placed.append((is_max, *places, place[value]))
        program = Program(
            tuple(placed),
            tuple(place[value] for value in outputs),
            len(used),
            n_places - len(used),
        )
        return program, used

    def _needed(
        self, outputs: list[int]
    ) -> tuple[list[tuple[int, int, int]], dict[int, int]]:
        """Return the steps (value, a, b) in order, and the last use of each value."""
        needed, steps = set(outputs), []
        for value in reversed(
            range(self.n_inputs, self.n_inputs + 2 * len(self.pairs))
        ):
            if value in needed:
                a, b = self.pairs[(value - self.n_inputs) // 2]
                needed |= {a, b}
                steps.append((value, a, b))
        steps.reverse()
        last_use = dict.fromkeys(outputs, len(steps))
        for when, (_, a, b) in enumerate(steps):
            for value in (a, b):
                last_use[value] = max(when, last_use.get(value, 0))
        return steps, last_use
