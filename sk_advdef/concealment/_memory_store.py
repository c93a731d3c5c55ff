"""A store for the threads of one process."""

from __future__ import annotations

import time

from sk_advdef.concealment._columns import Bounds
from sk_advdef.concealment._forking import Locked
from sk_advdef.concealment._gcra import bounded, forced, gcra
from sk_advdef.concealment._store import Entry


class MemoryStore(Locked):
    """Arrival times in a dict under a lock.

    Nobody else reads it, so what is appended is numbered and not kept.
    """

    is_shared = False

    def __init__(self) -> None:
        super().__init__()
        self._ahead: dict[bytes, int] = {}
        self._purge_at = 1024
        self._number = 0

    def hit(
        self,
        debits: dict[bytes, int],
        tolerance: int,
        now: int | None = None,
        *,
        force: bool = False,
    ) -> int:
        """Take the debits of all keys, or of none."""
        with self._lock:
            ahead = self._ahead
            if now is None:
                now = time.time_ns() // 1000
            if force:
                for key, debit in debits.items():
                    ahead[key] = forced(ahead.get(key, 0), now, debit, tolerance)
                return 0
            new, longest = {}, 0
            for key, debit in debits.items():
                new[key], wait = gcra(ahead.get(key, 0), now, debit, tolerance)
                longest = max(longest, wait)
            if longest > 0:
                for key in ahead.keys() & debits.keys():
                    ahead[key] = bounded(ahead[key], now, tolerance)
                return longest
            ahead.update(new)
            if len(ahead) > self._purge_at:
                # a key whose time has passed counts as one never seen
                self._ahead = {k: t for k, t in ahead.items() if t > now}
                self._purge_at = max(1024, 2 * len(self._ahead))
            return 0

    def append(
        self, stream: str, entries: list[Entry], cursor: int, bounds: Bounds
    ) -> tuple[int, list[tuple[int, bytes]]]:
        """Give out consecutive numbers."""
        with self._lock:
            first = self._number + 1
            self._number += len(entries)
        return first, []

    def read(self, stream: str, cursor: int, stop: int) -> list[tuple[int, bytes]]:
        """Return nothing: there are no others."""
        return []

    def close(self) -> None:
        """Hold nothing open."""
