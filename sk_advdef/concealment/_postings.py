"""An inverted index from tokens to the positions of sketches, compact in memory.

New sketches go to a dict. A full dict becomes a sorted run, and small runs are merged
into larger ones, so that a look-up meets a handful of runs and an entry is moved a few
times in its life. In a run an entry takes six bytes: its position, and the lower half
of its token; the upper half is told by where the entry stands. What tells it takes
another few tenths of a byte.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np

#: Sketches in the dict, and in runs of each level before they move up.
FRESH = 1024
LEVELS = (16 * FRESH, 256 * FRESH)
MAX_SEALED = 8
#: Entries of a run that is not merged again, since that takes 16 bytes an entry.
LARGE = 100_000_000
#: A token tells of so many sketches at most, the youngest in each run. Without this the
#: many sketches of one attack would make each further one slow.
MAX_OF_TOKEN = 64

#: Entries of a bucket of a run, at most, on average.
BUCKET = 12


def span_of(lower: memoryview, start: int, end: int, tag: int) -> tuple[int, int]:
    """Return where a tag begins and ends in a bucket."""
    # NumPy takes four times as long, and a flagged row looks up fifty of these
    begin = bisect_left(lower, tag, start, end)
    return begin, bisect_right(lower, tag, begin, end)


class Run:
    """Entries sorted by token, then by position, in buckets by their uppermost bits."""

    def __init__(self, keys: np.ndarray) -> None:
        """Take sorted keys: the token above, the position in the lower 32 bits."""
        self.positions = keys.astype(np.uint32)
        self.lower = (keys >> np.uint64(32)).astype(np.uint16)
        # a bucket must not be wider than the half of a token that is kept
        self._bits = min(max(16, (len(keys) // BUCKET).bit_length()), 26)
        buckets = (keys >> np.uint64(64 - self._bits)).astype(np.int64)
        counts = np.bincount(buckets, minlength=1 << self._bits)
        self.starts = np.zeros(len(counts) + 1, dtype=np.uint32)
        np.cumsum(counts, out=self.starts[1:])

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def nbytes(self) -> int:
        return self.positions.nbytes + self.lower.nbytes + self.starts.nbytes

    def keys(self) -> np.ndarray:
        """Return what the run was made from."""
        buckets = np.arange(1 << self._bits, dtype=np.uint64)
        upper = np.repeat(buckets >> np.uint64(self._bits - 16), np.diff(self.starts))
        tokens = (upper << np.uint64(16)) | self.lower
        return (tokens << np.uint64(32)) | self.positions

    def find(self, tokens: np.ndarray) -> list[np.ndarray]:
        """Return the positions under tokens, of each the youngest at most."""
        buckets = (tokens >> np.uint32(32 - self._bits)).astype(np.int64)
        left = self.starts[buckets].astype(np.int64)
        right = self.starts[buckets + 1].astype(np.int64)
        tags = tokens.astype(np.uint16)
        length = right - left
        # a bucket is long where many sketches share a token; others are compared whole
        long = length > MAX_OF_TOKEN
        found = []
        if long.any():
            lower = self.lower.data
            ends = (some[long].tolist() for some in (left, right, tags))
            for start, end, tag in zip(*ends, strict=True):
                begin, stop = span_of(lower, start, end, tag)
                begin = max(begin, stop - MAX_OF_TOKEN)
                found.append(self.positions[begin:stop])
        short = np.flatnonzero(~long & (length > 0))
        if len(short):
            left, right, tags = left[short, None], right[short, None], tags[short, None]
            at = left + np.arange(length[short].max())
            same = self.lower.take(at, mode="clip") == tags
            found.append(self.positions[at[same & (at < right)]])
        return found

    def find_one(self, token: int) -> np.ndarray:
        """Return all positions under one token."""
        bucket = token >> (32 - self._bits)
        start, end = int(self.starts[bucket]), int(self.starts[bucket + 1])
        tag = token & 0xFFFF
        if end - start <= MAX_OF_TOKEN:
            return self.positions[start:end][self.lower[start:end] == tag]
        begin, stop = span_of(self.lower.data, start, end, tag)
        return self.positions[begin:stop]


def merged(runs: list[Run], alive: np.ndarray | None) -> Run:
    """Make one run of several, without entries that are dead."""
    keys = np.concatenate([run.keys() for run in runs])
    if alive is not None:
        keys = keys[alive[keys.astype(np.uint32)]]
    keys.sort(kind="stable")  # finds the sorted stretches, unlike the default
    return Run(keys)


class Postings:
    """Counts, for a sketch, how many of its tokens each earlier sketch has."""

    def __init__(self) -> None:
        # one position is no list: the collector of garbage would look at each
        self._fresh: dict[int, int | list[int]] = {}
        self._n_fresh = 0
        self._levels: list[Run | None] = [None] * len(LEVELS)
        self._sealed: list[Run] = []
        self._in_level = [0] * len(LEVELS)

    @property
    def nbytes(self) -> int:
        """Bytes of the runs, and about those of the dict."""
        return sum(run.nbytes for run in self._runs()) + 150 * len(self._fresh)

    def _runs(self) -> list[Run]:
        return [run for run in self._levels if run is not None] + self._sealed

    def _freshly(self, token: int) -> list[int]:
        """Return the positions under a token that are in no run yet."""
        some = self._fresh.get(token, [])
        return some if isinstance(some, list) else [some]

    def add(self, position: int, tokens: np.ndarray, alive: np.ndarray) -> None:
        """Add a sketch; positions must rise."""
        fresh = self._fresh
        for token in tokens.tolist():
            there = fresh.setdefault(token, position)
            if isinstance(there, list):
                there.append(position)
            elif there != position:
                fresh[token] = [there, position]
        self._n_fresh += 1
        if self._n_fresh >= FRESH:
            self._settle(alive)

    def _settle(self, alive: np.ndarray) -> None:
        """Turn the dict into a run, and move runs up that are full."""
        keys = np.array(
            [t << 32 | p for t in self._fresh for p in self._freshly(t)], np.uint64
        )
        keys.sort()
        run, count = Run(keys), self._n_fresh
        self._fresh, self._n_fresh = {}, 0
        for level, full in enumerate(LEVELS):
            there = self._levels[level]
            if there is not None:
                run = merged([there, run], alive)
            count += self._in_level[level]
            if count < full:
                self._levels[level], self._in_level[level] = run, count
                return
            self._levels[level], self._in_level[level] = None, 0
        self._seal(run, alive)

    def _seal(self, run: Run, alive: np.ndarray | None) -> None:
        """Put away a run; those that are not large are merged from time to time."""
        self._sealed.append(run)
        small = [run for run in self._sealed if len(run) < LARGE]
        if len(small) > MAX_SEALED:
            large = [run for run in self._sealed if len(run) >= LARGE]
            self._sealed = [*large, merged(small, alive)]

    def matches(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return positions, sorted, and how many of the tokens each has."""
        found = [run.find(tokens) for run in self._runs() if len(run)]
        parts = [part for of_run in found for part in of_run]
        fresh: list[int] = []
        for token in tokens.tolist():
            if token in self._fresh:
                fresh += self._freshly(token)[-MAX_OF_TOKEN:]
        parts.append(np.array(fresh, dtype=np.uint32))
        positions, counts = np.unique(np.concatenate(parts), return_counts=True)
        return positions.astype(np.int64), counts

    def under(self, token: int) -> np.ndarray:
        """Return all positions under one token, sorted."""
        parts = [run.find_one(token) for run in self._runs()]
        parts.append(np.array(self._freshly(token), dtype=np.uint32))
        return np.sort(np.concatenate(parts).astype(np.int64))

    def compact(self, new_of: np.ndarray) -> None:
        """Give positions new numbers; those with number -1 are dropped."""
        self._fresh = {
            token: left
            for token in self._fresh
            if (left := [n for p in self._freshly(token) if (n := int(new_of[p])) >= 0])
        }
        self._levels = [run and self._renumbered(run, new_of) for run in self._levels]
        self._sealed = [self._renumbered(run, new_of) for run in self._sealed]

    @staticmethod
    def _renumbered(run: Run, new_of: np.ndarray) -> Run:
        keys = run.keys()
        new = new_of[keys.astype(np.uint32)]
        kept = new >= 0
        keys = keys[kept] >> np.uint64(32) << np.uint64(32)
        return Run(keys | new[kept].astype(np.uint64))
