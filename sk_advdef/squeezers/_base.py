"""What the squeezers share: reading images out of ``X`` and putting them back."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from sk_advdef._base import Stamped
from sk_advdef._images import resolve_layout
from sk_advdef.squeezers._operators import apply_along


class Squeezer(OneToOneFeatureMixin, TransformerMixin, Stamped):
    """Rows or stacked images in, the same with less precision out.

    float32 stays float32, float64 stays float64, uint8 stays uint8; other kinds of
    numbers become float64.
    """

    _sample_shape: tuple[int, ...]

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags of this estimator."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.input_tags.three_d_array = True
        return tags

    def _validated(self, X: Any, *, reset: bool) -> np.ndarray:
        X = validate_data(
            self,
            X,
            reset=reset,
            allow_nd=True,
            dtype=[np.float64, np.float32, np.uint8],
        )
        if not reset and tuple(X.shape[1:]) != self._sample_shape:
            raise ValueError(
                f"X has samples of shape {tuple(X.shape[1:])}, but "
                f"{type(self).__name__} is expecting the shape {self._sample_shape} "
                "that it was fitted on."
            )
        if reset:
            self._sample_shape = tuple(X.shape[1:])
        return X


class SeparableSqueezer(Squeezer):
    """A linear operator along the height and one along the width."""

    image_shape: Any
    channel_axis: Any

    def _axis_operators(self, height: int, width: int, signal: bool) -> tuple[Any, Any]:
        raise NotImplementedError

    def fit(self, X: Any, y: Any = None) -> Any:
        """Learn the shape of the images and prepare the operators.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or stacked images of shape \
                (n_samples, height, width[, n_channels])
            Rows or images. Their values are not used.
        y : None
            Ignored.

        Returns
        -------
        self : object
            The fitted squeezer.
        """
        X = self._validated(X, reset=True)
        layout = resolve_layout(self, X.shape, self.image_shape, self.channel_axis)
        height, width, _ = layout.unfolded
        signal = len(layout.shape) == 1
        self._operators = self._axis_operators(height, width, signal)
        self._layout = layout
        self.image_shape_ = layout.shape
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return ``X`` with less precision.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or stacked images of shape \
                (n_samples, height, width[, n_channels])
            Rows or images, of the shape given to ``fit``.

        Returns
        -------
        X_squeezed : ndarray
            The squeezed input, of the dtype of ``X``; never ``X`` itself.
        """
        check_is_fitted(self, "image_shape_")
        X = self._validated(X, reset=False)
        # Errors of rounding differ between batches and must not decide where a byte
        # is rounded to: bytes are computed in double precision, and ties are cleaned.
        dtype = np.float64 if X.dtype == np.uint8 else X.dtype
        images = self._layout.unfold(X.astype(dtype, copy=True))
        for axis, operator in zip((1, 2), self._operators, strict=True):
            if operator is not None:
                images = apply_along(operator.astype(dtype), images, axis)
        squeezed = self._layout.fold(images)
        if X.dtype == np.uint8:
            squeezed = np.rint(np.round(squeezed, 6))
            squeezed = np.clip(squeezed, 0, 255).astype(np.uint8)
        return np.ascontiguousarray(squeezed)
