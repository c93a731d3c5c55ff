"""Median smoothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sk_advdef._images import ImageLayout, sides_of
from sk_advdef._validation import invalid
from sk_advdef.squeezers._base import ImageSqueezer
from sk_advdef.squeezers._median_filter import median_filter

#: Values of a window; all of them are looked at for each pixel.
LARGEST_WINDOW = 1 << 24


class MedianSqueezer(ImageSqueezer):
    """Replace each value by the median of its neighborhood.

    Single pixels that stand out disappear, however far they are off, and edges stay.
    Borders are reflected; the values are those of :func:`scipy.ndimage.median_filter`
    with ``mode="reflect"``. Channels are smoothed one by one.

    Parameters
    ----------
    window_size : int or tuple of (int, int), default=3
        Sides of the window in pixels, ``(height, width)`` or one int for both (for
        signals, the length), each in [1, inf). 1 changes nothing. A window with an even
        side reaches one pixel further up or left than down or right, and of the two
        values in the middle of an even number the larger is taken.
    image_shape : "square", tuple of int or None, default=None
        Shape of the image in a row: ``(height, width)``, ``(height, width,
        n_channels)`` or, for signals, ``(n_features,)``. None takes stacked images
        as they are and rows as signals.
    channel_axis : int, default=-1
        Axis of the channels within one image of three axes.
    n_jobs : int or None, default=None
        Number of threads that share the rows, as in joblib. The result does not hang on
        it.

    Attributes
    ----------
    image_shape_ : tuple of int
        Shape of one image as it lies in ``X``.
    window_size_ : tuple of (int, int)
        Height and width of the window (for signals the height is 1).
    n_features_in_ : int
        Number of features seen in ``fit`` (for stacked images, their first axis).
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen in ``fit``, where ``X`` has names that are all strings.

    See Also
    --------
    BlurSqueezer : Smooth with a Gaussian.
    Downscaler : Lower the resolution.

    Notes
    -----
    **What an adaptive attacker does to it**: almost everywhere the median is one of the
    pixels, and passes the gradient on to it, so an attack goes through as it would
    without the squeezer and moves just the pixels that are selected. Changes of few
    pixels a lot are taken back as long as each window holds fewer than half of them;
    one who knows this changes patches that fill half a window.

    Small windows are computed by a network of minima and maxima that all windows go
    through at once, larger ones by partial sorting, a block at a time.

    References
    ----------
    .. [1] W. Xu, D. Evans, Y. Qi, "Feature Squeezing: Detecting Adversarial Examples
       in Deep Neural Networks", NDSS 2018, arXiv:1704.01155.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_advdef import MedianSqueezer
    >>> X = np.array([[0.0, 0.0, 9.0, 0.0, 1.0, 1.0, 1.0]])
    >>> MedianSqueezer(window_size=3).fit_transform(X)
    array([[0., 0., 0., 1., 1., 1., 1.]])
    """

    # the more windows a step compares, the less it counts that there are many steps
    _block = 1 << 21

    def __init__(
        self,
        window_size: Any = 3,
        *,
        image_shape: Any = None,
        channel_axis: int = -1,
        n_jobs: Any = None,
    ) -> None:
        self.window_size = window_size
        self.image_shape = image_shape
        self.channel_axis = channel_axis
        self.n_jobs = n_jobs

    def _prepare(self, X: np.ndarray, layout: ImageLayout) -> ImageLayout:
        n_sides = len(layout.spatial_axes)
        sides = sides_of(self.window_size, n_sides)
        if sides is None:
            pair = " or a pair (height, width) of them" if n_sides == 2 else ""
            raise invalid(
                self, "window_size", f"an int in [1, inf){pair}", self.window_size
            )
        if math.prod(sides) > LARGEST_WINDOW:
            allowed = f"of at most {LARGEST_WINDOW} values"
            raise invalid(self, "window_size", allowed, self.window_size)
        self.window_size_ = (sides[0] if n_sides == 2 else 1), sides[-1]
        return layout

    def _squeeze_images(self, images: np.ndarray, out: np.ndarray) -> None:
        median_filter(images, self.window_size_, out)
