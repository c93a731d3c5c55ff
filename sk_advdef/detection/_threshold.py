"""Thresholds from rows that nothing was fitted on."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from sklearn.model_selection import (
    ShuffleSplit,
    StratifiedKFold,
    StratifiedShuffleSplit,
)
from sklearn.utils import column_or_1d, indexable

from sk_advdef._validation import check_number, invalid


def conformal_offset(scores: np.ndarray, contamination: float) -> float:
    """Score below which at most ``contamination`` of new genuine rows lie.

    Of ``n`` scores the one of rank ``floor(contamination * (n + 1))`` is taken: a new
    row from the same source falls below it with that rank over ``n + 1`` at most.
    With fewer rows than can tell, nothing is flagged.
    """
    rank = math.floor(contamination * (len(scores) + 1) * (1 + 1e-12))
    if rank < 1:
        # the share may be so small that its inverse is infinite
        needed = math.ceil(min(1 / contamination - 1 - 1e-9, 2**53))
        warnings.warn(
            f"{len(scores)} held-out rows cannot tell a share of {contamination:g}: "
            f"nothing will be flagged. At least {needed} are needed.",
            UserWarning,
            stacklevel=4,
        )
        return -math.inf
    ranked = np.sort(scores)
    # a little below the score of that rank, lest rounding flag the row it came from
    slack = 1e-4 * abs(ranked[rank - 1])
    if rank > 1:
        slack = min(slack, (ranked[rank - 1] - ranked[rank - 2]) / 2)
    return float(ranked[rank - 1] - slack)


def one_split(owner: Any, cv: Any, X: Any, y: Any, seed: int) -> tuple[Any, Any]:
    """Split rows once: positions to fit the model on, and positions held out."""
    X, y = indexable(X, y)
    labels = column_or_1d(y)
    # text, bytes and tensors have a split of another kind
    if hasattr(cv, "split") and not (isinstance(cv, type) or hasattr(cv, "__len__")):
        learned, held = next(iter(cv.split(X, labels)))
        if np.intersect1d(learned, held).size:
            raise ValueError(
                f"cv={cv!r} of {type(owner).__name__} holds out rows that it also "
                "fits on, and no threshold can be set by these."
            )
        return learned, held
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    n = len(labels)
    if isinstance(cv, (int, np.integer)) and not isinstance(cv, bool):
        check_number(owner, "cv", cv, integer=True, low=2)
        if counts.min() >= cv:
            folds = StratifiedKFold(int(cv), shuffle=True, random_state=seed)
            return next(iter(folds.split(np.zeros(n), labels)))
        share = 1 / int(cv)
    else:
        try:
            check_number(owner, "cv", cv, low=0, high=1, closed="neither")
        except ValueError:
            allowed = "a float in (0, 1), an int in [2, inf) or a splitter"
            raise invalid(owner, "cv", allowed, cv) from None
        share = float(cv)
    held = math.ceil(share * n)
    # the only row of a class is for the model, which else would not know the class
    single = counts[codes] == 1
    common, n_common = np.flatnonzero(~single), np.count_nonzero(counts > 1)
    if n_common and n_common <= min(held, len(common) - held):
        split = StratifiedShuffleSplit(1, test_size=held, random_state=seed)
        learned, out = next(iter(split.split(common, codes[common])))
        return np.append(common[learned], np.flatnonzero(single)), common[out]
    if held <= n - len(counts):
        order = np.random.default_rng(seed).permutation(n)
        first = np.unique(codes[order], return_index=True)[1]
        order = np.append(order[first], np.delete(order, first))
        return order[:-held], order[-held:]
    split = ShuffleSplit(1, test_size=share, random_state=seed)
    return next(iter(split.split(np.zeros(n), labels)))
