"""Intervals of shares."""

from __future__ import annotations

from scipy.stats import binomtest


def wilson(share: float, rows: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of ``rows``."""
    if rows == 0:
        return 0.0, 1.0
    interval = binomtest(round(share * rows), rows).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)
