"""The median of each pixel's window, as scipy.ndimage.median_filter defines it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided, sliding_window_view
from scipy import ndimage

from sk_advdef.squeezers._operators import reflected
from sk_advdef.squeezers._selection import Selection, selection

#: Bytes that the values of one block may take while they are compared, if the images
#: take as many; a small batch is given the smaller number.
CACHE = 1 << 21
SMALL_CACHE = 1 << 18

#: A network pays up to about this many bytes that its steps pass for each pixel.
MOST_BYTES = 1000


def median_rank(window: tuple[int, int]) -> int:
    """Return which of a window's sorted values is its median: the upper one of two."""
    return window[0] * window[1] // 2


def before(side: int) -> int:
    """Return how many pixels of a window's side lie before the pixel it belongs to."""
    return side // 2


def cache_for(images: Any) -> int:
    """Return how many bytes of work lie well in the cache and beside the images."""
    return min(CACHE, max(SMALL_CACHE, images.nbytes))


def median_filter(images: Any, window: tuple[int, int], out: Any) -> None:
    """Write the median of each window of (n, height, width, channels) to ``out``.

    Borders are reflected. ``images`` and ``out`` may have any strides.
    """
    if _network_is_short(window, images.itemsize):
        _by_network(images, window, out)
    elif images.shape[1] == images.shape[3] == window[0] == 1:
        _by_rolling(images, window, out)
    else:
        _by_partition(images, window, out)


def _network_is_short(window: tuple[int, int], itemsize: int) -> bool:
    # It takes several steps for each value of a large window: no need to build it.
    if itemsize * window[0] * window[1] > MOST_BYTES:
        return False
    steps = selection(*window, median_rank(window)).n_steps
    return itemsize * steps <= MOST_BYTES


def _by_rolling(signals: Any, window: tuple[int, int], out: Any) -> None:
    """Roll along each signal, of shape (1, length, 1), with scipy's filter of lines."""
    length = signals.shape[2]
    padded = _room_for_one(signals, window)
    start = before(window[1])
    for signal, squeezed in zip(signals, out, strict=True):
        _pad(signal[None], 0, start, padded)
        medians = ndimage.median_filter(padded.ravel(), window[1])
        squeezed[0, :, 0] = medians[start : start + length]


def _by_partition(images: Any, window: tuple[int, int], out: Any) -> None:
    """Part the values of each window at its median."""
    _, height, width, channels = images.shape
    rank = median_rank(window)
    padded = _room_for_one(images, window)
    windows = sliding_window_view(padded[0], window, axis=(0, 1))
    pixels = cache_for(images) // (channels * window[0] * window[1] * images.itemsize)
    across = min(width, max(1, pixels))
    down = max(1, pixels // across)
    for image, squeezed in zip(images, out, strict=True):
        _pad(image[None], -before(window[0]), before(window[1]), padded)
        for i in range(0, height, down):
            for j in range(0, width, across):
                block = np.s_[i : i + down, j : j + across]
                squeezed[block] = _parted(windows[block], rank)


def _parted(windows: Any, rank: int) -> Any:
    """Return the value of this rank in each window, the last two axes."""
    values = windows.copy().reshape(*windows.shape[:-2], -1)
    values.partition(rank, axis=-1)
    return values[..., rank]


def _room_for_one(images: Any, window: tuple[int, int]) -> Any:
    """Return an array for one image with what its windows reach beyond it."""
    _, height, width, channels = images.shape
    shape = (1, height + window[0] - 1, width + window[1] - 1, channels)
    return np.empty(shape, dtype=images.dtype)


def _by_network(images: Any, window: tuple[int, int], out: Any) -> None:
    """Compare all windows of a block at once, step by step."""
    n, height, width, channels = images.shape
    network = selection(*window, median_rank(window))
    places = 1 + network.columns.n_registers + network.window.n_registers
    a_row = (width + window[1] - 1) * channels
    rows = max(1, cache_for(images) // (images.itemsize * places * a_row))
    # Rows of several images, or bands of one.
    band = min(height, max(rows - window[0] + 1, window[0]))
    together = min(n, max(1, rows // (band + window[0] - 1)))
    size = together * (band + window[0] - 1) * a_row
    space = np.empty((places, size), dtype=images.dtype)
    for first in range(0, n, together):
        part = images[first : first + together]
        for top in range(0, height, band):
            bottom = min(top + band, height)
            medians = _medians(part, top, bottom, window, network, space)
            out[first : first + together, top:bottom] = medians


def _medians(
    images: Any,
    top: int,
    bottom: int,
    window: tuple[int, int],
    network: Selection,
    space: Any,
) -> Any:
    """Return the medians of rows ``top`` to ``bottom``, as a view of ``space``."""
    n, _, width, channels = images.shape
    height = bottom - top
    padded = (n, height + window[0] - 1, width + window[1] - 1, channels)
    flat = space[0, : np.prod(padded)]
    _pad(images, top - before(window[0]), before(window[1]), flat.reshape(padded))
    # Flat: a pixel's neighbors lie at fixed distances. Windows that run over an edge
    # mix what does not belong together; they are computed with the rest and left out.
    a_row = padded[2] * channels
    length = len(flat) - (window[0] - 1) * a_row
    columns = network.columns.run(
        [flat[i * a_row :][:length] for i in range(window[0])], space[1:]
    )
    length -= (window[1] - 1) * channels
    (medians,) = network.window.run(
        [columns[rank][j * channels :][:length] for rank, j in network.reads],
        space[1 + network.columns.n_registers :],
    )
    steps = (padded[1] * a_row, a_row, channels, 1)
    return as_strided(
        medians,
        (n, height, width, channels),
        tuple(step * medians.itemsize for step in steps),
        writeable=False,
    )


def _pad(images: Any, top: int, left: int, padded: Any) -> None:
    """Fill ``padded`` with rows from ``top`` on; ``left`` columns come before them."""
    height, width = images.shape[1:3]
    first, last = max(top, 0), min(top + padded.shape[1], height)
    inside = padded[:, :, left : left + width]
    inside[:, first - top : last - top] = images[:, first:last]
    for row in (*range(first - top), *range(last - top, padded.shape[1])):
        inside[:, row] = images[:, reflected(top + row, height)]
    for column in (*range(left), *range(left + width, padded.shape[2])):
        padded[:, :, column] = inside[:, :, reflected(column - left, width)]
