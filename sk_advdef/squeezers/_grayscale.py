"""Brightness without color."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from sk_advdef._images import ImageLayout
from sk_advdef._validation import check_flag, invalid
from sk_advdef.squeezers._base import ImageSqueezer
from sk_advdef.squeezers._names import NamesByWidth

#: What the weights of bytes, whole numbers, add up to.
ONE = 1 << 16


def whole_weights(weights: np.ndarray) -> list[int]:
    """Turn weights, which add up to 1, into whole numbers that add up to ``ONE``."""
    whole = np.rint(weights * ONE).astype(int)
    whole[np.argmax(whole)] += ONE - whole.sum()
    return whole.tolist()


def luma(images: Any, weights: np.ndarray) -> Any:
    """Return the weighted mean of the channels, the last axis, in the dtype given."""
    if images.dtype == np.uint8:
        # whole numbers, halves up: no error of rounding can decide about a byte
        gray = _weighted(images, np.int32, whole_weights(weights))
        return ((gray + ONE // 2) >> 16).astype(np.uint8)
    return _weighted(images, images.dtype, weights.astype(images.dtype))


def _weighted(images: Any, dtype: Any, weights: Any) -> Any:
    # Channel by channel: the order of the sums never hangs on the number of rows.
    gray = np.multiply(images[..., 0], weights[0], dtype=dtype)
    for channel, weight in enumerate(weights[1:], start=1):
        gray += np.multiply(images[..., channel], weight, dtype=dtype)
    return gray


class GrayscaleSqueezer(NamesByWidth, ImageSqueezer):
    """Replace colors by their brightness.

    Gray is a weighted mean of the channels. Changes of color that leave the brightness
    alone disappear. Images without a channel axis, or with one channel, and signals are
    gray already and stay as they are.

    Parameters
    ----------
    image_shape : "square", tuple of int or None, default=None
        Shape of the image in a row: ``(height, width)``, ``(height, width,
        n_channels)`` or, for signals, ``(n_features,)``. None takes stacked images
        as they are and rows as signals.
    channel_axis : int, default=-1
        Axis of the channels within one image of three axes.
    weights : array-like of shape (n_channels,), default=(0.299, 0.587, 0.114)
        Share of each channel, in [0, inf); they are divided by their sum. The default
        is luma as ITU-R BT.601 defines it, for red, green and blue, which Pillow uses.
        ``(0.2125, 0.7154, 0.0721)`` is what scikit-image uses, after BT.709; for an
        image with transparency add a weight of 0.
    keep_channels : bool, default=True
        Whether each channel of the output holds the gray image, so that whatever is
        learned on color still fits. Otherwise the channel axis has length 1.
    n_jobs : int or None, default=None
        Number of threads that share the rows, as in joblib. The result does not hang on
        it.

    Attributes
    ----------
    image_shape_ : tuple of int
        Shape of one image as it lies in ``X``.
    weights_ : ndarray of shape (n_channels,) or None
        Shares of the channels, with sum 1; None if the images are gray already.
    n_features_in_ : int
        Number of features seen in ``fit`` (for stacked images, their first axis).
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen in ``fit``, where ``X`` has names that are all strings.

    See Also
    --------
    BitDepthSqueezer : Lower the number of levels of each value.
    Downscaler : Lower the resolution.

    Notes
    -----
    Input of dtype uint8 is computed with weights of 16 bits and rounded to the nearest
    byte, halves up: with the default weights these are the bytes of Pillow's
    ``convert("L")``.

    **What an adaptive attacker does to it**: the mean is linear, so its gradient is
    exact and an attack simply goes through it. What is lost is the part of a change
    that only moves the color; an attacker who knows the weights spends nothing on it
    and moves all channels together.

    References
    ----------
    .. [1] ITU-R Recommendation BT.601-7, "Studio encoding parameters of digital
       television", 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_advdef import GrayscaleSqueezer
    >>> X = np.array([[[[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]]])  # red, cyan
    >>> GrayscaleSqueezer().fit_transform(X)
    array([[[[0.299, 0.299, 0.299],
             [0.701, 0.701, 0.701]]]])
    >>> GrayscaleSqueezer(keep_channels=False).fit_transform(X).shape
    (1, 1, 2, 1)
    """

    def __init__(
        self,
        *,
        image_shape: Any = None,
        channel_axis: int = -1,
        weights: Any = (0.299, 0.587, 0.114),
        keep_channels: bool = True,
        n_jobs: Any = None,
    ) -> None:
        self.image_shape = image_shape
        self.channel_axis = channel_axis
        self.weights = weights
        self.keep_channels = keep_channels
        self.n_jobs = n_jobs

    def _prepare(self, X: np.ndarray, layout: ImageLayout) -> ImageLayout:
        weights = self._checked_weights()
        check_flag(self, "keep_channels", self.keep_channels)
        n_channels = layout.unfolded[2]
        if n_channels not in (1, len(weights)):
            raise ValueError(
                f"GrayscaleSqueezer has {len(weights)} weights, but the images have "
                f"{n_channels} channels: pass one weight a channel, or the axis of the "
                f"channels if it is not channel_axis={self.channel_axis!r}."
            )
        self.weights_ = None if n_channels == 1 else weights
        if layout.channel_axis is None or self.keep_channels:
            return layout
        shape = list(layout.shape)
        shape[layout.channel_axis] = 1
        return replace(layout, shape=tuple(shape))

    def _checked_weights(self) -> np.ndarray:
        try:
            weights = np.array(self.weights, dtype=np.float64)
        except (TypeError, ValueError):
            weights = np.empty(0)
        ok = weights.ndim == 1 and np.isfinite(weights).all()
        if not (ok and (weights >= 0).all() and weights.sum() > 0):
            allowed = "a sequence of floats in [0, inf), one a channel, not all 0"
            raise invalid(self, "weights", allowed, self.weights)
        return weights / weights.sum()

    @property
    def _keeps_features(self) -> bool:
        return self.keep_channels

    def _squeeze_images(self, images: np.ndarray, out: np.ndarray) -> None:
        if self.weights_ is None:
            out[...] = images
        else:
            out[...] = luma(images, self.weights_)[..., None]
