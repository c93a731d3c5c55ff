"""JPEG compression."""

from __future__ import annotations

from typing import Any

import numpy as np

from sk_advdef._images import ImageLayout
from sk_advdef._validation import check_number
from sk_advdef.squeezers._base import ImageSqueezer
from sk_advdef.squeezers._jpeg_codec import LONGEST_SIDE, pillow, recompressed
from sk_advdef.squeezers._levels import (
    fitted_range,
    levels_of,
    warn_of_other_scale,
)


class JpegSqueezer(ImageSqueezer):
    """Compress each image with JPEG and take it back.

    Values are clipped to their range, brought to the range of bytes, rounded, encoded
    and decoded by Pillow, and brought back. What comes back from bytes is byte for byte
    what Pillow gives for each image alone, with its defaults: colors are stored at half
    the resolution (4:2:0). It needs Pillow: ``pip install "sk_advdef[images]"``.

    Parameters
    ----------
    quality : int, default=75
        Quality of the JPEG as Pillow takes it, in [1, 100]. Above 95 files grow and
        little is gained; even 100 loses a little.
    value_range : tuple of (float, float) or None, default=None
        The values that black and white have. None learns one pair in ``fit``, the
        smallest and the largest value. Input of dtype uint8 always has the range
        (0, 255) and comes out as uint8.
    image_shape : "square", tuple of int or None, default=None
        Shape of the image in a row: ``(height, width)``, ``(height, width,
        n_channels)`` or, for signals, ``(n_features,)``. None takes stacked images
        as they are and rows as signals. A signal is compressed as a gray image of
        height 1. Images have one channel (gray) or three (RGB).
    channel_axis : int, default=-1
        Axis of the channels within one image of three axes.
    n_jobs : int or None, default=None
        Number of threads that share the rows, as in joblib. The result does not hang on
        it.

    Attributes
    ----------
    value_range_ : tuple of (float, float)
        The range in use.
    image_shape_ : tuple of int
        Shape of one image as it lies in ``X``.
    n_features_in_ : int
        Number of features seen in ``fit`` (for stacked images, their first axis).
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen in ``fit``, where ``X`` has names that are all strings.

    See Also
    --------
    BitDepthSqueezer : Lower the number of levels of each value.
    BlurSqueezer : Smooth with a Gaussian.

    Notes
    -----
    **What an adaptive attacker does to it**: rounding of coefficients has no useful
    gradient, but all around it is linear. One who knows passes the gradient straight
    through the whole (BPDA [2]_), or goes through the transform with a soft rounding of
    its coefficients [3]_, or asks for scores only.

    References
    ----------
    .. [1] G. Dziugaite, Z. Ghahramani, D. Roy, "A Study of the Effect of JPG
       Compression on Adversarial Images", 2016, arXiv:1608.00853.
    .. [2] A. Athalye, N. Carlini, D. Wagner, "Obfuscated Gradients Give a False Sense
       of Security", ICML 2018, arXiv:1802.00420.
    .. [3] R. Shin, D. Song, "JPEG-resistant Adversarial Images", NIPS 2017 Workshop on
       Machine Learning and Computer Security.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_advdef import JpegSqueezer
    >>> X = np.array([[0.5, 0.5, 0.6, 0.5, 0.5]])
    >>> JpegSqueezer(quality=50, value_range=(0, 1)).fit_transform(X).round(2)
    array([[0.51, 0.51, 0.6 , 0.51, 0.48]])
    >>> JpegSqueezer(quality=10, value_range=(0, 1)).fit_transform(X).round(2)
    array([[0.5, 0.5, 0.5, 0.5, 0.5]])
    """

    # each block takes several calls of Pillow
    _block = 1 << 21

    def __init__(
        self,
        quality: int = 75,
        *,
        value_range: Any = None,
        image_shape: Any = None,
        channel_axis: int = -1,
        n_jobs: Any = None,
    ) -> None:
        self.quality = quality
        self.value_range = value_range
        self.image_shape = image_shape
        self.channel_axis = channel_axis
        self.n_jobs = n_jobs

    def _prepare(self, X: np.ndarray, layout: ImageLayout) -> ImageLayout:
        check_number(self, "quality", self.quality, integer=True, low=1, high=100)
        pillow()
        *sides, channels = layout.unfolded
        if channels not in (1, 3):
            raise ValueError(
                "JpegSqueezer takes gray images (one channel or none) and RGB images "
                f"(three channels). Got {channels} channels in images of shape "
                f"{layout.shape}; channel_axis={self.channel_axis} tells where they "
                "are."
            )
        if max(sides) > LONGEST_SIDE:
            raise ValueError(
                f"JPEG stores sides of at most {LONGEST_SIDE} pixels. Got images of "
                f"shape {layout.shape}."
            )
        self.value_range_ = fitted_range(self, X, per_feature=False)
        self._levels = levels_of(self.value_range_, 255)
        return layout

    def _check_scale(self, X: np.ndarray) -> None:
        warn_of_other_scale(self, X)

    def _squeeze_images(self, images: np.ndarray, out: np.ndarray) -> None:
        quality = int(self.quality)
        if images.dtype == np.uint8:
            out[...] = recompressed(images, quality)
            return
        levels = self._levels[images.dtype.name]
        numbers = levels.number(images, out, clip=not levels.hold(images))
        numbers = numbers.astype(np.uint8)
        levels.value(recompressed(numbers, quality), out)
