"""The live state of a guard: its store, its watch, what it counted, its audit log."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from numbers import Integral
from typing import Any

import numpy as np

from sk_advdef._validation import seconds
from sk_advdef.concealment._accounts import account_id
from sk_advdef.concealment._forking import Locked
from sk_advdef.concealment._gcra import SECOND, Rate
from sk_advdef.concealment._history import Seen
from sk_advdef.concealment._recent import RecentScores
from sk_advdef.concealment._refused import QueryRefused
from sk_advdef.concealment._store import Store, StoreError
from sk_advdef.concealment._watch import Watch

audit = logging.getLogger("sk_advdef.audit")
# only where it is asked for: an attack writes thousands of lines
audit.addHandler(logging.NullHandler())
logger = logging.getLogger("sk_advdef.concealment")

COUNTED = (
    "calls",
    "rows",
    "allowed_rows",
    "repeated_rows",
    "suspicious_rows",
    "refused_for_rate",
    "refused_for_similarity",
    "refused_as_unavailable",
    "answered_without_store",
)
#: Accounts whose latest scores are kept for a plot, and how many of each.
RECENT_ACCOUNTS = 1000
RECENT_SCORES = 1000


class Line:
    """A line of JSON, made only where it is written: who waits could measure that."""

    def __init__(self, entry: dict[str, Any]) -> None:
        self._entry = entry

    def __str__(self) -> str:
        """Return the line."""
        return json.dumps(self._entry)


def shown(account: Any) -> str | int | None:
    """Return an account as the audit log has it."""
    if isinstance(account, bytes):
        return account.hex()
    # an integer of NumPy is none to JSON
    return int(account) if isinstance(account, Integral) else account


def rows_of(accounts: list[Any]) -> dict[Any, int]:
    """Count the rows of each account; most calls are of one row."""
    return {accounts[0]: 1} if len(accounts) == 1 else Counter(accounts)


class Gate(Locked):
    """Throttles and watches; every question to the store goes through here."""

    def __init__(
        self,
        store: Store,
        *,
        rate: Rate | None,
        watch: Watch | None,
        key: bytes,
        is_open: bool,
        clock: Any,
    ) -> None:
        self.store, self.rate, self.watch = store, rate, watch
        self._key, self._is_open, self._clock = key, is_open, clock
        self._counts = dict.fromkeys(COUNTED, 0)
        self._recent = RecentScores(RECENT_ACCOUNTS, RECENT_SCORES)
        super().__init__()

    def count(self, **counts: int) -> None:
        """Add to the counters."""
        with self._lock:
            for name, more in counts.items():
                self._counts[name] += more

    def stats(self) -> dict[str, int]:
        """Return the counters, and how much is remembered."""
        with self._lock:
            found = dict(self._counts)
        if self.watch is not None:
            history = self.watch.history.stats()
            found |= {f"history_{name}": value for name, value in history.items()}
        return found

    def now(self) -> float:
        """Return seconds."""
        if self._clock is None:
            return time.time()
        return seconds("GuardedClassifier", self._clock)

    def _micros(self) -> int | None:
        """Return the time for the store; None lets the store use its own clock."""
        return None if self._clock is None else int(self.now() * SECOND)

    def id_of(self, account: Any) -> bytes:
        """Return what stands for an account in the store."""
        return account_id("GuardedClassifier", account, self._key)

    def key_of(self, account: Any) -> bytes:
        """Return under what the store keeps the rate of an account.

        Guards of other limits that share a store count for themselves.
        """
        rate = self.rate
        kind = b"" if rate is None else b"/%d/%d" % (rate.interval, rate.tolerance)
        return self.id_of(account) + kind

    def check_size(self, accounts: list[Any]) -> None:
        """Raise ValueError where a call could never be admitted."""
        if self.rate is None or not accounts:
            return
        most = self.rate.tolerance // self.rate.interval
        asked = max(rows_of(accounts).values())
        if asked > most:
            raise ValueError(
                f"An account may ask {most} rows at once (burst), and never more. Got "
                f"{asked} rows: divide them over calls."
            )

    def throttle(self, accounts: list[Any]) -> bool:
        """Charge each account for its rows, or refuse all; tell if the store failed."""
        if self.rate is None or not accounts:
            return False
        debits = {
            self.key_of(name): self.rate.debit(count)
            for name, count in rows_of(accounts).items()
        }
        try:
            wait = self.store.hit(debits, self.rate.tolerance, self._micros())
        except StoreError as error:
            self.fail(error, accounts)
            return True
        if wait > 0:
            self.count(refused_for_rate=1)
            self.note("rate", accounts, rows=len(accounts), retry_after=wait / SECOND)
            raise QueryRefused("rate", wait / SECOND)
        return False

    def charge(self, accounts: list[Any], extra: float) -> None:
        """Charge accounts for suspicious rows, whether they can pay or not."""
        if self.rate is None or not accounts or extra <= 0:
            return
        debits = {
            self.key_of(name): self.rate.debit(extra * count)
            for name, count in rows_of(accounts).items()
        }
        try:
            self.store.hit(debits, self.rate.tolerance, self._micros(), force=True)
        except StoreError as error:
            self.fail(error, accounts)

    def fail(self, error: StoreError, accounts: list[Any]) -> None:
        """Refuse, or let pass what the store cannot tell of."""
        logger.error("the store of a guard failed: %s", error)
        if self._is_open:
            self.count(answered_without_store=1)
            return
        self.count(refused_as_unavailable=1)
        self.note("unavailable", accounts, rows=len(accounts))
        raise QueryRefused("unavailable", 1.0)

    def catch_up(self, now: float) -> None:
        """Remember what other processes were asked; where the store fails, later."""
        assert self.watch is not None
        try:
            self.watch.catch_up(now)
        except StoreError as error:
            logger.error("the store of a guard failed: %s", error)

    def remember_scores(self, accounts: list[Any], seen: list[Seen]) -> None:
        """Keep the latest scores of each account, for a plot."""
        now = self.now()
        with self._lock:
            for name, one in zip(accounts, seen, strict=True):
                self._recent.add(self.id_of(name), now, one.score)

    def recent(self, account: Any) -> np.ndarray:
        """Return times and scores of an account, shape (n, 2)."""
        with self._lock:
            return self._recent.of(self.id_of(account))

    def note(self, event: str, accounts: list[Any], **more: Any) -> None:
        """Write a line of JSON to the audit log."""
        names = sorted({shown(name) for name in accounts}, key=repr)
        entry = {"time": self.now(), "event": event, "accounts": names, **more}
        audit.warning("%s", Line(entry), extra={"event": entry})

    def close(self) -> None:
        """Let go of the store."""
        self.store.close()
