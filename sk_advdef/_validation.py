"""Checks of parameters and arrays, and the wording of their errors."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

#: Types of numbers, bool among them.
INTS = (int, np.integer)
FLOATS = (float, np.floating, *INTS)


class InvalidParameterError(ValueError, TypeError):
    """A parameter is of the wrong type or outside its range."""


def name_of(owner: object) -> str:
    """Name whose parameters they are."""
    return owner if isinstance(owner, str) else type(owner).__name__


def shortened(text: str, length: int = 70) -> str:
    """Cut a long text, and say so."""
    return text if len(text) <= length else f"{text[: length - 4]} ..."


def invalid(owner: object, name: str, allowed: str, got: object) -> Exception:
    """Word the error for a parameter, in the one form that all of ours have."""
    return InvalidParameterError(
        f"The {name!r} parameter of {name_of(owner)} must be {allowed}. "
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

    Numbers are those of Python and NumPy: a Fraction is none, since tensors do not
    compute with it, and an int that 64 bits do not hold is no float. ``closed`` names
    the closed ends of the interval; an infinite end is always open. ``otherwise`` ends
    the sentence on what is allowed, such as ``" or None"``.
    """
    left = "[" if closed in ("both", "left") and math.isfinite(low) else "("
    right = "]" if closed in ("both", "right") and math.isfinite(high) else ")"
    ok = isinstance(value, INTS if integer else FLOATS) and not isinstance(value, bool)
    if ok and not integer and isinstance(value, int):
        ok = -(2**63) <= value < 2**63
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


def as_floats(values: Any) -> np.ndarray:
    """Return numbers as float64; raise TypeError for dates, text and complex numbers.

    NumPy would take dates for numbers of days.
    """
    found = np.asarray(values)
    if found.dtype.kind not in "biufO":
        raise TypeError(f"{found.dtype} is no number")
    return found.astype(np.float64)


def seconds(owner: object, clock: Callable[[], Any]) -> float:
    """Ask a clock that a user gave."""
    now: Any = clock()
    # neither infinite nor NaN
    if isinstance(now, FLOATS) and -(2**62) < now < 2**62:
        return float(now)
    raise invalid(owner, "clock", "a callable that returns seconds, as a float", now)


def check_range(owner: object, name: str, value: Any) -> tuple[float, float]:
    """Return ``value`` as a pair of finite floats in rising order."""
    # an iterator would be used up by this look at it
    pair: Any = (None, None) if isinstance(value, Iterator) else value
    try:
        low, high = pair
    except (TypeError, ValueError):
        low = high = None
    ok = all(
        isinstance(v, numbers.Real) and not isinstance(v, bool) for v in (low, high)
    )
    if not (ok and np.isfinite([low, high]).all() and low < high):
        raise invalid(owner, name, "a pair (low, high) of numbers, low < high", value)
    return float(low), float(high)


def kinds_in(labels: np.ndarray) -> str:
    """Name the types of labels, for a message."""
    return ", ".join(sorted({type(label).__name__ for label in labels.tolist()}))


def check_classifier(
    owner: object, name: str, value: Any, methods: tuple[str, ...] = ("fit", "predict")
) -> None:
    """Refuse what is no instance of a classifier, fitted or not."""
    if isinstance(value, type) or not all(hasattr(value, m) for m in methods):
        allowed = f"a classifier, with {' and '.join(methods)}"
        raise invalid(owner, name, allowed, value)


def check_model(owner: object, value: Any) -> None:
    """Refuse an ``estimator`` that cannot answer."""
    check_classifier(owner, "estimator", value, ("predict",))


def check_verbose(owner: object, verbose: Any) -> bool:
    """Return whether progress is to be shown, from a bool or an int from 0 on."""
    if isinstance(verbose, (bool, np.bool_)):
        return bool(verbose)
    kind: dict[str, Any] = {"integer": True, "low": 0, "otherwise": " or a bool"}
    return bool(check_number(owner, "verbose", verbose, **kind))


def check_n_jobs(owner: object, n_jobs: Any) -> None:
    """Refuse what cannot be a number of jobs."""
    if n_jobs is not None:
        check_number(owner, "n_jobs", n_jobs, integer=True, otherwise=" or None")
        if n_jobs == 0:
            raise invalid(owner, "n_jobs", "an int other than 0 or None", n_jobs)


def with_seed(estimator: Any, seed: int) -> Any:
    """Seed whatever is drawn and has no seed yet; changes and returns ``estimator``."""
    params = estimator.get_params()
    for name in sorted(params):
        if name.rpartition("__")[2] == "random_state" and params[name] is None:
            estimator.set_params(**{name: seed})
    return estimator


def seed_from(random_state: Any) -> int:
    """Draw one seed; the global generator of NumPy is never touched.

    An int gives the same seed each time, a RandomState instance is advanced as
    scikit-learn would, and None takes fresh entropy from the system.
    """
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0] >> 1)
    try:
        generator = check_random_state(random_state)
    except (TypeError, ValueError) as error:
        raise InvalidParameterError(
            "The 'random_state' parameter must be an int in [0, 2**32), a RandomState "
            f"instance or None. Got {random_state!r} instead."
        ) from error
    return int(generator.randint(np.iinfo(np.int32).max))
