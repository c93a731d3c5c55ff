"""One array of images of different sizes."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite

from sk_advdef._images import ImageLayout, check_channel_axis, sides_of
from sk_advdef._validation import invalid
from sk_advdef.squeezers._operators import apply_along, area_matrix, nearest_bytes

DTYPES = (np.float32, np.float64, np.uint8)


def stack_images(images: Any, size: Any, *, channel_axis: int = -1) -> np.ndarray:
    """Resize images of different sizes to one size and stack them.

    Each new pixel is the mean of the area that it covers, as in :class:`Downscaler`:
    shrinking leaves no pixel out, and enlarging repeats pixels (and blends two where an
    edge between them falls inside a new one), so that no value lies outside the range
    of the image.

    Parameters
    ----------
    images : iterable of array-like of shape (height, width[, n_channels])
        Images of any sizes, all without or all with a channel axis and with equal
        numbers of channels, all of one dtype. Not empty.
    size : int or tuple of (int, int)
        New ``(height, width)`` in pixels, or one int for both, each in [1, inf).
    channel_axis : int, default=-1
        Axis of the channels within an image of three axes.

    Returns
    -------
    stacked : ndarray of shape (n_images, height, width[, n_channels])
        The resized images, the channels where they were. float32, float64 and uint8 are
        kept (bytes are rounded), other kinds of numbers become float64.

    Raises
    ------
    ValueError
        If there are no images, if they differ in the number of axes, in channels or in
        dtype, or if they hold NaN or infinity.

    See Also
    --------
    Downscaler : Lower the resolution of images that have one size already.

    References
    ----------
    .. [1] E. Quiring, D. Klein, D. Arp, M. Johns, K. Rieck, "Adversarial Preprocessing:
       Understanding and Preventing Image-Scaling Attacks in Machine Learning", USENIX
       Security 2020 (on why areas are averaged and points not sampled).

    Examples
    --------
    >>> import numpy as np
    >>> from sk_advdef import stack_images
    >>> images = [np.array([[1.0, 3.0], [5.0, 7.0]]), np.array([[2.0, 4.0, 6.0]])]
    >>> stack_images(images, size=(1, 2))
    array([[[3.        , 5.        ]],
           [[2.66666667, 5.33333333]]])
    """
    sides = sides_of(size, 2)
    if sides is None:
        allowed = "an int in [1, inf) or a pair (height, width) of them"
        raise invalid("stack_images", "size", allowed, size)
    axis = check_channel_axis("stack_images", channel_axis)
    arrays = _alike(images, axis)
    matrix = lru_cache(maxsize=64)(area_matrix)
    shape = list(arrays[0].shape)
    spatial = _layout(arrays[0], axis).spatial_axes
    for spatial_axis, side in zip(spatial, sides, strict=True):
        shape[spatial_axis] = side
    stacked = np.empty((len(arrays), *shape), dtype=arrays[0].dtype)
    for array, resized in zip(arrays, stacked, strict=True):
        resized[...] = _resized(array, _layout(array, axis), sides, matrix)
    return stacked


def _layout(array: np.ndarray, axis: int) -> ImageLayout:
    return ImageLayout(array.shape, axis if array.ndim == 3 else None, stacked=True)


def _alike(images: Any, axis: int) -> list[np.ndarray]:
    """Return the images as arrays, after a look at all that must be the same."""
    try:
        given = None if isinstance(images, (str, bytes)) else list(images)
    except TypeError:
        given = None
    if given is None:
        raise invalid("stack_images", "images", "a sequence of images", images)
    arrays = [np.asarray(image) for image in given]
    if not arrays:
        raise ValueError("stack_images needs at least one image. Got none.")
    for i, array in enumerate(arrays):
        if array.ndim not in (2, 3) or 0 in array.shape:
            raise ValueError(
                "Images of stack_images must have the shape (height, width) or "
                f"(height, width, n_channels), no side 0. images[{i}] has the shape "
                f"{array.shape}."
            )
    _check_same(
        "numbers of axes", [a.ndim for a in arrays], "such as image[..., np.newaxis]"
    )
    if arrays[0].ndim == 3:
        channels = [a.shape[axis] for a in arrays]
        _check_same(
            f"numbers of channels (axis {axis})", channels, "or pass channel_axis"
        )
    _check_same(
        "dtypes", [a.dtype for a in arrays], "and mind that floats may lie in [0, 1]"
    )
    dtype = arrays[0].dtype
    if dtype.kind not in "biuf":
        raise ValueError(f"Images of stack_images must be real numbers. Got {dtype}.")
    if dtype.type not in DTYPES or not dtype.isnative:
        wide = dtype.kind == "f" and dtype.itemsize == 4
        arrays = [a.astype(np.float32 if wide else np.float64) for a in arrays]
    for i, array in enumerate(arrays):
        assert_all_finite(array, input_name=f"images[{i}]")
    return arrays


def _check_same(what: str, found: list[Any], hint: str) -> None:
    other = next((i for i, value in enumerate(found) if value != found[0]), None)
    if other is not None:
        raise ValueError(
            f"Images of stack_images must have equal {what}. images[0] has {found[0]}, "
            f"images[{other}] has {found[other]}: convert them first, {hint}."
        )


def _resized(
    image: np.ndarray,
    layout: ImageLayout,
    sides: tuple[int, ...],
    matrix: Callable[[int, int], Any],
) -> np.ndarray:
    is_uint8 = image.dtype == np.uint8
    dtype = np.float64 if is_uint8 else image.dtype
    resized = layout.unfold(image[np.newaxis].astype(dtype, copy=False))
    for axis, side in zip((1, 2), sides, strict=True):
        length = resized.shape[axis]
        if length != side:
            resized = apply_along(matrix(length, side).astype(dtype), resized, axis)
    resized = layout.fold(resized)[0]
    return nearest_bytes(resized) if is_uint8 else resized
