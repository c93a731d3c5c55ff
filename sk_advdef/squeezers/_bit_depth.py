"""Fewer levels for each value."""

from __future__ import annotations

from typing import Any

import numpy as np

from sk_advdef._validation import check_number
from sk_advdef.squeezers._base import Squeezer
from sk_advdef.squeezers._levels import (
    RANGE_OF_UINT8,
    fitted_range,
    levels_of,
    warn_of_other_scale,
)


def byte_table(steps: int) -> np.ndarray:
    """Return what each byte is rounded to."""
    values = np.arange(256, dtype=np.float64)
    levels = levels_of(RANGE_OF_UINT8, steps)[values.dtype.name]
    numbers = levels.number(values, values, clip=False)
    return np.rint(levels.value(numbers, values)).astype(np.uint8)


class BitDepthSqueezer(Squeezer):
    """Round each value to one of ``2 ** bits`` even levels of its range.

    Values outside the range are clipped to it.

    Parameters
    ----------
    bits : int, default=4
        Number of bits that are kept, in [1, 16].
    value_range : tuple of (float, float) or None, default=None
        Smallest and largest value. None learns them in ``fit``: one pair a feature for
        rows, one pair for stacked images. Input of dtype uint8 always has the range
        (0, 255) and comes out as uint8.
    n_jobs : int or None, default=None
        Number of threads that share the rows, as in joblib. The result does not hang on
        it.

    Attributes
    ----------
    value_range_ : tuple of (float, float) or of two ndarrays of shape (n_features,)
        The range in use.
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
    **What an adaptive attacker does to it**: rounding has no useful gradient, which
    misleads attacks that rely on it without further thought. One who knows passes the
    gradient straight through (BPDA [2]_) or asks for scores only, and
    pushes values across the nearest threshold: a step of one level is larger than the
    change that caused it.

    References
    ----------
    .. [1] W. Xu, D. Evans, Y. Qi, "Feature Squeezing: Detecting Adversarial Examples
       in Deep Neural Networks", NDSS 2018, arXiv:1704.01155.
    .. [2] A. Athalye, N. Carlini, D. Wagner, "Obfuscated Gradients Give a False Sense
       of Security", ICML 2018, arXiv:1802.00420.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_advdef import BitDepthSqueezer
    >>> X = np.array([[0.0, 0.2, 0.6, 1.0]])
    >>> BitDepthSqueezer(bits=1, value_range=(0, 1)).fit_transform(X)
    array([[0., 0., 1., 1.]])
    """

    def __init__(
        self, bits: int = 4, *, value_range: Any = None, n_jobs: Any = None
    ) -> None:
        self.bits = bits
        self.value_range = value_range
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any = None) -> BitDepthSqueezer:
        """Learn the range of values.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or stacked images of shape \
                (n_samples, height, width[, n_channels])
            Rows or images.
        y : None
            Ignored.

        Returns
        -------
        self : BitDepthSqueezer
            The fitted squeezer.
        """
        check_number(self, "bits", self.bits, integer=True, low=1, high=16)
        X = self._validated(X, reset=True)
        self.value_range_ = fitted_range(self, X, per_feature=X.ndim == 2)
        self._steps = 2 ** int(self.bits) - 1
        self._levels = levels_of(self.value_range_, self._steps)
        self._table = byte_table(self._steps)
        self._shape_out = X.shape[1:]
        return self

    def _check_finite(self, X: np.ndarray) -> bool:
        """Do nothing: a look at the range tells, which is for ``_squeeze`` to take."""
        return False

    def _check_scale(self, X: np.ndarray) -> None:
        warn_of_other_scale(self, X)

    def _squeeze(self, X: np.ndarray, out: np.ndarray) -> None:
        if X.dtype == np.uint8:
            np.take(self._table, X, out=out, mode="clip")
        else:
            levels = self._levels[X.dtype.name]
            clip = not levels.hold(X)
            if clip:
                super()._check_finite(X)
            levels.value(levels.number(X, out, clip=clip), out)
