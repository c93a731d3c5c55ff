"""Fewer levels for each value."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sk_advdef._validation import check_number, check_range
from sk_advdef.squeezers._base import Squeezer

RANGE_OF_UINT8 = (0.0, 255.0)


def quantize(X: Any, low: Any, scale: Any, steps: int) -> Any:
    """Round ``X``, clipped to [low, low + scale], to ``steps + 1`` even levels."""
    unit = np.clip((X - low) / np.where(scale > 0, scale, 1), 0, 1)
    return np.rint(unit * steps) / steps * scale + low


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

    def __init__(self, bits: int = 4, *, value_range: Any = None) -> None:
        self.bits = bits
        self.value_range = value_range

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
        if self.value_range is not None:
            value_range = check_range(self, "value_range", self.value_range)
        X = self._validated(X, reset=True)
        if X.dtype == np.uint8:
            self.value_range_ = RANGE_OF_UINT8
        elif self.value_range is not None:
            self.value_range_ = value_range
        elif X.ndim == 2:
            self.value_range_ = (X.min(axis=0), X.max(axis=0))
        else:
            self.value_range_ = (float(X.min()), float(X.max()))
        self._steps = 2 ** int(self.bits) - 1
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Round each value of ``X`` to the nearest level.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or stacked images of shape \
                (n_samples, height, width[, n_channels])
            Rows or images, of the shape given to ``fit``.

        Returns
        -------
        X_squeezed : ndarray
            The rounded values, of the dtype of ``X``.
        """
        check_is_fitted(self, "value_range_")
        X = self._validated(X, reset=False)
        is_uint8 = X.dtype == np.uint8
        dtype = np.float32 if is_uint8 else X.dtype
        value_range = RANGE_OF_UINT8 if is_uint8 else self.value_range_
        low, high = (np.asarray(v, dtype=dtype) for v in value_range)
        squeezed = quantize(X.astype(dtype, copy=False), low, high - low, self._steps)
        squeezed = np.clip(squeezed, low, high)
        if is_uint8:
            squeezed = np.rint(squeezed).astype(np.uint8)
        return squeezed
