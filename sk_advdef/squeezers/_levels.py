"""Even levels of a range of values: to their numbers and back."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from sk_advdef._validation import check_range

RANGE_OF_UINT8 = (0.0, 255.0)

#: Rows that tell on which scale the others are.
LOOKED_AT = 16


def fitted_range(owner: Any, X: np.ndarray, *, per_feature: bool) -> tuple[Any, Any]:
    """Return the range of bytes, the one given as ``value_range``, or that of ``X``."""
    given = owner.value_range
    if given is not None:
        given = check_range(owner, "value_range", given)
    if X.dtype == np.uint8:
        return RANGE_OF_UINT8
    if given is not None:
        return given
    if per_feature:
        return X.min(axis=0), X.max(axis=0)
    return float(X.min()), float(X.max())


def warn_of_other_scale(owner: Any, X: np.ndarray) -> None:
    """Warn of floats up to 1 where the levels are those of bytes."""
    of_bytes = np.ndim(owner.value_range_[0]) == 0 and (
        tuple(owner.value_range_) == RANGE_OF_UINT8
    )
    if of_bytes and X.dtype != np.uint8:
        highest = X[:LOOKED_AT].max(initial=0)
        if 0 < highest <= 1:
            warnings.warn(
                f"{type(owner).__name__} was fitted on values from 0 to 255, and the "
                f"highest of the first rows of X is {highest:g}: if X was divided by "
                "255, fit on rows that were too.",
                UserWarning,
                stacklevel=5,  # past set_output
            )


class Levels:
    """The levels ``low + k (high - low) / steps``, k = 0, ..., steps, in one dtype.

    Parameters
    ----------
    value_range : tuple of (float, float) or of two ndarrays of shape (n_features,)
        Lowest and highest level.
    steps : int
        One less than the number of levels.
    dtype : dtype
        Type of the numbers to compute with.
    """

    def __init__(self, value_range: tuple[Any, Any], steps: int, dtype: Any) -> None:
        with np.errstate(all="ignore"):
            low, high = (np.asarray(v, dtype=dtype) for v in value_range)
            per_unit = dtype.type(steps) / (high - low)
            # No width, or less than can be divided by: one level, ``low``.
            has_levels = np.isfinite(per_unit)
            per_unit = np.where(has_levels, per_unit, dtype.type(steps))
            top = low + np.where(has_levels, steps, 0).astype(dtype) / per_unit
        self.low, self.high, self.per_unit = low, high, per_unit
        self.too_wide = not per_unit.all() or not np.isfinite([low, high]).all()
        self.starts_at_zero = not low.any()
        #: Whether errors of rounding can lift the highest level above the range.
        self.can_exceed = bool((top > high).any())
        self._kind = f"u{dtype.itemsize}"
        one_range = low.ndim == 0
        self._last = high.view(self._kind) if one_range and self.starts_at_zero else 0

    def hold(self, X: Any) -> bool:
        """Return whether the range is known to hold all values, and these are finite.

        It takes one pass: read as whole numbers, the bits of floats from 0 on are in
        order, and those of negative values, infinity and NaN are larger. False where
        the range does not start at 0.
        """
        return bool(self._last) and bool(X.view(self._kind).max() <= self._last)

    def number(self, X: Any, out: Any, *, clip: bool) -> Any:
        """Write the number of the nearest level, a float, to ``out``."""
        if self.too_wide:
            raise ValueError(
                f"The range of X from {self.low.min()} to {self.high.max()} is too "
                f"wide for levels of {self.low.dtype}: scale X, or pass a narrower "
                "value_range."
            )
        if clip:
            X = np.clip(X, self.low, self.high, out=out)
        if not self.starts_at_zero:
            X = np.subtract(X, self.low, out=out)
        np.multiply(X, self.per_unit, out=out)
        return np.rint(out, out=out)

    def value(self, numbers: Any, out: Any) -> Any:
        """Write the levels of these numbers to ``out``."""
        np.divide(numbers, self.per_unit, out=out)
        if not self.starts_at_zero:
            np.add(out, self.low, out=out)
        if self.can_exceed:
            np.minimum(out, self.high, out=out)
        return out


def levels_of(value_range: tuple[Any, Any], steps: int) -> dict[str, Levels]:
    """Return the levels for both kinds of floats."""
    dtypes = (np.dtype(np.float32), np.dtype(np.float64))
    return {dtype.name: Levels(value_range, steps, dtype) for dtype in dtypes}
