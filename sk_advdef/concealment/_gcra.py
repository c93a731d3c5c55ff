"""The generic cell rate algorithm: one number a key says how far it is ahead.

All times are whole microseconds, so that sums are exact in Python, in SQLite and in the
doubles of Lua.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from sk_advdef._validation import invalid

SECOND = 1_000_000
UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
MAX_LIMIT = 1_000_000
#: What may be taken up ahead, some 30 years: with the clock it stays below 2^53.
MAX_AHEAD = 10**15


class Rate(NamedTuple):
    """How much time a query takes up, and how much may be taken up ahead."""

    interval: int
    tolerance: int
    limit: int

    def debit(self, cost: float) -> int:
        """Time that a query of this cost takes up."""
        return math.ceil(cost * self.interval)


def parse_rate(owner: object, limit: object, burst: object) -> Rate | None:
    """Read "60/minute" and a burst, or return None for no limit."""
    if limit is None:
        return None
    form = (
        'None or a string such as "60/minute": a whole number in [1, 1000000], a '
        "slash, and second, minute, hour or day"
    )
    found = re.fullmatch(r"\s*(\d{1,7})\s*/\s*(\w+)\s*", str(limit))
    if not isinstance(limit, str) or found is None or found[2] not in UNITS:
        raise invalid(owner, "limit", form, limit)
    count = int(found[1])
    if not 1 <= count <= MAX_LIMIT:
        raise invalid(owner, "limit", form, limit)
    is_number = isinstance(burst, int) and not isinstance(burst, bool)
    if burst is not None and not (is_number and 1 <= burst <= MAX_LIMIT):  # type: ignore[operator]
        allowed = "an int in [1, 1000000] or None"
        raise invalid(owner, "burst", allowed, burst)
    # rounded up, so that a limit is never exceeded
    interval = -(-UNITS[found[2]] * SECOND // count)
    ahead = count if burst is None else int(burst)  # type: ignore[call-overload]
    if interval * ahead > MAX_AHEAD:
        allowed = f"at most {MAX_AHEAD // interval} with a limit of {limit!r}"
        raise invalid(owner, "burst", allowed, burst)
    return Rate(interval, interval * ahead, count)


def bounded(ahead_until: int, now: int, tolerance: int) -> int:
    """Return an arrival time no further ahead than debts go.

    It is further ahead only where the clock was set back. Stores keep this in its
    place, also where a debit is refused: else nobody could ask until the clock has come
    back to where it was.
    """
    return min(ahead_until, now + 2 * tolerance)


def gcra(ahead_until: int, now: int, debit: int, tolerance: int) -> tuple[int, int]:
    """Return the new arrival time, and how long to wait before the debit is allowed.

    A wait of 0 or less means that it is allowed now.
    """
    start = bounded(max(ahead_until, now), now, tolerance)
    return start + debit, start + debit - now - tolerance


def forced(ahead_until: int, now: int, debit: int, tolerance: int) -> int:
    """Return the new arrival time of a debit that is taken in any case."""
    return bounded(max(ahead_until, now) + debit, now, tolerance)
