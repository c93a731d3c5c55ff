"""From decision values to odds that hold: Platt's sigmoid."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit


def calibrated_odds(decision: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of the log-odds, both classes counted as equally frequent.

    The sigmoid is fitted to targets a little inside 0 and 1 (Platt 1999), which keeps
    it finite where the classes do not overlap. A slope below 0, of values that say
    nothing, becomes 0.
    """
    counts = np.array([(~positive).sum(), positive.sum()], dtype=np.float64)
    target = np.where(positive, (counts[1] + 1) / (counts[1] + 2), 1 / (counts[0] + 2))
    weight = 0.5 / counts[positive.astype(int)]
    center, spread = float(np.median(decision)), float(decision.std())
    if spread == 0:
        return 0.0, 0.0
    unit = (decision - center) / spread

    def loss(found: np.ndarray) -> tuple[float, np.ndarray]:
        odds = found[0] * unit + found[1]
        missed = weight * (expit(odds) - target)
        value = (weight * (np.logaddexp(0, odds) - target * odds)).sum()
        return float(value), np.array([(missed * unit).sum(), missed.sum()])

    slope, intercept = minimize(loss, np.array([1.0, 0.0]), jac=True).x
    if slope <= 0:
        return 0.0, 0.0
    return float(slope / spread), float(intercept - slope * center / spread)
