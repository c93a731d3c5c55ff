"""Lower resolution by area averaging."""

from __future__ import annotations

from typing import Any

from sk_advdef._images import sides_of
from sk_advdef._validation import check_flag, check_number, invalid
from sk_advdef.squeezers._base import SeparableSqueezer
from sk_advdef.squeezers._names import NamesByWidth
from sk_advdef.squeezers._operators import area_matrix


class Downscaler(NamesByWidth, SeparableSqueezer):
    """Lower the resolution of images or signals.

    Each cell of the smaller image is the mean of the area that it covers, and with
    ``restore=True`` the image is brought back to its size in the same way, so that
    whatever is learned on the original size still fits. Averaging over areas leaves no
    pixel out; sampling of points would let an attacker write on just the points taken.

    Parameters
    ----------
    factor : float, default=0.5
        New size as a part of the old one, in (0, 1]. 1 changes nothing. Sizes are
        rounded and at least 1. Not used when ``size`` is given.
    size : int, tuple of int or None, default=None
        New size instead of a factor: ``(height, width)``, or one int for both (for
        signals, the length); at most the old size.
    restore : bool, default=True
        Whether to scale back up to the old size.
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
    size_ : tuple of int
        Height and width of the smaller image (for signals the height is 1).
    n_features_in_ : int
        Number of features seen in ``fit`` (for stacked images, their first axis).
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen in ``fit``, where ``X`` has names that are all strings.

    See Also
    --------
    BlurSqueezer : Smooth with a Gaussian.
    BitDepthSqueezer : Lower the number of levels of each value.

    Notes
    -----
    **What an adaptive attacker does to it**: area averaging is linear, so its gradient
    is exact and an attack simply goes through it. What is lost is the part of a change
    that lies within one cell; an attacker who knows the cells spends nothing on it.

    References
    ----------
    .. [1] W. Xu, D. Evans, Y. Qi, "Feature Squeezing: Detecting Adversarial Examples
       in Deep Neural Networks", NDSS 2018, arXiv:1704.01155.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_advdef import Downscaler
    >>> X = np.array([[0.0, 1.0, 2.0, 4.0]])
    >>> Downscaler(factor=0.5).fit_transform(X)
    array([[0.5, 0.5, 3. , 3. ]])
    >>> Downscaler(factor=0.5, restore=False).fit_transform(X)
    array([[0.5, 3. ]])
    """

    def __init__(
        self,
        factor: float = 0.5,
        *,
        size: Any = None,
        restore: bool = True,
        image_shape: Any = None,
        channel_axis: int = -1,
        n_jobs: Any = None,
    ) -> None:
        self.factor = factor
        self.size = size
        self.restore = restore
        self.image_shape = image_shape
        self.channel_axis = channel_axis
        self.n_jobs = n_jobs

    def _axis_operators(self, height: int, width: int, signal: bool) -> tuple[Any, Any]:
        check_flag(self, "restore", self.restore)
        self.size_ = self._new_size(height, width, signal)
        return tuple(
            self._operator(length, new)
            for length, new in zip((height, width), self.size_, strict=True)
        )

    def _operator(self, length: int, new: int) -> Any:
        if length == new:
            return None
        down = area_matrix(length, new)
        return area_matrix(new, length) @ down if self.restore else down

    def _new_size(self, height: int, width: int, signal: bool) -> tuple[int, int]:
        factor = check_number(
            self, "factor", self.factor, low=0, high=1, closed="right"
        )
        if self.size is None:
            return max(1, round(height * factor)), max(1, round(width * factor))
        old = (width,) if signal else (height, width)
        asked = sides_of(self.size, len(old))
        if asked is None or any(s > m for s, m in zip(asked, old, strict=True)):
            sizes = f"{width}" if signal else f"({height}, {width})"
            allowed = (
                f"None, a positive int or a pair of them, at most the size {sizes} "
                "of the input"
            )
            raise invalid(self, "size", allowed, self.size)
        return (1 if signal else asked[0]), asked[-1]

    @property
    def _keeps_features(self) -> bool:
        return self.restore
