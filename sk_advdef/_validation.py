"""Checks of parameters and arrays, and the wording of their errors."""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np
from sklearn.utils import check_random_state


class InvalidParameterError(ValueError, TypeError):
    """A parameter is of the wrong type or outside its range."""


def _owner_name(owner: object) -> str:
    return owner if isinstance(owner, str) else type(owner).__name__


def invalid(owner: object, name: str, allowed: str, got: object) -> Exception:
    """Word the error for a parameter, in the one form that all of ours have."""
    return InvalidParameterError(
        f"The {name!r} parameter of {_owner_name(owner)} must be {allowed}. "
        f"Got {got!r} instead."
    )


def check_number(
    owner: object,
    name: str,
    value: Any,
    *,
    integer: bool = False,
    low: float = -np.inf,
    high: float = np.inf,
    closed: str = "both",
    otherwise: str = "",
) -> Any:
    """Return ``value`` if it is a number of the kind and range asked for.

    ``closed`` names the closed ends of the interval; an infinite end is always
    open. ``otherwise`` ends the sentence on what is allowed, such as ``" or None"``.
    """
    left = "[" if closed in ("both", "left") and np.isfinite(low) else "("
    right = "]" if closed in ("both", "right") and np.isfinite(high) else ")"
    kind = numbers.Integral if integer else numbers.Real
    ok = isinstance(value, kind) and not isinstance(value, (bool, np.bool_))
    if ok:
        ok = (value >= low if left == "[" else value > low) and (
            value <= high if right == "]" else value < high
        )
    if not ok:
        word = "an int" if integer else "a float"
        interval = f"{left}{low:g}, {high:g}{right}"
        raise invalid(owner, name, f"{word} in {interval}{otherwise}", value)
    return value


def check_option(owner: object, name: str, value: Any, options: Iterable[Any]) -> Any:
    """Return ``value`` if it is one of ``options``."""
    options = list(options)
    # Exact types keep True from 1; strings of NumPy come from searches over arrays.
    kind = str if isinstance(value, str) else type(value)
    for option in options:
        if type(option) is kind and value == option:
            return option
    allowed = ", ".join(map(repr, options))
    raise invalid(owner, name, f"one of {{{allowed}}}", value)


def check_flag(owner: object, name: str, value: Any) -> bool:
    """Return ``value`` if it is a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise invalid(owner, name, "a bool", value)
    return bool(value)


def check_range(owner: object, name: str, value: Any) -> tuple[float, float]:
    """Return ``value`` as a pair of finite floats in rising order."""
    try:
        low, high = value
    except (TypeError, ValueError):
        low = high = None
    ok = all(
        isinstance(v, numbers.Real) and not isinstance(v, bool) for v in (low, high)
    )
    if not (ok and np.isfinite([low, high]).all() and low < high):
        raise invalid(owner, name, "a pair (low, high) of numbers, low < high", value)
    return float(low), float(high)


def seed_from(random_state: Any) -> int:
    """Draw one seed; the global generator of NumPy is never touched.

    An int gives the same seed each time, a RandomState instance is advanced as
    scikit-learn would, and None takes fresh entropy from the system.
    """
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0] >> 1)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
