"""Fingerprints of rows: few tokens, most of which a small change leaves as they are."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np


def _words(key: bytes, what: str, n: int) -> np.ndarray:
    """Draw uint64 words from a key."""
    seed = blake2b(what.encode(), key=key, digest_size=16).digest()
    philox = np.random.Philox(key=int.from_bytes(seed, "little"))
    return philox.random_raw(n)


def _mixed(words: np.ndarray) -> np.ndarray:
    """Spread each bit of a word over all of it."""
    words = words ^ (words >> np.uint64(30))
    words = words * np.uint64(0xBF58476D1CE4E5B9)
    words = words ^ (words >> np.uint64(27))
    words = words * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


class Sketcher:
    """The fingerprint of Blacklight, with keyed rolling hashes in place of SHA.

    Values are scaled to [0, 255], shifted by a secret salt a feature, and rounded down
    to cells of ``quantization``. Each window of ``window`` cells has a hash, and the
    smallest ``size`` of them are the sketch. Windows that show nothing but
    ``background`` (NaN where a feature has none) are left out: too many rows share
    them.
    """

    def __init__(
        self,
        key: bytes,
        *,
        window: int,
        size: int,
        quantization: int,
        low: np.ndarray,
        width: np.ndarray,
        background: np.ndarray,
    ) -> None:
        n_values = len(background)
        self.size, self._window = size, window
        self._low, self._scale = low, 255 / width
        self._quantization = quantization
        self._salt = _words(key, "salt", n_values) % np.uint64(2**20) / 2**12
        self._of_level = _words(key, "levels", 256)
        base = int(_words(key, "base", 1)[0]) | 1
        self._powers = _powers(base, n_values)
        self._shifts = _powers(pow(base, -1, 2**64), n_values - window + 1)
        has = np.isfinite(background)
        levels = self._levels(np.where(has, background, 0))
        self._background = np.where(has, levels, 255).astype(np.uint8)
        self._any_background = bool(has.any())

    def _levels(self, row: np.ndarray) -> np.ndarray:
        # far outside of all that fit saw a value may overflow, and gets any cell
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.floor((row - self._low) * self._scale + self._salt)
            # the lowest byte of a whole number is what is left of it by 256
            return values.astype(np.int64).astype(np.uint8) // self._quantization

    def hashes(self, row: np.ndarray) -> np.ndarray:
        """Return the hashes of the windows of a flat row that show something."""
        levels, window = self._levels(row), self._window
        terms = self._of_level.take(levels) * self._powers
        hashes = _mixed(_sums(terms, window, np.uint64) * self._shifts)
        if self._any_background:
            shows = _sums(levels != self._background, window, np.int32) > 0
            if shows.any():
                return hashes[shows]
        return hashes

    def __call__(self, row: np.ndarray) -> np.ndarray:
        """Return the tokens of a flat row, at most ``size``, uint32, none twice."""
        hashes = self.hashes(row)
        some = 4 * self.size
        if some < len(hashes):
            smallest = np.unique(np.partition(hashes, some)[:some])
            if len(smallest) < self.size:
                smallest = np.unique(hashes)
        else:
            smallest = np.unique(hashes)
        # the upper bits of the smallest hashes are alike, the lower ones are not
        return np.unique(smallest[: self.size].astype(np.uint32))


def _powers(base: int, n: int) -> np.ndarray:
    powers = np.full(n, base, dtype=np.uint64)
    powers[0] = 1
    return np.cumprod(powers, dtype=np.uint64)


def _sums(terms: np.ndarray, window: int, kind: type) -> np.ndarray:
    """Sum each window of terms; unsigned sums wrap around, which hashes may."""
    sums: np.ndarray = np.empty(len(terms) + 1, dtype=kind)
    sums[0] = 0
    np.cumsum(terms, out=sums[1:], dtype=kind)
    return sums[window:] - sums[:-window]


def background_of(rows: np.ndarray, share: float) -> np.ndarray:
    """Return the value that more than a share of rows have of each feature, or NaN."""
    background = np.full(rows.shape[1], np.nan)
    if len(rows) < 20:
        return background
    for feature, column in enumerate(rows.T):
        values, counts = np.unique(column, return_counts=True)
        if counts.max() > share * len(rows):
            background[feature] = values[counts.argmax()]
    return background
