"""Rows and images: how the values of a sample lie in height, width and channels."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from sk_advdef._validation import check_number, invalid, name_of

#: Numbers of channels that images have.
LIKELY_CHANNELS = (1, 3, 4)

#: From this side on, rows whose width is a square are most likely images.
SMALLEST_SUSPECT_SIDE = 8


def permute(array: Any, order: tuple[int, ...]) -> Any:
    """Reorder the axes of a NumPy array or a torch tensor."""
    if hasattr(array, "permute"):
        return array.permute(order)
    return array.transpose(order)


@dataclass(frozen=True)
class ImageLayout:
    """How one sample unfolds into (height, width, channels).

    ``shape`` is the shape of one sample as it lies in ``X``: ``(length,)`` for a
    signal, ``(height, width)`` for a gray image, three axes for a color image, of
    which ``channel_axis`` is the channel. ``stacked`` tells samples that keep these
    axes from samples that are flattened to rows.
    """

    shape: tuple[int, ...]
    channel_axis: int | None
    stacked: bool

    @property
    def unfolded(self) -> tuple[int, int, int]:
        """Height, width and channels; a signal is an image of height 1."""
        if len(self.shape) == 1:
            return 1, self.shape[0], 1
        if self.channel_axis is None:
            return self.shape[0], self.shape[1], 1
        sides = [s for i, s in enumerate(self.shape) if i != self.channel_axis]
        return sides[0], sides[1], self.shape[self.channel_axis]

    @property
    def spatial_axes(self) -> tuple[int, ...]:
        """The axes of one sample that are squeezed: height and width, or the length."""
        return tuple(i for i in range(len(self.shape)) if i != self.channel_axis)

    def unfold(self, X: Any) -> Any:
        """Turn ``X``, array or tensor, into shape (n, height, width, channels)."""
        n = X.shape[0]
        if self.channel_axis is None:
            return X.reshape((n, *self.unfolded))
        X = X.reshape((n, *self.shape))
        axes = [a for a in (1, 2, 3) if a != self.channel_axis + 1]
        return permute(X, (0, *axes, self.channel_axis + 1))

    def fold(self, images: Any) -> Any:
        """Turn (n, height, width, channels), of any size, into the order of ``X``."""
        n, height, width = images.shape[:3]
        if self.channel_axis is None:
            folded = (n, width) if len(self.shape) == 1 else (n, height, width)
            images = images.reshape(folded)
        else:
            order = [0, 1, 2]
            order.insert(self.channel_axis + 1, 3)
            images = permute(images, tuple(order))
        return images if self.stacked else images.reshape((n, -1))


def sides_of(value: Any, n_sides: int) -> tuple[int, ...] | None:
    """Read one positive int for all sides or one a side; None if it is neither.

    A signal, of one side, may be given as an image of height 1.
    """
    sides = tuple(value) if isinstance(value, (tuple, list)) else (value,) * n_sides
    if n_sides == 1 and len(sides) == 2 and sides[0] == 1:
        sides = sides[1:]
    ok = len(sides) == n_sides and all(
        isinstance(s, (int, np.integer)) and not isinstance(s, bool) and s >= 1
        for s in sides
    )
    return tuple(int(s) for s in sides) if ok else None


def check_channel_axis(owner: object, channel_axis: Any) -> int:
    """Return the channel's axis within one image as 0, 1 or 2."""
    check_number(owner, "channel_axis", channel_axis, integer=True, low=-3, high=2)
    return int(channel_axis) % 3


ALLOWED_SHAPES = '"square", a tuple of 1 to 3 positive ints, or None'


def _check_square(owner: object, image_shape: str) -> None:
    if image_shape != "square":
        raise invalid(owner, "image_shape", ALLOWED_SHAPES, image_shape)


def _warn_of_rows(owner: object, shape: tuple[int, ...], other_way: str) -> None:
    width = math.prod(shape)
    warnings.warn(
        f"{name_of(owner)} takes rows of {width} = {' * '.join(map(str, shape))} "
        f"features as one-dimensional signals. If they are images, pass {other_way}a "
        f"tuple such as image_shape={shape}; if they are signals, pass "
        f"image_shape=({width},) to silence this warning.",
        UserWarning,
        stacklevel=5,
    )


def _shape_of_rows(
    owner: object, image_shape: Any, width: int, axis: int
) -> tuple[int, ...]:
    if image_shape is None:
        side = math.isqrt(width)
        if side >= SMALLEST_SUSPECT_SIDE and side * side == width:
            _warn_of_rows(owner, (side, side), 'image_shape="square" or ')
        side = math.isqrt(width // 3)
        if side >= SMALLEST_SUSPECT_SIDE and 3 * side * side == width:
            color = [side, side]
            color.insert(axis, 3)
            _warn_of_rows(owner, tuple(color), "")
        return (width,)
    if isinstance(image_shape, str):
        _check_square(owner, image_shape)
        side = math.isqrt(width)
        if side * side != width:
            raise ValueError(
                f'image_shape="square" of {name_of(owner)} needs a width that '
                f"is a square number. X has {width} features; pass the shape as a "
                "tuple (height, width) or (height, width, channels)."
            )
        return (side, side)
    shape = _as_shape(owner, image_shape)
    if math.prod(shape) != width:
        raise ValueError(
            f"image_shape={image_shape!r} of {name_of(owner)} has "
            f"{math.prod(shape)} values, but X has {width} features a row."
        )
    return shape


def _as_shape(owner: object, image_shape: Any) -> tuple[int, ...]:
    try:
        shape = () if isinstance(image_shape, bytes) else tuple(image_shape)
    except TypeError:
        shape = ()
    ints = all(
        isinstance(s, (int, np.integer)) and not isinstance(s, bool) and s > 0
        for s in shape
    )
    if not (ints and 1 <= len(shape) <= 3):
        raise invalid(owner, "image_shape", ALLOWED_SHAPES, image_shape)
    return tuple(int(s) for s in shape)


def warn_of_channels(owner: object, shape: tuple[int, ...], axis: int) -> None:
    """Warn where the channels of an image seem to be at its other end."""
    other = 2 - axis  # of the middle axis it is the middle itself
    sides = [s for i, s in enumerate(shape) if i != other]
    if (
        axis != 1
        and shape[other] in LIKELY_CHANNELS
        and min(sides) >= SMALLEST_SUSPECT_SIDE
    ):
        name = name_of(owner)
        warnings.warn(
            f"{name} takes images of shape {shape} to have {shape[axis]} channels, as "
            f"channel_axis={-1 if axis else 0} says. If they have {shape[other]}, pass "
            f"channel_axis={-1 if other else 0}; to a net in skorch, as "
            f"module__channel_axis={-1 if other else 0}.",
            UserWarning,
            stacklevel=4,
        )


def resolve_layout(
    owner: object, shape_of_X: tuple[int, ...], image_shape: Any, channel_axis: Any
) -> ImageLayout:
    """Settle how the samples of an array of ``shape_of_X`` are to be read."""
    axis = check_channel_axis(owner, channel_axis)
    stacked = len(shape_of_X) > 2
    if not stacked:
        shape = _shape_of_rows(owner, image_shape, shape_of_X[1], axis)
    else:
        shape = tuple(shape_of_X[1:])
        if len(shape) > 3:
            raise ValueError(
                f"{name_of(owner)} takes rows (n_samples, n_features) or stacked "
                "images (n_samples, height, width) with or without a channel axis. "
                f"Got an array of shape {tuple(shape_of_X)}."
            )
        layout = ImageLayout(shape, axis if len(shape) == 3 else None, stacked)
        if isinstance(image_shape, str):
            _check_square(owner, image_shape)
            height, width, _ = layout.unfolded
            fits = height == width
        else:
            fits = image_shape is None or _as_shape(owner, image_shape) == shape
        if not fits:
            raise ValueError(
                f"image_shape={image_shape!r} of {name_of(owner)} does not fit "
                f"X, whose images have the shape {shape}."
            )
    if len(shape) == 3:
        warn_of_channels(owner, shape, axis)
    return ImageLayout(shape, axis if len(shape) == 3 else None, stacked)
