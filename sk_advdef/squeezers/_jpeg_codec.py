"""Images through JPEG and back, many at once where that gives the same bytes.

A call of Pillow costs more than the JPEG of a small image, so small images go through
it as one tall image. JPEG works on blocks of pixels that do not know each other: where
each image is filled up to whole blocks by its last row, as the encoder would, the
blocks are those of single images. Colors alone are stored at half the resolution. Where
they are brought back, one image looks over the edge at the next, so the first and the
last row of each are made anew from what is stored; and where an even height is not one
of whole blocks, the encoder fills up with colors that no row of pixels has, so such
images go one by one. Pillow's own answers decide: images of several kinds are compared
once, and where one differs, all go one by one.
"""

from __future__ import annotations

from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from sklearn.utils import gen_batches

#: Sides that JPEG can store.
LONGEST_SIDE = 65500

#: Colored images of more pixels are faster one by one.
LARGEST_TILE = 1 << 13

#: Pixels that are coded at once, far below what Pillow takes for an attack.
MOST_PIXELS = 1 << 22


def pillow() -> Any:
    """Import PIL.Image, or say what to install."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "JpegSqueezer needs Pillow. Install it with "
            'pip install "sk_advdef[images]".'
        ) from error
    return Image


def recompressed(images: np.ndarray, quality: int) -> np.ndarray:
    """Return images as they come back from Pillow's JPEG, each as if alone.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, height, width, channels)
        Gray (one channel) or RGB images.
    quality : int
        Quality of the JPEG, as Pillow takes it.

    Returns
    -------
    images : ndarray of the same shape and dtype
    """
    n, height, width, channels = images.shape
    tall = _whole_blocks(height)
    together = min(LONGEST_SIDE // tall, MOST_PIXELS // (tall * width))
    suits = channels == 1 or (
        height * width <= LARGEST_TILE and (height % 2 == 1 or height == tall)
    )
    if n == 1 or together < 2 or not suits or not _tiles_are_exact():
        return one_by_one(images, quality)
    back = np.empty_like(images)
    for rows in gen_batches(n, together):
        back[rows] = tiled(images[rows], quality)
    return back


def _whole_blocks(height: int) -> int:
    return -(-height // 16) * 16


def one_by_one(images: np.ndarray, quality: int) -> np.ndarray:
    """Encode and decode each image alone."""
    back = np.empty_like(images)
    for image, place in zip(images, back, strict=True):
        place[...] = _decoded(_encoded(image, quality)).reshape(place.shape)
    return back


@cache
def _tiles_are_exact() -> bool:
    noise = np.random.default_rng(0).integers(0, 256, (3, 33, 47, 3), dtype=np.uint8)
    sides = [(33, 47), (32, 32), (7, 5), (16, 3)]
    cases = [noise[:, :h, :w, :c] for h, w in sides for c in (1, 3)]
    return all(
        np.array_equal(tiled(case, quality), one_by_one(case, quality))
        for case in cases
        for quality in (20, 90)
    )


def tiled(images: np.ndarray, quality: int) -> np.ndarray:
    """Encode and decode images as one, a tall one."""
    n, height, width, channels = images.shape
    tall = _whole_blocks(height)
    filled = np.empty((n, tall, width, channels), dtype=np.uint8)
    filled[:, :height] = images
    filled[:, height:] = images[:, -1:]
    code = _encoded(filled.reshape(n * tall, width, channels), quality)
    back = _decoded(code).reshape(filled.shape)[:, :height]
    # libjpeg repeats the color of narrow images, without a look at neighbors
    if channels == 3 and width > 4:
        _mend_edges(back, code, tall)
    return back


def _mend_edges(images: np.ndarray, code: bytes, tall: int) -> None:
    """Write the first row and the last anew, with colors of their own image alone."""
    n, height, width, _ = images.shape
    # A last row that is the upper one of two looks at the row above only.
    rows = np.array([0, height - 1] if height % 2 == 0 else [0])
    light = _decoded(code, "L", (width, n * tall)).reshape(n, tall, width)
    # At half the size colors come as they are stored, two pixels wide and high.
    stored = _decoded(code, "YCbCr", (width // 2, n * tall // 2))
    stored = stored.reshape(n, tall // 2, -1, 3)[:, rows // 2, :, 1:]
    colors = wider(np.moveaxis(stored, -1, 0).astype(np.int32), width)
    images[:, rows] = rgb(light[:, rows].astype(np.int32), *colors)


def wider(colors: np.ndarray, width: int) -> np.ndarray:
    """Bring rows of colors to twice their width as libjpeg does: 3/4 and 1/4."""
    both = np.empty((*colors.shape, 2), dtype=colors.dtype)
    both[...] = 3 * colors[..., None] + [2, 1]
    both[..., 1:, 0] += colors[..., :-1]
    both[..., 0, 0] += colors[..., 0]
    both[..., :-1, 1] += colors[..., 1:]
    both[..., -1, 1] += colors[..., -1]
    return (both >> 2).reshape(*colors.shape[:-1], -1)[..., :width]


def rgb(light: np.ndarray, blue: np.ndarray, red: np.ndarray) -> np.ndarray:
    """Turn Y, Cb and Cr to RGB in libjpeg's whole numbers."""
    blue, red, half = blue - 128, red - 128, 1 << 15
    pixels = np.stack(
        [
            light + ((91881 * red + half) >> 16),
            light + ((-22554 * blue - 46802 * red + half) >> 16),
            light + ((116130 * blue + half) >> 16),
        ],
        axis=-1,
    )
    return np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)


def _encoded(image: np.ndarray, quality: int) -> bytes:
    file = BytesIO()
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    pillow().fromarray(np.ascontiguousarray(pixels)).save(
        file, format="JPEG", quality=quality
    )
    return file.getvalue()


def _decoded(code: bytes, mode: str = "", size: Any = None) -> np.ndarray:
    with pillow().open(BytesIO(code)) as image:
        if mode:
            image.draft(mode, size)
        return np.array(image)


def quantization_tables(quality: int) -> list[np.ndarray]:
    """Return what Pillow divides the coefficients of brightness and color by."""
    gray = np.zeros((8, 8, 3), dtype=np.uint8)
    with pillow().open(BytesIO(_encoded(gray, quality))) as image:
        tables = image.quantization
    return [np.array(tables[k], dtype=float).reshape(8, 8) for k in sorted(tables)]
