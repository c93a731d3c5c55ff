"""The live state of a detector: its history, and the log that others write to as well.

State is kept beside the estimators, never in them, so that it is neither cloned nor
pickled.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from sk_advdef.concealment._forking import PATIENCE, take_part
from sk_advdef.concealment._history import History, Query, Seen
from sk_advdef.concealment._store import END, PAGE, Entry, Store, StoreError

_HEAD = struct.Struct("<16sdQi")
#: How records are written; who reads others must not take them for these.
LAYOUT = _HEAD.format

_states: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
_lock = threading.RLock()


def state_of(estimator: Any, make: Callable[[], Any]) -> Any:
    """Return the state of an estimator, made now where there is none."""
    found = _states.get(estimator)
    if found is None:
        with _lock:
            found = _states.get(estimator)
            if found is None:
                found = _states[estimator] = make()
    return found


def drop_state(estimator: Any) -> None:
    """Forget the state of an estimator, as when it is fitted again."""
    with _lock:
        found = _states.pop(estimator, None)
    if found is not None:
        found.close()


def packed(query: Query) -> bytes:
    """Write a query as a record for the log."""
    head = _HEAD.pack(query.account, query.time, query.digest, query.note)
    return head + query.code.tobytes()


def unpacked(record: bytes, kind: type) -> Query:
    """Read what ``packed`` wrote."""
    account, time, digest, note = _HEAD.unpack_from(record)
    code: np.ndarray = np.frombuffer(record, kind, offset=_HEAD.size)
    return Query(account, time, digest, code, note)


class Watch:
    """A history, and where it is shared the log that keeps those of all alike.

    A query is first appended to the log. What others appended before it is read and
    remembered, in the order of the log, and then the query itself is scored. So every
    query is scored by exactly those before it, whoever received them.

    ``coder`` and ``key`` are secrets that the detector made for this process.
    """

    fork_rank = 0

    def __init__(
        self,
        history: History,
        kind: type,
        store: Store | None,
        stream: str,
        *,
        coder: Any = None,
        key: bytes = b"",
    ) -> None:
        self.coder, self.key = coder, key
        self.history, self._kind = history, kind
        self._store = store if store is not None and store.is_shared else None
        self._stream, self._cursor = stream, 0
        self._order = threading.Lock()
        self._failed_at = -np.inf
        take_part(self)

    def rest(self) -> bool:
        """Finish what changes the history, before a fork.

        Not the whole call: who waits for the store must be able to end.
        """
        return self.history.lock.acquire(timeout=PATIENCE)

    def go_on(self) -> None:
        """Let others in again."""
        self.history.lock.release()

    def begin_anew(self) -> None:
        """Make the locks anew in the child of a fork; the log tells what it misses."""
        global _lock
        _lock = threading.RLock()
        self._order, self.history.lock = threading.Lock(), threading.RLock()

    def observe(self, queries: list[Query]) -> list[Seen]:
        """Score queries one after the other, and remember them, with none between."""
        came = time.monotonic()
        with self._order:
            if self._store is not None:
                # else all that wait for a store that hangs would try it in turn
                if self._failed_at > came:
                    raise StoreError("the store failed while this call waited for it")
                try:
                    self._append(self._store, queries)
                except StoreError:
                    self._failed_at = time.monotonic()
                    raise
            with self.history.lock:
                return [self.history.observe(query) for query in queries]

    def catch_up(self, now: float) -> None:
        """Read what others appended, so that the first query need not wait for it."""
        if self._store is not None:
            with self._order:
                self._read(self._store, now, END)

    def _append(self, store: Store, queries: list[Query]) -> None:
        """Append queries, and remember what others appended before them."""
        fresh = [
            Entry(query.account, packed(query))
            for query in queries
            if not self.history.knows(query.account, query.digest, query.time)
        ]
        if not fresh:
            return
        first, page = store.append(
            self._stream, fresh, self._cursor, self.history.bounds
        )
        now = queries[0].time
        if first <= self._cursor:
            # the log was lost or set back: what is in it now has lower numbers
            self._cursor = 0
            self._read(store, now, first)
        else:
            self._remember(page, now)
            if len(page) == PAGE:
                self._read(store, now, first)
        self._cursor = first + len(fresh) - 1

    def _read(self, store: Store, now: float, stop: int) -> None:
        """Remember what others appended, up to a number."""
        page = store.read(self._stream, self._cursor, stop)
        self._remember(page, now)
        while len(page) == PAGE:
            page = store.read(self._stream, self._cursor, stop)
            self._remember(page, now)

    def _remember(self, page: list[tuple[int, bytes]], now: float) -> None:
        history = self.history
        for number, record in page:
            other = unpacked(record, self._kind)
            # the clock of another host must not make this one forget
            when = max(history.latest, min(other.time, now))
            if when >= now - history.bounds.age:
                history.add(other._replace(time=when))
            self._cursor = number

    def close(self) -> None:
        """Hold nothing open; the store is closed by who opened it."""
