"""How like a row is to those before it: neighbors, families of them, sketches."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sk_advdef.concealment._postings import Postings

#: Steps back to where queries came from; an attack may make thousands of them.
MAX_ANCESTORS = 64
SCOPES = ("account", "corroborated", "shared")


class Look(NamedTuple):
    """What is found of a row: its score, and the oldest of the rows it is like."""

    score: float
    oldest: int = -1
    nearest: int = -1
    link: float = np.inf


class Sight(NamedTuple):
    """Which remembered rows count: those alive and not identical, and whose."""

    alive: np.ndarray
    account: np.ndarray
    digest: np.ndarray
    n: int  # rows from this position on are not seen
    own: int | None  # number of the account that asks; None takes all for its own
    same: int  # digest of the row itself

    def seen(self, at: np.ndarray | slice) -> np.ndarray:
        """Whether rows count at all."""
        return self.alive[at] & (self.digest[at] != np.uint64(self.same))

    def owned(self, at: np.ndarray | slice) -> np.ndarray:
        """Whether rows are of the account that asks."""
        if self.own is None:
            return np.ones(len(self.account[at]), dtype=bool)
        return self.account[at] == self.own


class Vectors:
    """Rows as vectors, and the nearest of them, exactly."""

    def __init__(self, n_values: int) -> None:
        self._rows = np.empty((0, n_values), np.float32)
        self._squares = np.empty(0, np.float32)

    @property
    def nbytes(self) -> int:
        return self._rows.nbytes + self._squares.nbytes

    def add(self, position: int, vector: np.ndarray) -> None:
        if position >= len(self._rows):
            size = position + position // 4 + 1024
            rows = np.empty((size, self._rows.shape[1]), np.float32)
            squares = np.empty(size, np.float32)
            rows[:position] = self._rows[:position]
            squares[:position] = self._squares[:position]
            self._rows, self._squares = rows, squares
        self._rows[position] = vector
        self._squares[position] = vector @ vector

    def compact(self, new_of: np.ndarray) -> None:
        kept = np.flatnonzero(new_of >= 0)
        self._rows, self._squares = self._rows[kept], self._squares[kept]

    def rough(self, vector: np.ndarray, n: int) -> np.ndarray:
        """Return squared distances to the first n rows, up to rounding."""
        vector = vector.astype(np.float32)
        return self._squares[:n] - 2 * (self._rows[:n] @ vector)

    def nearest(
        self, vector: np.ndarray, rough: np.ndarray, n: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return positions and distances of the n nearest; infinite ones are left out.

        ``rough`` finds a few more than are needed, and exact distances decide.
        """
        some = min(n + 8, len(rough))
        if some < len(rough):
            at = np.argpartition(rough, some)[:some]
        else:
            at = np.arange(len(rough))
        at = at[np.isfinite(rough[at])]
        apart = self._rows[at].astype(np.float64) - vector.astype(np.float32)
        distances = np.sqrt(np.einsum("ij,ij->i", apart, apart))
        order = np.lexsort((at, distances))[:n]
        return at[order], distances[order]


class Neighbors:
    """Mean distance to the nearest rows that came before (Chen, Carlini, Wagner)."""

    def __init__(self, n_values: int, k: int, far: float, scope: str) -> None:
        self.index = Vectors(n_values)
        self._k, self._far, self._scope = k, far, scope

    @property
    def unlike(self) -> float:
        """Score of a row before which there was none."""
        return self._far

    def _filled(self, distances: np.ndarray, n: int) -> float:
        missing = n - len(distances)
        return float(np.minimum(distances, self._far).sum() + missing * self._far) / n

    def _nearest(self, vector: np.ndarray, sight: Sight, n: int) -> tuple[Any, ...]:
        """Return the n nearest of all that count, and the distance of the own one."""
        rough = self.index.rough(vector, sight.n)
        rough[~sight.seen(slice(0, sight.n))] = np.inf
        own = rough
        if sight.own is not None and self._scope != "shared":
            own = np.where(sight.owned(slice(0, sight.n)), rough, np.float32(np.inf))
        all_of = own if self._scope == "account" else rough
        at, distances = self.index.nearest(vector, all_of, n)
        if own is all_of:
            return at, distances, 0.0
        nearest_own = self.index.nearest(vector, own, 1)[1]
        return at, distances, self._filled(nearest_own, 1)

    def add(self, position: int, vector: np.ndarray, history: Any) -> None:
        self.index.add(position, vector)

    def with_digest(self, digest: int, history: Any) -> np.ndarray:
        """Return positions of rows with this digest, and perhaps of a few more."""
        digests = history.columns["digest"][: history.columns.n]
        return np.flatnonzero(digests == np.uint64(digest))

    def look(self, vector: np.ndarray, sight: Sight, history: Any) -> Look:
        if sight.n == 0:
            return Look(self._far)
        at, distances, own = self._nearest(vector, sight, self._k)
        score = max(self._filled(distances, self._k), own)
        oldest = int(at.min()) if len(at) else -1
        return Look(score, oldest)


class Families(Neighbors):
    """Mean step among the relatives of a row in the graph of nearest predecessors.

    Each row descends from the nearest one before it, by a step of that length. The
    steps of an attack are short, whether its queries all surround one row or lead away
    from it, one after the other. Of the closest relatives the shortest steps count.
    """

    def look(self, vector: np.ndarray, sight: Sight, history: Any) -> Look:
        if sight.n == 0:
            return Look(self._far)
        at, distances, own = self._nearest(vector, sight, 1)
        if not len(at):
            return Look(self._far)
        nearest, link = int(at[0]), float(distances[0])
        relatives = self._relatives(nearest, history.columns, sight.n)
        steps = np.sort(history.columns["link"][relatives])[: self._k - 1]
        score = max(self._filled(np.append(steps, link), self._k), own)
        return Look(score, self._ancestor(nearest, history.columns), nearest, link)

    def _ancestor(self, at: int, columns: Any) -> int:
        """Return the row that a row comes from by short steps, not all too many."""
        for _ in range(MAX_ANCESTORS):
            if columns["link"][at] >= self._far / 2 or columns["parent"][at] < 0:
                break
            at = int(columns["parent"][at])
        return at

    def _relatives(self, at: int, columns: Any, n: int) -> list[int]:
        """Return a row, its youngest descendants, its ancestors and theirs."""
        parent, child, sibling = (columns[x] for x in ("parent", "child", "sibling"))
        found: list[int] = []
        while at >= 0 and len(found) < 2 * self._k:
            found.append(at)
            other, left = int(child[at]), self._k
            while other >= 0 and left:
                if other < n:
                    found.append(other)
                    left -= 1
                other = int(sibling[other])
            at = int(parent[at])
        return found


class Sketches:
    """One minus the share of tokens in common with the likest row (Blacklight)."""

    unlike = 1.0

    def __init__(self, size: int, scope: str) -> None:
        self.index = Postings()
        self._size, self._scope = size, scope

    @staticmethod
    def _token_of(digest: int) -> int:
        return digest >> 32

    def add(self, position: int, tokens: np.ndarray, history: Any) -> None:
        digest = int(history.columns["digest"][position])
        tokens = np.append(tokens, np.uint32(self._token_of(digest)))
        self.index.add(position, np.unique(tokens), history.columns["alive"])

    def with_digest(self, digest: int, history: Any) -> np.ndarray:
        return self.index.under(self._token_of(digest))

    def look(self, tokens: np.ndarray, sight: Sight, history: Any) -> Look:
        at, counts = self.index.matches(tokens)
        if at.size and at[-1] >= sight.n:
            early = at < sight.n
            at, counts = at[early], counts[early]
        if not at.size:
            return Look(1.0)
        seen = sight.seen(at)
        if self._scope != "shared":
            seen &= sight.owned(at)
        counts = np.where(seen, counts, 0)
        best = int(counts.max())
        if best == 0:
            return Look(1.0)
        # a row with hardly any windows shares all of them too easily
        score = 1 - best / max(len(tokens), self._size // 2)
        return Look(float(score), int(at[counts == best][0]))
