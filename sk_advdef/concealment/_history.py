"""What is remembered of earlier queries, within bounds that hold for each account."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np

from sk_advdef.concealment._columns import Bounds, Columns, Shares
from sk_advdef.concealment._matching import Families, Look, Sight

NO_NOTE = -1
UNLIKE = Look(np.inf)
#: Columns of the graph of nearest predecessors.
GRAPH = {
    "parent": np.int32,
    "link": np.float32,
    "child": np.int32,
    "sibling": np.int32,
}


class Query(NamedTuple):
    """One row that is asked: by whom, when, which, and what it is compared by."""

    account: bytes
    time: float
    digest: int
    code: np.ndarray
    note: int = NO_NOTE


class Seen(NamedTuple):
    """What a history says of a query as it comes in."""

    score: float
    is_repeat: bool
    note: int  # of the oldest query that it is like


class History:
    """Queries in the order in which they came, each compared to those before it.

    ``matcher`` compares. An account has its own quota. Where all rows are taken, the
    account that has the most gives up its oldest, so that a flood drives out itself.
    """

    def __init__(self, matcher: Any, bounds: Bounds) -> None:
        self.matcher, self.bounds = matcher, bounds
        self._has_graph = isinstance(matcher, Families)
        self.lock = threading.RLock()
        self.shares = Shares()
        self.columns = Columns(
            account=np.int64,
            time=np.float64,
            digest=np.uint64,
            note=np.int32,
            alive=np.bool_,
            following=np.int32,
            **(GRAPH if self._has_graph else {}),
        )
        self.n_alive = 0
        self._first_maybe_old = 0

    @property
    def nbytes(self) -> int:
        """Bytes that the history takes up, about."""
        return self.columns.nbytes + self.matcher.index.nbytes + 300 * len(self.shares)

    def stats(self) -> dict[str, int]:
        """Return how many rows of how many accounts, in how many bytes."""
        with self.lock:
            sizes = (self.n_alive, len(self.shares), self.nbytes)
            return dict(zip(("rows", "accounts", "bytes"), sizes, strict=True))

    def _sight(self, digest: int, own: int | None, n: int) -> Sight:
        c = self.columns
        return Sight(c["alive"], c["account"], c["digest"], n, own, digest)

    def score(self, digest: int, code: np.ndarray) -> float:
        """Score a row as one that whoever asked before might ask. Remembers nothing."""
        with self.lock:
            sight = self._sight(digest, None, self.columns.n)
            return self.matcher.look(code, sight, self).score

    def observe(self, query: Query) -> Seen:
        """Score a query by those before it, and remember it.

        One that its account has asked before is answered as it was then, and not
        remembered again.
        """
        with self.lock:
            self._set_back(query.time)
            self._expire(query.time)
            own = self.shares.code(query.account)
            earlier = self._position_of(query.digest, own)
            n = self.columns.n if earlier is None else earlier
            sight = self._sight(query.digest, own, n)
            look = self.matcher.look(query.code, sight, self)
            notes = self.columns["note"]
            note = NO_NOTE if look.oldest < 0 else int(notes[look.oldest])
            if earlier is None:
                self._remember(query, look)
            return Seen(look.score, earlier is not None, note)

    def add(self, query: Query) -> None:
        """Remember a query that somebody else has scored."""
        if self._has_graph:
            # what it is like belongs to what is remembered
            self.observe(query)
            return
        with self.lock:
            self._set_back(query.time)
            self._expire(query.time)
            own = self.shares.code(query.account)
            if self._position_of(query.digest, own) is None:
                self._remember(query)

    def knows(self, account: bytes, digest: int, now: float) -> bool:
        """Whether an account has asked exactly this before, and it is remembered."""
        with self.lock:
            self._set_back(now)
            self._expire(now)
            return self._position_of(digest, self.shares.code(account)) is not None

    def _position_of(self, digest: int, own: int) -> int | None:
        if own < 0:
            return None
        c = self.columns
        at = self.matcher.with_digest(digest, self)
        at = at[c["digest"][at] == np.uint64(digest)]
        at = at[c["alive"][at] & (c["account"][at] == own)]
        return int(at[0]) if at.size else None

    def _remember(self, query: Query, look: Look = UNLIKE) -> None:
        if self.shares.count(query.account) >= self.bounds.quota:
            self._drop(self.shares.code(query.account))
        elif self.n_alive >= self.bounds.rows:
            self._drop(self.shares.largest())
        code = self.shares.add(query.account)
        # what was dropped keeps its place until all is compacted, so the graph holds
        position = self.columns.append(
            account=code,
            time=query.time,
            digest=np.uint64(query.digest),
            note=query.note,
            alive=True,
            **(self._relations(look) if self._has_graph else {}),
        )
        if self._has_graph and look.nearest >= 0:
            self.columns["child"][look.nearest] = position
        self.shares.link(code, position, self.columns["following"])
        self.matcher.add(position, query.code, self)
        self.n_alive += 1
        if self.columns.n > 2 * self.n_alive + 4096:
            self._compact()

    def _relations(self, look: Look) -> dict[str, float]:
        found = {"parent": look.nearest, "link": look.link, "child": -1, "sibling": -1}
        if look.nearest >= 0:
            found["sibling"] = int(self.columns["child"][look.nearest])
        return found

    def _drop(self, code: int) -> None:
        at = self.shares.drop_oldest(code, self.columns["following"])
        self.columns["alive"][at] = False
        self.n_alive -= 1

    @property
    def latest(self) -> float:
        """Time of the last row."""
        c = self.columns
        return float(c["time"][c.n - 1]) if c.n else -np.inf

    def _set_back(self, now: float) -> None:
        """Take rows from a time to come for rows of now: the clock was set back.

        Else they, and all behind them, would be kept until the clock has come there.
        """
        if self.latest > now:
            times = self.columns["time"][: self.columns.n]
            times[np.searchsorted(times, now, side="right") :] = now

    def _expire(self, now: float) -> None:
        """Drop rows that are too old; they stand in order of their time."""
        c = self.columns
        at, too_old = self._first_maybe_old, now - self.bounds.age
        while at < c.n and (not c["alive"][at] or c["time"][at] < too_old):
            if c["alive"][at]:
                self._drop(int(c["account"][at]))
            at += 1
        self._first_maybe_old = at

    def _compact(self) -> None:
        """Take dead rows out of all arrays."""
        c = self.columns
        kept = np.flatnonzero(c["alive"][: c.n])
        new_of = np.full(c.n, -1, dtype=np.int64)
        new_of[kept] = np.arange(len(kept))
        pointers = ["following"]
        if self._has_graph:
            pointers += ["parent", "child", "sibling"]
        for name in pointers:
            old = c[name][: c.n]
            c[name][: c.n] = np.where(old >= 0, new_of[old], -1)
        c.keep(kept)
        self.shares.renumber(new_of)
        self.matcher.index.compact(new_of)
        self._first_maybe_old = 0
