"""Which rate is held, and whether all who count have counted the same."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from sk_advdef.concealment._gcra import SECOND, parse_rate

ANSWERED, REFUSED = "200", "429"


def held_rate(
    holds: Callable[[float], bool], first: float, most: float, bisections: int
) -> float:
    """Return a rate that is held: the first, doubled until one is not, then bisected.

    Above ``most`` none is tried.
    """
    low, rate = 0.0, first
    while holds(rate):
        low = rate
        if rate >= most:
            return low
        rate = min(2 * rate, most)
    if not low:
        raise RuntimeError(f"not even {first} requests a second are held")
    high = rate
    for _ in range(bisections):
        middle = float(round((low + high) / 2))
        if not low < middle < high:
            break
        if holds(middle):
            low = middle
        else:
            high = middle
    return low


def is_held(told: dict[str, Any], fast: float, overdue: float) -> bool:
    """Whether all answers came, 99 of 100 fast and none overdue, in milliseconds."""
    return (
        told["p99"] < fast
        and told["slowest"] < overdue
        and not set(told["statuses"]) - {ANSWERED, REFUSED}
    )


# --- whether the books agree


def let_through(
    told: dict[str, Any], ahead: dict[str, int], limit: str, burst: int
) -> list[dict[str, Any]]:
    """Compare rows of accounts above their limit with what the limit says.

    Each asks more often than it may from first to last, so that a burst and what the
    rate gives until the last question is let through; what is over is less than a row.
    Where the server stalls for longer than the burst lasts, less is let through.
    ``by store`` is what the store has taken up since the first question.
    """
    rate = parse_rate(None, limit, burst)
    assert rate is not None
    found = []
    for name, until in ahead.items():
        counts = told["accounts"][name]
        answered = counts.get(ANSWERED, 0)
        # a question comes between the times at which it is sent and answered
        began, ended = (sum(told[key][name]) / 2 for key in ("first", "last"))
        allowed = burst + (ended - began) * SECOND / rate.interval
        found.append(
            {
                "account": name,
                "asked": sum(counts.values()),
                "answered": answered,
                "allowed": round(allowed, 3),
                "off": round(answered - allowed, 3),
                "by store": round((until - began * SECOND) / rate.interval, 3),
            }
        )
    return found


def reconciled(
    told: dict[str, Any],
    before: dict[str, Any],
    after: dict[str, Any],
    events: list[dict[str, Any]],
) -> dict[str, Any]:
    """Compare what the client, the server, its log and its store have counted."""
    accounts = told["accounts"]
    total: Counter[str] = Counter()
    for counts in accounts.values():
        total.update(counts)
    counted = {
        name: after["counted"][name] - before["counted"][name]
        for name in ("rows", "refused_for_rate", "suspicious_rows")
    }
    logged = Counter(e["accounts"][0] for e in events if e["event"] == "rate")
    answered = {
        "client": total[ANSWERED],
        "server": counted["rows"] - counted["refused_for_rate"],
    }
    if after["appended"] is not None:
        answered["store"] = after["appended"] - before["appended"]
    return {
        "statuses": dict(sorted(total.items())),
        "asked": {"client": sum(total.values()), "server": counted["rows"]},
        "answered": answered,
        "refused": {
            "client": total[REFUSED],
            "server": counted["refused_for_rate"],
            "log": sum(logged[name] for name in accounts),
        },
        "accounts that differ": sum(
            counts.get(REFUSED, 0) != logged[name] for name, counts in accounts.items()
        ),
        "refused below": sum(
            counts.get(REFUSED, 0)
            for name, counts in accounts.items()
            if "-below-" in name
        ),
        "flagged": counted["suspicious_rows"],
    }
