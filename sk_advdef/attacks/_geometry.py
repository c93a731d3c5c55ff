"""Balls and boxes in NumPy: what an attacker may change, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.special import ndtr

from sk_advdef._validation import as_floats, check_number, invalid

NORMS = ("linf", "l2")

#: Between these the squares of float64 neither overflow nor lose digits.
LOWEST_SQUARED, HIGHEST_SQUARED = 1e-140, 1e140


def check_eps(
    owner: object, eps: Any, sample_shape: tuple[int, ...], *, name: str = "eps"
) -> np.ndarray:
    """Return ``eps`` as float64, a scalar or an array that fits one sample."""
    if np.ndim(eps) == 0:
        spaceless = name == "eps" and getattr(owner, "space", eps) is None
        otherwise = ", or a space that brings one" if spaceless else ""
        check_number(owner, name, eps, low=0, otherwise=otherwise)
        return np.asarray(eps, dtype=np.float64)
    allowed = "a float in [0, inf) or an array of them that fits one sample"
    try:
        values = as_floats(eps)
        fits = np.broadcast_shapes(values.shape, sample_shape) == sample_shape
    except (TypeError, ValueError):
        fits = False
    if not fits or not (np.isfinite(values).all() and (values >= 0).all()):
        raise invalid(owner, name, f"{allowed} of shape {sample_shape}", eps)
    return values


def check_bounds(
    owner: object, bounds: Any, X: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the box as two float64 arrays, and refuse ``X`` outside it."""
    if bounds is None:
        return np.asarray(-np.inf), np.asarray(np.inf)
    allowed = (
        "None or a pair (low, high), each a number or an array that fits one sample, "
        "low <= high"
    )
    try:
        low, high = map(as_floats, () if isinstance(bounds, Iterator) else bounds)
        shape = np.broadcast_shapes(low.shape, high.shape, X.shape[1:])
        fits = shape == X.shape[1:] and bool((low <= high).all())
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise invalid(owner, "bounds", allowed, bounds)
    # in X's dtype: bounds taken before a cast to float32 still hold its rounded ends
    ends = low.astype(X.dtype), high.astype(X.dtype)
    if low.ndim == high.ndim == 0:  # without a mask as large as X
        leaves = X.min(initial=np.inf) < ends[0] or X.max(initial=-np.inf) > ends[1]
    else:
        leaves = np.less(X, ends[0]).any() or np.greater(X, ends[1]).any()
    if leaves:
        name = owner if isinstance(owner, str) else type(owner).__name__
        box = f"={bounds!r}" if low.ndim == high.ndim == 0 else ""
        raise ValueError(
            f"X has values from {X.min():g} to {X.max():g}, some of them outside the "
            f"bounds{box} of {name}. Pass the range that input can have, such as "
            "bounds=(X.min(axis=0), X.max(axis=0)), or bounds=None for no box."
        )
    return low, high


def limits(
    X: np.ndarray, eps: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest values, in X's dtype, within ``eps`` of ``X`` and the box.

    Rounded inward, so that ``abs(value - X) <= eps`` holds as computed.
    """
    exact = X.astype(np.float64)
    lower = rounded(np.maximum(exact - eps, low), X.dtype, up=True)
    upper = rounded(np.minimum(exact + eps, high), X.dtype, up=False)
    for _ in range(2):
        lower = np.where(exact - lower > eps, np.nextafter(lower, X), lower)
        upper = np.where(upper - exact > eps, np.nextafter(upper, X), upper)
    # a row on the rounded end of the box stays there
    return np.minimum(lower, X), np.maximum(upper, X)


def rounded(values: np.ndarray, dtype: np.dtype, *, up: bool) -> np.ndarray:
    """Cast to a float dtype; what it does not hold goes up, or down."""
    with np.errstate(over="ignore"):
        cast = values.astype(dtype)
    if up:
        return np.where(cast < values, np.nextafter(cast, dtype.type(np.inf)), cast)
    return np.where(cast > values, np.nextafter(cast, dtype.type(-np.inf)), cast)


def lengths(delta: np.ndarray, norm: str) -> np.ndarray:
    """Norm of each row of changes, float64."""
    width = int(np.prod(delta.shape[1:]))
    flat = np.asarray(delta, dtype=np.float64).reshape(len(delta), width)
    if norm == "linf":
        return np.abs(flat).max(axis=1, initial=0)
    if norm == "l0":
        return (flat != 0).sum(axis=1).astype(np.float64)
    peak = np.abs(flat).max(axis=1, initial=0)
    if not ((peak > HIGHEST_SQUARED) | ((peak < LOWEST_SQUARED) & (peak > 0))).any():
        return np.sqrt((flat * flat).sum(axis=1))
    # powers of two change no digit
    power = np.frexp(peak)[1]
    unit = np.ldexp(flat, -power[:, None])
    return np.ldexp(np.sqrt((unit * unit).sum(axis=1)), power)


def shortened_to_ball(
    whole: np.ndarray, delta: np.ndarray, eps: np.ndarray
) -> np.ndarray:
    """Take back roundings away from 0, the longest first, until rows are in the ball.

    ``whole`` is ``delta`` rounded, and ``delta`` lies within the ball.
    """
    shape = whole.shape
    to, given = whole.reshape(len(whole), -1), delta.reshape(len(delta), -1)
    radii = np.broadcast_to(eps, shape[1:]).ravel()
    with np.errstate(divide="ignore", invalid="ignore"):
        over = np.abs(to) - np.abs(given)
        size = np.where(radii > 0, to / radii, 0.0) ** 2
        less = np.where(radii > 0, np.maximum(np.abs(to) - 1, 0) / radii, 0.0) ** 2
    gain = np.where(over > 0, size - less, 0.0)
    order = np.argsort(-over, axis=1, kind="stable")
    saved = np.cumsum(np.take_along_axis(gain, order, axis=1), axis=1)
    needed = size.sum(axis=1, keepdims=True) - 1
    before = saved - np.take_along_axis(gain, order, axis=1)
    back = np.take_along_axis(over > 0, order, axis=1) & (before < needed)
    taken = np.zeros(to.shape, dtype=bool)
    np.put_along_axis(taken, order, back, axis=1)
    return np.where(taken, to - np.sign(to), to).reshape(shape)


def relative(delta: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """Express changes in units of ``eps``; where ``eps`` is zero nothing may change."""
    return np.divide(delta, eps, out=np.zeros(delta.shape), where=eps > 0)


def into_ball(
    X_adv: np.ndarray, X: np.ndarray, eps: np.ndarray, norm: str
) -> np.ndarray:
    """Pull each row back until its L2 length, as computed, is within ``eps``."""
    if norm == "linf":
        return X_adv
    exact = X.astype(np.float64)
    axes = (1,) * (X.ndim - 1)
    for _ in range(60):
        delta = X_adv.astype(np.float64) - exact
        if eps.ndim == 0:
            length = lengths(delta, "l2")
            over = length > eps
            scale = eps / np.where(over, length, 1)
        else:
            length = lengths(relative(delta, eps), "l2")
            over = length > 1
            scale = 1 / np.where(over, length, 1)
        if not over.any():
            break
        shrink = np.where(over, scale * (1 - 1e-7), 1).reshape(-1, *axes)
        delta = delta * shrink
        pulled = (exact + delta).astype(X.dtype)
        # rounding away from X would undo the pull where X is large
        far = np.abs(pulled - exact) > np.abs(delta)
        pulled = np.where(far, np.nextafter(pulled, X), pulled)
        X_adv = np.where(over.reshape(-1, *axes), pulled, X_adv)
    return X_adv


def random_in_ball(
    rng: np.random.Generator, shape: tuple[int, ...], norm: str
) -> np.ndarray:
    """Draw points uniformly in the unit ball, a row each.

    What a row gets depends on its position only, not on how many rows follow.
    """
    width = int(np.prod(shape[1:]))
    if norm == "linf":
        return rng.uniform(-1, 1, size=shape)
    draws = rng.standard_normal((shape[0], width + 1))
    radius = ndtr(draws[:, :1]) ** (1 / width)
    direction = draws[:, 1:]
    length = np.linalg.norm(direction, axis=1, keepdims=True)
    return (direction / np.maximum(length, 1e-300) * radius).reshape(shape)
