"""Gaussian smoothing."""

from __future__ import annotations

from typing import Any

from sk_advdef._validation import check_number
from sk_advdef.squeezers._base import SeparableSqueezer
from sk_advdef.squeezers._operators import gaussian_matrix


class BlurSqueezer(SeparableSqueezer):
    """Smooth images or signals with a Gaussian.

    Each value becomes a weighted mean of its neighborhood, which averages out small
    changes of single pixels. Borders are reflected; weights and border are those of
    :func:`scipy.ndimage.gaussian_filter`. Channels are smoothed one by one.

    Parameters
    ----------
    sigma : float, default=1.0
        Standard deviation of the Gaussian in pixels, in [0, inf). 0 changes nothing.
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
    n_features_in_ : int
        Number of features seen in ``fit`` (for stacked images, their first axis).
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen in ``fit``, where ``X`` has names that are all strings.

    See Also
    --------
    Downscaler : Lower the resolution.
    BitDepthSqueezer : Lower the number of levels of each value.

    Notes
    -----
    **What an adaptive attacker does to it**: a Gaussian blur is linear, so its
    gradient is exact and an attack simply goes through it. Against attackers who do
    that it gives next to nothing; it disturbs attacks that were made without it.

    References
    ----------
    .. [1] W. Xu, D. Evans, Y. Qi, "Feature Squeezing: Detecting Adversarial Examples
       in Deep Neural Networks", NDSS 2018, arXiv:1704.01155.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_advdef import BlurSqueezer
    >>> X = np.array([[0.0, 0.0, 1.0, 0.0, 0.0]])
    >>> BlurSqueezer(sigma=0.5).fit_transform(X).round(3)
    array([[0.   , 0.106, 0.787, 0.106, 0.   ]])
    """

    def __init__(
        self,
        sigma: float = 1.0,
        *,
        image_shape: Any = None,
        channel_axis: int = -1,
        n_jobs: Any = None,
    ) -> None:
        self.sigma = sigma
        self.image_shape = image_shape
        self.channel_axis = channel_axis
        self.n_jobs = n_jobs

    def _axis_operators(self, height: int, width: int, signal: bool) -> tuple[Any, Any]:
        sigma = check_number(self, "sigma", self.sigma, low=0)
        if sigma == 0:
            return None, None
        down = gaussian_matrix(height, sigma) if height > 1 else None
        return down, gaussian_matrix(width, sigma)
